"""Formats of `dpgen2-sm export --data`, written by dpdata and ASE.

All but deepmd/npy put a folder of the dataset into one file (or folder) for each kind of frames: `000001`,
`000001.novirial`, `000001.nopbc.novirial`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from conventions.errors import ConfigError

from .labelled import System

Written = list[tuple[Path, System]]  # where each system is, in the order of its frames there
Writer = Callable[[Iterable[System], Path], Written]


def npy(systems: Iterable[System], target: Path) -> Written:
    """deepmd/npy: a folder for each system, in double precision."""
    import numpy as np

    written = []
    for system in systems:
        path = target / system.name
        system.data.to("deepmd/npy", str(path), set_size=max(1, len(system.data)), prec=np.float64)
        written.append((path, system))
    return written


def mixed(systems: Iterable[System], target: Path) -> Written:
    """deepmd/npy/mixed: compositions of one number of atoms together."""
    import dpdata
    import numpy as np

    written = []
    for path, members in _by_kind(systems, target, ""):
        together = dpdata.MultiSystems(*(member.data for member in members))
        together.to("deepmd/npy/mixed", str(path), prec=np.float64)
        written += [(path / str(member.data.get_natoms()), member) for member in members]
    return written


def hdf5(systems: Iterable[System], target: Path) -> Written:
    """deepmd/hdf5: a group for each system."""
    import h5py

    written = []
    for path, members in _by_kind(systems, target, ".hdf5"):
        with h5py.File(path, "w") as file:
            for member in members:
                member.data.to("deepmd/hdf5", file.create_group(member.name))
        written += [(path, member) for member in members]
    return written


def extxyz(systems: Iterable[System], target: Path) -> Written:
    """Extended XYZ as ASE writes it: energy (eV), forces (eV/Angstrom), stress (eV/Angstrom^3, -virial / volume)."""
    import ase.io

    written = []
    for path, members in _by_kind(systems, target, ".extxyz"):
        frames = [atoms for member in members for atoms in member.data.to("ase/structure")]
        ase.io.write(path, frames, format="extxyz")
        written += [(path, member) for member in members]
    return written


def quip(systems: Iterable[System], target: Path) -> Written:
    """Extended XYZ as QUIP and GAP read it: also with the virial (eV)."""
    written = []
    for path, members in _by_kind(systems, target, ".xyz"):
        with open(path, "w") as stream:
            for member in members:
                try:
                    member.data.to("quip/gap/xyz", stream)
                except NotImplementedError:
                    raise ConfigError(
                        "--data quip/gap/xyz: this version of dpdata cannot write it: pip install -U dpdata"
                    ) from None
        written += [(path, member) for member in members]
    return written


def _by_kind(systems: Iterable[System], target: Path, suffix: str) -> Iterator[tuple[Path, list[System]]]:
    """Where the frames of each kind go: what is with and without virials, or cells, cannot be read from one file."""
    kinds: dict[str, list[System]] = {}
    for system in systems:
        data = system.data
        kind = (".nopbc" if data.nopbc else "") + ("" if data.has_virial() else ".novirial")
        kinds.setdefault(kind, []).append(system)
    target.parent.mkdir(parents=True, exist_ok=True)
    for kind, members in sorted(kinds.items()):
        yield target.with_name(f"{target.name}{kind}{suffix}"), members


WRITERS: dict[str, Writer] = {
    "deepmd/npy": npy,
    "deepmd/npy/mixed": mixed,
    "deepmd/hdf5": hdf5,
    "extxyz": extxyz,
    "quip/gap/xyz": quip,
}
