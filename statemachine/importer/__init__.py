"""Other programs' inputs, made into a configuration: `dpgen2-sm import`.

Here is what all dialects need; each dialect is a folder of its own.
"""
