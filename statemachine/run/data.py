"""What dpdata reads of the user's files: labelled data, and structures in formats that ASE does not know."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conventions.config import LabelledData
from conventions.errors import ConfigError, did_you_mean
from operators.sums import write_sums

from .paths import matches

FOLDERS = ("deepmd/npy", "deepmd/raw", "deepmd/comp", "deepmd")  # each system is a folder with type.raw


def load_data(data: LabelledData, base: Path, where: str, type_map: list[str]) -> dict[str, Any]:
    """Labelled data as dpdata's systems by name, one for each composition, all with the run's type_map.

    Where a composition has frames with and without virial, or with and without periodic boundaries, they are systems
    of their own, as labels are (`Cu32.novirial`).
    """
    import dpdata
    import numpy as np

    if data.format not in _formats():
        raise ConfigError(f"{where}.format: dpdata has no format {data.format!r}; {_nearest(data.format, _formats())}")
    kinds: dict[str, Any] = {}
    for path in matches(base, data.path, where):
        for part in _systems(path, data.format, where, type_map, labelled=True):
            for key in ("energies", "forces", "coords", "cells"):
                if key not in part.data:
                    raise ConfigError(f"{where}: {path.name} has no {key}")
                if not np.isfinite(part.data[key]).all():
                    raise ConfigError(f"{where}: {path.name} has {key} that are not finite numbers")
            kind = (".nopbc" if part.nopbc else "") + ("" if part.has_virial() else ".novirial")
            try:
                kinds.setdefault(kind, dpdata.MultiSystems(type_map=type_map)).append(part)
            except (RuntimeError, AssertionError) as error:
                raise ConfigError(
                    f"{where}: {path.name} does not fit the other data of its composition: {error}; give it a name of "
                    "its own in init"
                ) from None
    found: dict[str, Any] = {}
    for kind, systems in sorted(kinds.items()):
        for system in systems:
            name = system.short_name
            found[name + kind if name in found else name] = system
    if not any(system.get_nframes() for system in found.values()):
        raise ConfigError(f"{where}: {data.path!r} has no frames")
    return found


def write_data(systems: dict[str, Any], folder: Path) -> None:
    """Labelled data as the dataset holds them: DeePMD systems with the keys of their frames, and a list of sums."""
    from operators.frame_keys import write_keys

    for name, system in systems.items():
        system.to("deepmd/npy", str(folder / name))
        write_keys(folder / name)
    write_sums(folder)


def is_dpdatas(format: str | None, where: str) -> bool:
    """Is this the name of a format that dpdata reads, and ASE does not?

    Raises
    ------
    ConfigError
        When neither of them knows it.
    """
    from ase.io.formats import ioformats

    if format is None or format in ioformats:
        return False
    if format not in _formats():
        near = _nearest(format, {*ioformats, *_formats()})
        raise ConfigError(f"{where}.format: neither ASE nor dpdata has a format {format!r}; {near}")
    return True


def as_extxyz(path: Path, format: str, where: str, type_map: list[str]) -> bytes:
    """Structures that dpdata reads, as a file that ASE reads, to 1e-8 Angstrom."""
    import ase.io
    from ase import Atoms

    frames = []
    for part in _systems(path, format, where, type_map, labelled=False):
        symbols = [part.data["atom_names"][number] for number in part.data["atom_types"]]
        cells = [None if part.nopbc else cell for cell in part.data["cells"]]
        frames += [
            Atoms(symbols, positions, cell=cell, pbc=not part.nopbc)
            for positions, cell in zip(part.data["coords"], cells, strict=True)
        ]
    if not frames:
        raise ConfigError(f"{where}: {path.name} has no frames")
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue().encode()


def _systems(path: Path, format: str, where: str, type_map: list[str], *, labelled: bool) -> list[Any]:
    """Every system of a file or folder, with elements of type_map."""
    try:
        found = _read(path, format, type_map, labelled)
    except Exception as error:  # dpdata's readers raise whatever they meet
        raise ConfigError(
            f"{where}: dpdata cannot read {path.name} as {format}: {error or type(error).__name__}"
        ) from None
    if not found and format in FOLDERS:
        raise ConfigError(f"{where}: {path.name} holds no DeePMD system (no type.raw)")
    for part in found:
        names = [str(n) for n, c in zip(part.data["atom_names"], part.data["atom_numbs"], strict=True) if c]
        unknown = sorted(set(names) - set(type_map))
        if unknown and unknown[0].startswith("Type_"):
            raise ConfigError(
                f"{where}: {path.name} does not say which elements its types are: write a type_map.raw beside its "
                "type.raw, with the elements of types 0, 1, ... in this order"
            )
        if unknown:
            raise ConfigError(
                f"{where}: element {unknown[0]} of {path.name} is not in type_map ({', '.join(type_map)})"
            )
    return found


def _read(path: Path, format: str, type_map: list[str], labelled: bool) -> list[Any]:
    import dpdata
    from dpdata.system import load_format

    kind = dpdata.LabeledSystem if labelled else dpdata.System
    if "mixed" in format:
        mixed = load_format(format)
        items = mixed.from_labeled_system_mix if labelled else mixed.from_system_mix
        return [kind(data=item) for folder in mixed.from_multi_systems(str(path)) for item in items(folder)]
    # A LAMMPS file numbers its types; as in DP-GEN, in the order of type_map.
    more: dict[str, Any] = {"type_map": type_map} if format in ("lammps/lmp", "lmp", "lammps/dump", "dump") else {}
    paths = [raw.parent for raw in sorted(path.rglob("type.raw"))] if format in FOLDERS else [path]
    try:
        return [kind(str(each), fmt=format, **more) for each in paths]
    except NotImplementedError:  # of outputs that always have labels
        if labelled:
            raise
        return [dpdata.LabeledSystem(str(each), fmt=format, **more) for each in paths]


def _formats() -> set[str]:
    """Formats that dpdata reads from files."""
    from dpdata.format import Format

    reads = ("from_system", "from_labeled_system", "from_multi_systems")
    return {
        name
        for name, kind in Format.get_formats().items()
        if any(getattr(kind, method) is not getattr(Format, method) for method in reads)
    }


def _nearest(format: str, known: Sequence[str] | set[str]) -> str:
    near = did_you_mean(format, known)
    return near if near.startswith("did") else "such as deepmd/npy, deepmd/npy/mixed, vasp/outcar, abacus/stru"
