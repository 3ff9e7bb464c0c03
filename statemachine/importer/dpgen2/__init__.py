"""DPGEN2's dialect: the input.json of `dpgen2 submit`, also as version 0.0.5 had it.

`keys` has all keys as tables; each other file makes one part of a configuration.
"""
