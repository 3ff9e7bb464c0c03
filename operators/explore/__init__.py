"""The explore stage: one file a software."""
