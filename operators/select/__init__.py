"""The select stage: one file a software."""
