"""Where things are and what they look like: keys, names, documents. Pure: no I/O."""

__version__ = "0.1.0"
