"""DP-GEN's dialect: param.json and machine.json, also as versions before 0.10 had it.

`keys` has all keys as tables; each other file makes one part of a configuration.
"""
