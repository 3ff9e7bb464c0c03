"""ai2-kit's dialect: the YAML files of `ai2-kit workflow cll-mlp-training`, several of which make one input.

`keys` has all keys as tables; each other file makes one part of a configuration.
"""
