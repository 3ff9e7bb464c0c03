"""Task groups: which trajectories an exploration stage runs, as a person writes it; what all software has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from conventions.config import Name
from conventions.documents import Strict

# What follows the pressure, by ensemble: the volume, the three edges, the whole cell. As LAMMPS calls them.
COUPLING = {
    "npt": "iso",
    "npt-i": "iso",
    "npt-iso": "iso",
    "npt-a": "aniso",
    "npt-aniso": "aniso",
    "npt-t": "tri",
    "npt-tri": "tri",
}
Md = Literal["nve", "nvt", "npt", "npt-i", "npt-iso", "npt-a", "npt-aniso", "npt-t", "npt-tri"]
MD = "npt, npt-i, npt-iso: isotropic; npt-a, npt-aniso: three edges; npt-t, npt-tri: whole cell."
Positive = Annotated[float, Field(gt=0)]


class MdGroup(Strict):
    """Trajectories that are run together: a grid of temperatures and pressures."""

    structures: list[Name] = Field(min_length=1, description="Structure sets to start from.")
    start: Literal["files", "selected"] = Field(
        "files",
        description="selected: from the frames of these sets that select chose last, where there are some.",
    )
    n_sample: int | None = Field(
        None, ge=1, description="How many of their structures each iteration takes, in turn; default: all."
    )
    n_replica: int = Field(
        1, ge=1, le=10**4, description="Trajectories of each structure and choice of values; their velocities differ."
    )
    trj_freq: int = Field(10, ge=1, description="Steps between two frames, and between two rows of model deviation.")

    ensemble: str | None = None  # each software says which ones it has
    temps: list[Positive] | None = Field(None, min_length=1, description="Temperatures, K (nve: of the start).")
    press: list[float] | None = Field(None, min_length=1, description="Pressures, bar; only npt uses them.")
    nsteps: int | None = Field(None, ge=1, le=10**9, description="Steps of a trajectory.")
    dt: Positive = Field(0.001, description="Time step, ps.")
    tau_t: Positive = Field(0.1, description="Time constant of the thermostat, ps.")
    tau_p: Positive = Field(0.5, description="Time constant of the barostat, ps.")
    epsilon: Positive | None = Field(
        None,
        description="DP-GEN's use_relative with this epsilon: deviations of forces are divided by |F| + epsilon "
        "(eV/Angstrom), and have no unit then.",
    )
    epsilon_v: Positive | None = Field(
        None, description="The same for virials: divided by |virial per atom| + epsilon_v (eV)."
    )

    def check_md(self, instead: str = "") -> None:
        """Raise `ValueError` where the grid lacks something; `instead` is what else could be given."""
        missing = [name for name in ("ensemble", "temps", "nsteps") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given{instead}")
        if self.coupled and self.press is None:
            raise ValueError(f"press must be given for {self.ensemble}")
        self.check_length()

    @property
    def coupled(self) -> bool:
        """Does the pressure have an effect?"""
        return self.ensemble in COUPLING

    def check_length(self) -> None:
        """Raise `ValueError` where no frame would be written but the first."""
        if self.nsteps is not None and self.trj_freq > self.nsteps:
            raise ValueError(f"trj_freq {self.trj_freq} is more than nsteps {self.nsteps}: nothing would be explored")

    def replicas(self) -> list[dict[str, Any]]:
        """What is known of each trajectory of one structure: each variant, n_replica times."""
        return [variant for variant in self.variants() for _ in range(self.n_replica)]

    def variants(self) -> list[dict[str, Any]]:
        """What differs between the trajectories of one structure but the velocities, in a fixed order."""
        pressures: Sequence[float | None] = (self.press if self.coupled else None) or [None]
        return [{"temp": temp, "press": press} for temp in self.temps or [] for press in pressures]
