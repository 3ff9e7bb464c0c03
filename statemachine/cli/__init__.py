"""The command line `dpgen2-sm`: what people type, and what they are shown.

What may enter: arguments, help, tables, bars, exit codes. What a command does belongs to `run`, `daemon` or `store`.
"""

from .entry import main

__all__ = ["main"]
