"""Object stores behind one small protocol."""

from .base import Blob, Entry, Store, check_key, open_store

__all__ = ["Blob", "Entry", "Store", "check_key", "open_store"]
