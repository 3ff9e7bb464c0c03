"""The scripts that pods run: `job.sh` for a job of any software, `operator.sh` for an operator of ours.

`BATCH`, after two lines about the stage, hands jobs to a batch system instead.
"""

from importlib.resources import files


def _read(*names: str) -> str:
    return "\n".join(files("operators.pod").joinpath(name).read_text() for name in names)


JOB = _read("job.sh")
OPERATOR = _read("operator.sh")
BATCH = _read("batch_login.py", "batch_routes.py", "batch_live.py", "batch_waiter.py")


def is_batch(source: str) -> bool:
    """Does this script hand a job to a batch system?"""
    return source.endswith(BATCH)
