"""The two scripts that pods run: `job.sh` for a job of any software, `operator.sh` for an operator of ours."""

from importlib.resources import files

JOB = files("operators.pod").joinpath("job.sh").read_text()
OPERATOR = files("operators.pod").joinpath("operator.sh").read_text()
