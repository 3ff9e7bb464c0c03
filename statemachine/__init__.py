"""When it happens: the machine, the run that it advances, stores, engines, the daemon, the command line.

Rooms import downwards only: `cli -> daemon -> run -> engine -> store`, and `machine`, which is pure, below them all.
"""
