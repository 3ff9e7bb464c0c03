"""What dpdata reads of the user's files: labelled data, and structures in formats that ASE does not know."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conventions.config import LabelledData
from conventions.errors import ConfigError, did_you_mean
from operators.sums import write_sums

from .paths import matches
from .thinning import Thinning

FOLDERS = ("deepmd/npy", "deepmd/raw", "deepmd/comp", "deepmd")  # each system is a folder with type.raw
SHARED = ("qe/cp/traj",)  # several files, whose names begin alike


class Loaded(NamedTuple):
    """Labelled data: dpdata's systems by name, and what was left out of the files.

    Attributes
    ----------
    systems
        One for each composition, all with the run's type_map. Where a composition has frames with and without virial,
        or with and without periodic boundaries, they are systems of their own, as labels are (`Cu32.novirial`).
    read, repeated
        Frames that dpdata found, and how many of them were left out because an earlier one has the same structure.
    """

    systems: dict[str, Any]
    read: int
    repeated: int

    @property
    def told(self) -> str:
        """What is used, in words: `4 labelled frames`, or `4 of 40 labelled frames; ...`."""
        used = sum(map(len, self.systems.values()))
        words = f"{used} labelled frames" if used == self.read else f"{used} of {self.read} labelled frames"
        return words + (f"; {self.repeated} more have the structure of an earlier one" if self.repeated else "")


def load_data(data: LabelledData, base: Path, where: str, type_map: list[str]) -> Loaded:
    """The frames of labelled data that are asked for.

    Raises
    ------
    ConfigError
        When a file cannot be read, holds no or damaged labels, or does not fit the run.
    """
    import dpdata
    import numpy as np

    if data.format not in _formats():
        raise ConfigError(f"{where}.format: dpdata has no format {data.format!r}; {_nearest(data.format, _formats())}")
    thinning = Thinning(data.every, data.unique)
    kinds: dict[str, Any] = {}
    # dpdata knows a trajectory of cp.x by the name that its files share; a person may name its input instead.
    shared = data.format in SHARED and not data.path.endswith(".in")
    for path in matches(base, f"{data.path}.in" if shared else data.path, where):
        for parts in _files(path, data.format, where, type_map, labelled=True):
            for part in parts:
                _check_labels(part.data, f"{where}: {path.name}")
            try:
                parts = thinning.thin(parts)
            except np.linalg.LinAlgError:
                raise ConfigError(
                    f"{where}: {path.name} has a cell without volume, so frames cannot be compared; leave out `unique`"
                ) from None
            for part in parts:
                kind = (".nopbc" if part.nopbc else "") + ("" if part.has_virial() else ".novirial")
                try:
                    kinds.setdefault(kind, dpdata.MultiSystems(type_map=type_map)).append(part)
                except (RuntimeError, AssertionError) as error:
                    raise ConfigError(
                        f"{where}: {path.name} does not fit the other data of its composition: {error}; give it a name "
                        "of its own in init"
                    ) from None
    found: dict[str, Any] = {}
    for kind, systems in sorted(kinds.items()):
        for system in systems:
            name = system.short_name
            found[name + kind if name in found else name] = system
    if not found:
        raise ConfigError(f"{where}: {data.path!r} has no frames with labels; dpdata leaves out unconverged ones")
    return Loaded(found, thinning.read, thinning.repeated)


def _check_labels(data: dict[str, Any], where: str) -> None:
    import numpy as np

    for key in ("energies", "forces", "coords", "cells", "virials"):
        if key not in data:
            if key == "virials":
                continue
            raise ConfigError(f"{where} has no {key}")
        values = np.asarray(data[key])
        # Where an output has no energy, as of an SCF that did not converge, some readers give None.
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ConfigError(f"{where} has {key} that are not finite numbers")


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
    for part in itertools.chain.from_iterable(_files(path, format, where, type_map, labelled=False)):
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


def _files(path: Path, format: str, where: str, type_map: list[str], *, labelled: bool) -> list[list[Any]]:
    """dpdata's systems with elements of type_map, of a file, or of each system below a folder of DeePMD's."""
    try:
        found = _read(path, format, type_map, labelled)
    except Exception as error:  # dpdata's readers raise whatever they meet
        raise ConfigError(
            f"{where}: dpdata cannot read {path.name} as {format}: {error or type(error).__name__}"
        ) from None
    if not found and format in FOLDERS:
        raise ConfigError(f"{where}: {path.name} holds no DeePMD system (no type.raw)")
    for part in itertools.chain.from_iterable(found):
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


def _read(path: Path, format: str, type_map: list[str], labelled: bool) -> list[list[Any]]:
    import dpdata
    from dpdata.plugins.xyz import QuipGapXYZFormat
    from dpdata.system import load_format

    kind = dpdata.LabeledSystem if labelled else dpdata.System
    if "mixed" in format:
        mixed = load_format(format)
        items = mixed.from_labeled_system_mix if labelled else mixed.from_system_mix
        return [[kind(data=item) for item in items(folder)] for folder in mixed.from_multi_systems(str(path))]
    if isinstance(load_format(format), QuipGapXYZFormat):
        return [_alike(load_format(format).from_multi_systems(str(path)))]
    # A LAMMPS file numbers its types; as in DP-GEN, in the order of type_map.
    more: dict[str, Any] = {"type_map": type_map} if format in ("lammps/lmp", "lmp", "lammps/dump", "dump") else {}
    paths = [raw.parent for raw in sorted(path.rglob("type.raw"))] if format in FOLDERS else [path]
    names = [str(each).removesuffix(".in") if format in SHARED else str(each) for each in paths]
    try:
        return [[kind(name, fmt=format, **more)] for name in names]
    except NotImplementedError:  # of outputs that always have labels
        if labelled:
            raise
        return [[dpdata.LabeledSystem(name, fmt=format, **more)] for name in names]


def _alike(frames: Iterable[dict[str, Any]]) -> list[Any]:
    """Systems of an extended XYZ file, of which `LabeledSystem` takes the first frame: a system for each run of frames
    with the same atoms and labels.
    """
    import dpdata
    import numpy as np

    def atoms(frame: dict[str, Any]) -> tuple[Any, ...]:
        return (*map(str, frame["atom_names"]), *frame["atom_types"].tolist(), frame["nopbc"], "virials" in frame)

    found = []
    for _, group in itertools.groupby(frames, atoms):
        first, *rest = group
        per_frame = [key for key in ("cells", "coords", "energies", "forces", "virials") if key in first]
        merged: dict[str, Any] = {
            key: np.concatenate([first[key], *(frame[key] for frame in rest)]) for key in per_frame
        }
        found.append(dpdata.LabeledSystem(data={**first, **merged}))
    return found


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
