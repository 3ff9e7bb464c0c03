"""What a stage does: typed operators, the workflow builder, one folder a stage, one file a software."""
