"""One run: its record (`state.json` and history), its configuration, and the poller that advances it.

What may enter: what reads or changes a run in its store. Decisions belong to `machine`, timing to `daemon`. Each
command imports the module that it needs, since some are slow to import: `opening` finds a run by its name.
"""
