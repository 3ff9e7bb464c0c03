"""The label stage: one file a software."""
