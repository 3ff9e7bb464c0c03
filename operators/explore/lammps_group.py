"""Task groups of explore/lammps: an MD grid, or the user's own template with the combinations of its values."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from pydantic import Field, model_validator

from conventions.config import UserFile
from conventions.forms import IDENTIFIER

from .lammps_input import CONF, INPUT, PLUMED, SEED
from .lammps_log import LOG
from .task_group import MD, Md, MdGroup
from .trajectory import MODEL_DEVI, TRAJECTORY

_MD = ("ensemble", "temps", "press", "nsteps", "dt", "tau_t", "tau_p", "epsilon", "epsilon_v")
_TEMPLATE = ("plumed", "files", "revisions")
# Files of a task's folder that are not the user's.
_OURS = frozenset({CONF, INPUT, PLUMED, MODEL_DEVI, TRAJECTORY, LOG, "output.plumed", "task.json"})


class TaskGroup(MdGroup):
    """Trajectories that are run together: an MD grid (ensemble, temps, press, ...), or the user's own template."""

    ensemble: Md | None = Field(None, description=MD)
    template: UserFile | None = Field(
        None,
        description="The user's own in.lammps. Its lines pair_style deepmd, pair_coeff, read_data, dump dpgen_dump and "
        "fix dpgen_plm are filled in; V_SEED becomes a seed of each task's own.",
    )
    plumed: UserFile | None = Field(None, description="The PLUMED input that goes with the template.")
    files: list[UserFile] = Field(
        [], description="Further files that the template reads, by their own names: COLVARS, tables, ..."
    )
    revisions: dict[
        Annotated[str, Field(pattern=IDENTIFIER)],
        Annotated[list[int | float | str], Field(min_length=1)],
    ] = Field({}, description="Names in template and plumed, and the values that replace them; all combinations run.")

    @model_validator(mode="after")
    def _one_kind(self) -> TaskGroup:
        other, here = (_MD, "with a template these are the template's own") if self.template else (_TEMPLATE, "")
        given = [name for name in other if getattr(self, name) != type(self).model_fields[name].default]
        if given:
            raise ValueError(
                f"remove {', '.join(given)}: {here or 'it goes with a template, and template is not given'}"
            )
        if self.template:
            if SEED in self.revisions:
                raise ValueError(f"revisions: {SEED} is filled in by itself; remove it")
            self._check_names()
            return self
        self.check_md(" (or a template)")
        return self

    def _check_names(self) -> None:
        names = [file.name for file in self.files]
        for file in self.files:
            if not file.keeps_name:
                raise ValueError(f"files: {file.name}: use letters, digits, '.', '_', '-' in its name")
            if file.name in _OURS or file.name.startswith("graph."):
                raise ValueError(f"files: {file.name} is a name that the run itself uses; rename the file")
            if names.count(file.name) > 1:
                raise ValueError(f"files: {file.name} is given {names.count(file.name)} times")

    def variants(self) -> list[dict[str, Any]]:
        """{temp, press}, or {revisions} of a template."""
        if not self.template:
            return super().variants()
        choices = itertools.product(*self.revisions.values())
        return [{"revisions": dict(zip(self.revisions, values, strict=True))} for values in choices]
