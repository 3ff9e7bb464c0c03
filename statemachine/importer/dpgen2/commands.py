"""DPGEN2's commands: one line of shell, of which the program becomes `command`, and what is before it `setup`."""

from __future__ import annotations

import re

from ..dispatcher import command_of
from ..draft import Draft
from ..source import Section

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*=(?:'[^']*'|\"[^\"]*\"|\S*))\s+")
_RESTART = re.compile(r"\s+-v(?:ar)?\s+restart\s+\S+")  # a variable of LAMMPS' input as DPGEN2 once wrote it


def put_command(source: Section, stage: str, draft: Draft) -> None:
    """The stage's command and setup."""
    text = source.text("command")
    if not text or not text.strip():
        if "command" in source:
            source.drop("command", "empty")
        return
    setup, program = split(text)
    origin = source.at("command")
    draft.put(f"{stage}.command", program, origin)
    if setup:
        draft.put(f"{stage}.setup", [*draft.config[stage].get("setup", []), *setup], origin)
        draft.put(f"{stage}.shell", "bash", "")
        source.change("command", "what is before the program is setup")
    elif program != text.strip():
        source.change("command", "without its arguments and redirections, which are the run's")


def split(text: str) -> tuple[list[str], str]:
    """Lines before the program, and the program.

    >>> split("source env.sh && OMP_NUM_THREADS=1 mpirun -n 16 vasp_std > log")
    (['source env.sh', 'export OMP_NUM_THREADS=1'], 'mpirun -n 16 vasp_std')
    >>> split("lmp -var restart 0")
    ([], 'lmp')
    """
    parts = [part.strip() for part in re.split(r"&&|;|\n", text) if part.strip()]
    setup, program = parts[:-1], parts[-1]
    while found := _ASSIGNMENT.match(program):
        setup.append(f"export {found[1]}")
        program = program[found.end() :]
    return setup, command_of(_RESTART.sub("", program))
