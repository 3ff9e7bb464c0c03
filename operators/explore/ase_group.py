"""Task groups of explore/ase: an MD grid, or a relaxation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from .task_group import COUPLING, MD, Md, MdGroup, Positive

_MD = ("temps", "n_replica", "dt", "tau_t", "tau_p", "thermostat")
_RELAX = ("relax_cell", "fmax")


class AseGroup(MdGroup):
    """Trajectories that are run together: an MD grid (ensemble, temps, press, ...), or relaxations."""

    ensemble: Md | Literal["relax"] = Field(description=f"{MD[:-1]}; relax: to a minimum of the energy, without temps.")
    thermostat: Literal["nose-hoover", "langevin"] = Field("nose-hoover", description="Of nvt; npt has Nose-Hoover's.")
    relax_cell: bool = Field(False, description="relax: the cell too, at `press` (bar; default 0).")
    fmax: Positive = Field(0.05, description="relax: ends when no force is larger, eV/Angstrom, or after nsteps.")

    @model_validator(mode="after")
    def _consistent(self) -> AseGroup:
        relax = self.ensemble == "relax"
        given = [
            name for name in (_MD if relax else _RELAX) if getattr(self, name) != type(self).model_fields[name].default
        ]
        if given:
            raise ValueError(f"remove {', '.join(given)}: {'relax does not use it' if relax else 'only relax uses it'}")
        if self.thermostat == "langevin" and self.ensemble != "nvt":
            raise ValueError(f"thermostat langevin goes with ensemble nvt, not {self.ensemble}; remove it")
        if not relax:
            self.check_md()
            return self
        if self.nsteps is None:
            raise ValueError("nsteps must be given: the most steps of a relaxation")
        if self.press is not None and not self.relax_cell:
            raise ValueError("press goes with relax_cell: true; add that, or remove press")
        self.check_length()
        return self

    @property
    def coupled(self) -> bool:
        return super().coupled or self.relax_cell

    @property
    def method(self) -> str:
        """What `ase_md.py` calls it."""
        if self.ensemble == "relax":
            return "relax_cell" if self.relax_cell else "relax"
        return "langevin" if self.thermostat == "langevin" else COUPLING.get(self.ensemble, self.ensemble)

    def variants(self) -> list[dict[str, Any]]:
        if self.ensemble != "relax":
            return super().variants()
        pressures: Sequence[float | None] = self.press or [None]
        return [{"temp": None, "press": press} for press in pressures]
