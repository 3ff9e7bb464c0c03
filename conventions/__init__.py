"""Where things are and what they look like: keys, names, documents. Pure: no I/O."""
