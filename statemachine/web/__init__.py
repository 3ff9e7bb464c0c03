"""Pages that show runs in a browser: an overview, live reports, jobs, logs, downloads.

What may enter: what is read of runs for people who look, how it is shown, and the server that sends it. Pages only
read; nothing here advances a run.
"""
