"""A process that advances several runs: timing, hints, health and metrics.

What may enter: when to look at a run, and what is served over HTTP. How a run advances belongs to `run`; `serve` is
the way in.
"""
