"""The train stage: one file a software."""
