"""The user's `setup` lines, as every run.sh begins with them: one that fails ends the task, and is named.

`set -e` sees commands, also in scripts that a line reads; the trap sees what ends the shell itself: a syntax error, `.`
of a file that is not there, `exit`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from conventions.config import RunConfig, StageConfig
from conventions.secrets import looks_like_key

SETUP_FAILED = 78  # a task's code where a line of its setup failed
SAID = "error: the setup line "  # how its log ends then
_LONGEST = 120

# With an argument, since sh may be bash in its POSIX mode; setup sees no argument.
_BASH = f"""\
if [ "${{1:-}}" != bash ]; then
  command -v bash >/dev/null || {{
    echo "{SAID}was not run: shell is bash, and there is no bash here"
    exit {SETUP_FAILED}
  }}
  exec bash "$0" bash
fi
shift
"""
_BEGIN = f"""\
setup_ended() {{
  code=$?
  [ -n "$setup_line" ] || return
  printf "{SAID}'%s' ended with exit code %s\\n" "$setup_line" "$code"
  exit {SETUP_FAILED}
}}
setup_line=
trap setup_ended EXIT
"""
# `module` is a function, which gets lost on the way through sh.
_MODULES = """\
command -v module >/dev/null || for file in "${MODULESHOME:-}"/init/bash /etc/profile.d/*mod*.sh; do
  # shellcheck disable=SC1090
  [ ! -r "$file" ] || . "$file"
done
"""
_END = """\
setup_line=
set +e
"""
_ONLY_BASH = {"source": "write `. FILE` (`. ./FILE` for one in the job's folder), or set {stage}.shell: bash"}
_ONLY_BASH |= dict.fromkeys(("module", "ml"), "set {stage}.shell: bash")
_COMMAND = re.compile(r"(?:^|[;&|({!]|\b(?:then|else|do)\b)\s*(source|module|ml)\s", re.MULTILINE)


def with_setup(stage: StageConfig, run: str) -> str:
    """run.sh: the stage's setup, then `run`, in the stage's shell."""
    lines = [f"setup_line={shlex.quote(_shown(line))}\n{line}\n" for line in stage.setup]
    modules = _MODULES if any(word != "source" for line in stage.setup for word in _only_bash(line)) else ""
    setup = "".join([_BEGIN, modules, "set -e\n", *lines, _END]) if lines else ""
    return (_BASH if stage.shell == "bash" else "") + setup + run


def check_setup(config: RunConfig) -> list[str]:
    """Setup lines that need bash, where the shell is sh."""
    return [
        f"{name}.setup.{number}: `{word}` is not known to every sh; {_ONLY_BASH[word].format(stage=name)}"
        for name, stage in config.stages.items()
        for number, line in enumerate(stage.setup)
        for word in dict.fromkeys(_only_bash(line))
        if stage.shell == "sh"
    ]


def _only_bash(line: str) -> Iterator[str]:
    return (match[1] for match in _COMMAND.finditer(f"{line}\n"))


def _shown(line: str) -> str:
    """A line as a log may show it: short, and without the value of what looks like a secret."""
    hidden = re.sub(
        r"""(\w+)=('[^']*'|"[^"]*"|\S+)""",
        lambda match: f"{match[1]}=..." if looks_like_key(match[1]) else match[0],
        " ".join(line.split()),
    )
    return hidden if len(hidden) <= _LONGEST else f"{hidden[: _LONGEST - 3]}..."
