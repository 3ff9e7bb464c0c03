"""Where a run's objects are kept: one protocol (`base`), one file per store, one contract test for all.

What may enter: ways to keep and move objects, and checks of a store. Nothing that knows what an object means.
"""

from .base import Blob, Entry, Store, check_key
from .mirror import Mirror
from .opening import local_folder, open_store, prefix_url

__all__ = ["Blob", "Entry", "Mirror", "Store", "check_key", "local_folder", "open_store", "prefix_url"]
