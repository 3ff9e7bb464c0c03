"""How an app reads a task that runs now. Imports nothing: commands that only look import it."""

from collections.abc import Callable

# The beginning and the end of a file of the task, by its name; "" or None for one that cannot be seen.
Read = Callable[[str], str | None]
TASK_LOG = "/log"  # what the task has printed: no file has that name
