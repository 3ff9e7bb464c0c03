"""The stage `train`: a committee of models from all labelled data. One file a software.

`dp_model` runs inside a job, beside the software.
"""
