"""What a stage does: typed operators, the apps (one file a software), the way from an app to a workflow.

`core` is the form of an operator, `registry` says which apps there are, `jobs`, `sums` and `structures` are what every
stage's plan and reduce use. Nothing here knows a run's state, or when anything happens.
"""
