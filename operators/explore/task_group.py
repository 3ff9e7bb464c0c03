"""Task groups: which trajectories an exploration stage runs, as a person writes it, and the combinations of values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from conventions.config import Name, UserFile
from conventions.documents import Strict
from conventions.forms import IDENTIFIER

from .lammps_input import COUPLING, SEED

Positive = Annotated[float, Field(gt=0)]
_MD = ("ensemble", "temps", "press", "nsteps", "dt", "tau_t", "tau_p")
_TEMPLATE = ("plumed", "revisions")


class TaskGroup(Strict):
    """Trajectories that are run together: an MD grid (ensemble, temps, press, ...), or the user's own template."""

    structures: list[Name] = Field(min_length=1, description="Structure sets to start from.")
    n_sample: int | None = Field(
        None, ge=1, description="How many of their structures each iteration takes, in turn; default: all."
    )
    trj_freq: int = Field(10, ge=1, description="Steps between two frames, and between two rows of model deviation.")

    ensemble: Literal["nve", "nvt", "npt", "npt-i", "npt-iso", "npt-a", "npt-aniso", "npt-t", "npt-tri"] | None = Field(
        None, description="npt, npt-i, npt-iso: isotropic; npt-a, npt-aniso: three edges; npt-t, npt-tri: whole cell."
    )
    temps: list[Positive] | None = Field(None, min_length=1, description="Temperatures, K (nve: of the start).")
    press: list[float] | None = Field(None, min_length=1, description="Pressures, bar; only npt uses them.")
    nsteps: int | None = Field(None, ge=1, le=10**9, description="Steps of a trajectory.")
    dt: Positive = Field(0.001, description="Time step, ps.")
    tau_t: Positive = Field(0.1, description="Time constant of the thermostat, ps.")
    tau_p: Positive = Field(0.5, description="Time constant of the barostat, ps.")

    template: UserFile | None = Field(
        None,
        description="The user's own in.lammps. Its lines pair_style deepmd, pair_coeff, read_data, dump dpgen_dump and "
        "fix dpgen_plm are filled in; V_SEED becomes a seed of each task's own.",
    )
    plumed: UserFile | None = Field(None, description="The PLUMED input that goes with the template.")
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
            return self
        missing = [name for name in ("ensemble", "temps", "nsteps") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given (or a template)")
        if self.ensemble in COUPLING and self.press is None:
            raise ValueError(f"press must be given for {self.ensemble}")
        if self.nsteps is not None and self.trj_freq > self.nsteps:
            raise ValueError(f"trj_freq {self.trj_freq} is more than nsteps {self.nsteps}: nothing would be explored")
        return self


def grid(group: TaskGroup) -> list[dict[str, Any]]:
    """What differs between the trajectories of one structure: {temp, press} or {revisions}, in a fixed order."""
    if group.template:
        choices = itertools.product(*group.revisions.values())
        return [{"revisions": dict(zip(group.revisions, values, strict=True))} for values in choices]
    pressures: Sequence[float | None] = (group.press if group.ensemble in COUPLING else None) or [None]
    return [{"temp": temp, "press": press} for temp in group.temps or [] for press in pressures]
