"""What all label apps share: which frames to label, judging labels, and the dataset that comes of them.

Every task's folder holds `frames.json`, the frames it labels. all_reduce takes cells and positions from there,
never from the software's output, which rounds them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from conventions.config import RunConfig
from conventions.documents import StageReport, parse_json
from conventions.errors import DataError
from conventions.names import canonical_json
from operators.core import Input, Output, PlanContext, ReduceContext, Reduced, ReduceParams
from operators.jobs import TaskOutput, job_counts, read_tasks, settles, telling_line, write_report
from operators.registry import load_config
from operators.selected import FRAMES as SELECTED
from operators.selected import selected_frames
from operators.structures import load_structures

from .blind_spot import blind_spot

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

FRAMES = "frames.json"
# No sane training frame has such a force; a labeller that returns it has failed silently. eV/Angstrom.
ABSURD_FORCE = 1e3
# More than all electrons of the heaviest atoms bring. eV for each atom; also for the virial.
ABSURD_ENERGY = 1e7


@dataclass(frozen=True)
class PlanParams:
    has_selected: bool  # false until a select stage has ended


@dataclass(frozen=True)
class LabelPlan(PlanContext):
    files: Annotated[Path, Input(lambda at: at.space.files, optional=True)]
    selected: Annotated[Path, Input(lambda at: at.newest_product("select"), optional=True)]


@dataclass(frozen=True)
class LabelReduce(ReduceContext):
    selected: Annotated[Path, Input(lambda at: at.newest_product("select"), optional=True)]
    labels: Annotated[Path, Output(lambda at: at.labels)]


@dataclass(frozen=True)
class Label:
    """What the software said of one frame.

    `kind` is `ok` or the class of its failure, which `message` explains. energy in eV; forces in eV/Angstrom,
    shape (atoms, 3); virial = -dE/d(strain) in eV, shape (3, 3), where the software gives stress.
    """

    kind: str
    message: str = ""
    energy: float = math.nan
    forces: NDArray[np.float64] | None = None
    virial: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Labelled:
    """A frame, where it was labelled, and its label."""

    atoms: Atoms
    job_id: str
    task_id: str
    label: Label


# Reads the output folder of a task that ended well: one label a frame.
Reader = Callable[[Path, list["Atoms"]], list[Label]]
# Says why a task failed, from what it left in its log and its output folder.
Explain = Callable[[TaskOutput, Path], str]


def frames_to_label(config: RunConfig, params: PlanParams, ctx: LabelPlan) -> list[Atoms]:
    """The structures of `init.label` at first, later what the last select stage chose (perhaps nothing)."""
    if not params.has_selected:
        return load_structures(config, config.init.label, ctx.files)
    frames = selected_frames(ctx.selected)
    for number, atoms in enumerate(frames):
        unknown = sorted(set(atoms.get_chemical_symbols()) - set(config.type_map))
        if unknown or atoms.cell.rank < 3:
            problem = f"element {unknown[0]} is not in type_map" if unknown else "it has no periodic cell"
            raise DataError(f"{SELECTED} of the select stage: frame {number}: {problem}")
    return frames


def dump_frames(frames: Sequence[Atoms]) -> bytes:
    """Frames as JSON with every bit of their numbers: the order of atoms is kept. Angstrom."""
    return canonical_json(
        [
            {
                "structure": str(atoms.info.get("structure", "")),
                "symbols": atoms.get_chemical_symbols(),
                "cell": atoms.cell.array.tolist(),
                "positions": atoms.positions.tolist(),
                **({} if atoms.pbc.all() else {"pbc": False}),
            }
            for atoms in frames
        ]
    )


def load_frames(path: Path) -> list[Atoms]:
    """Inverse of `dump_frames`."""
    from ase import Atoms
    from ase.data import atomic_numbers

    try:
        return [
            Atoms(
                numbers=[atomic_numbers[symbol] for symbol in each["symbols"]],
                positions=each["positions"],
                cell=each["cell"],
                pbc=each.get("pbc", True),
                info={"structure": each["structure"]},
            )
            for each in parse_json(path.read_bytes(), path.name)
        ]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); plan the stage again: retry") from None
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise DataError(f"{path.name}: not a list of frames: {error!r}"[:300]) from None


def judge(label: Label, n_atoms: int, max_force: float | None = None) -> Label:
    """The label, or the class of what is wrong with its numbers: wrong_atoms, nan, absurd, too_strong."""
    import numpy as np

    if label.kind != "ok" or label.forces is None:
        return label
    if label.forces.shape != (n_atoms, 3):
        return Label("wrong_atoms", f"forces on {label.forces.size // 3} atoms for a frame of {n_atoms}")
    numbers = [np.asarray(label.energy), label.forces, *([label.virial] if label.virial is not None else [])]
    if not all(np.isfinite(values).all() for values in numbers):
        return Label("nan", "energy, forces or virial are not finite numbers")
    largest = float(np.abs(label.forces).max(initial=0.0))
    if largest > ABSURD_FORCE:
        return Label("absurd", f"a force of {largest:.3g} eV/A (more than {ABSURD_FORCE:g}): do atoms overlap?")
    strongest = float(np.linalg.norm(label.forces, axis=1).max(initial=0.0))
    if max_force is not None and strongest > max_force:
        return Label("too_strong", f"a force of {strongest:.3g} eV/A; label.max_force is {max_force:g}")
    largest = max(float(np.abs(values).max()) for values in numbers if values is not label.forces) / max(n_atoms, 1)
    if largest > ABSURD_ENERGY:
        return Label("absurd", f"an energy or virial of {largest:.3g} eV/atom (more than {ABSURD_ENERGY:g})")
    return label


def read_labels(
    tasks: Sequence[TaskOutput], jobs: Path, read: Reader, explain: Explain, max_force: float | None = None
) -> Iterator[Labelled]:
    """Every frame of the stage in order, with its label."""
    by_job: dict[str, dict[str, TaskOutput]] = {}
    for task in tasks:
        by_job.setdefault(task.job_id, {})[task.task_id] = task
    for job_id, known in by_job.items():
        first = next(iter(known.values()))
        for folder in sorted((jobs / job_id / "in").glob("task.*")):
            # Of a job without a marker, only one task is known.
            task = known.get(folder.name) or replace(first, task_id=folder.name, folder=None)
            frames = load_frames(folder / FRAMES)
            if task.folder is None:
                labels = [Label("lost", explain(task, jobs / job_id / "out" / folder.name))] * len(frames)
            else:
                labels = read(task.folder, frames)
            for atoms, label in zip(frames, labels, strict=True):
                if not atoms.pbc.all():
                    label = replace(label, virial=None)  # of a box that is none
                yield Labelled(atoms, job_id, folder.name, judge(label, len(atoms), max_force))


def explain_by_log(task: TaskOutput, out: Path) -> str:
    """Why a task failed, by the log of its script."""
    return task.problem or telling_line(task.log)


def collect(
    params: ReduceParams, ctx: LabelReduce, app: str, read: Reader, explain: Explain = explain_by_log
) -> Reduced:
    """all_reduce of a label app: the dataset of this iteration, `labels.json`, and the report."""
    config = load_config(ctx.config.read_bytes())
    tasks = list(read_tasks(ctx, params.n_jobs))
    found = list(read_labels(tasks, ctx.jobs, read, explain, getattr(config.label, "max_force", None)))
    classes = Counter(each.label.kind for each in found)
    labelled, discarded = classes["ok"], len(found) - classes["ok"]
    settled = settles(tasks, params, ctx)
    enough = settled and labelled > 0 and discarded <= config.label.ratio_failed * len(found)
    messages = _messages(found)
    if not found:
        messages = ["there was no frame to label"]
    elif not settled:
        messages.insert(0, f"{classes['lost']} of {len(found)} frames have no result yet, and are tried again")
    elif not enough:
        counts = ", ".join(f"{kind} {number}" for kind, number in classes.most_common() if kind != "ok")
        messages.insert(
            0,
            f"{discarded} of {len(found)} frames have no usable label ({counts}); label.ratio_failed allows "
            f"{config.label.ratio_failed:g}: correct what the next messages say and retry, or allow more",
        )
    summary = {"labelled": float(labelled), "discarded": float(discarded)}
    if enough or not found:
        places = write_dataset(ctx.labels, found, config.type_map)
        figures, blind = blind_spot([(each.atoms, each.label.forces) for each in found], ctx.selected)
        summary |= blind
        _write_index(ctx.product, found, places, figures)
    report = StageReport(
        stage="label",
        app=app,
        iteration=params.iteration,
        attempt=params.attempt,
        complete=enough or not found,
        next=enough,
        jobs=job_counts(params.n_jobs, tasks, config.gpus("label")),
        classes=dict(sorted(classes.items())),
        summary=summary,
        messages=messages,
    )
    return write_report(ctx.report, report, product=ctx.product, labels=ctx.labels)


def write_dataset(root: Path, found: Sequence[Labelled], type_map: list[str]) -> list[tuple[str, int] | None]:
    """Write the good labels as DeePMD systems (deepmd/npy, float64), one for each composition, with their keys.

    Atoms are sorted by type, frames keep their order. Where a composition has frames with and without virial, or with
    and without periodic boundaries, those without are a system of their own (`Cu32.novirial`, `H2O.nopbc`).

    Returns
    -------
    For every frame the name of its system and its index there; None where it has no label.
    """
    from ase.data import atomic_numbers

    elements = {symbol: atomic_numbers[symbol] for symbol in type_map}
    names: list[str | None] = []
    kinds: dict[str, set[str]] = {}
    for each in found:
        if each.label.kind != "ok":
            names.append(None)
            continue
        counts = Counter(each.atoms.numbers.tolist())
        name = "".join(f"{symbol}{counts[element]}" for symbol, element in elements.items() if counts[element])
        names.append(name)
        kinds.setdefault(name, set()).add(_kind(each))
    systems: dict[str, list[Labelled]] = {}
    places: list[tuple[str, int] | None] = []
    for each, composition in zip(found, names, strict=True):
        if composition is None:
            places.append(None)
            continue
        name = composition + (_kind(each) if len(kinds[composition]) > 1 else "")
        members = systems.setdefault(name, [])
        places.append((name, len(members)))
        members.append(each)
    for name, members in sorted(systems.items()):
        _write_system(root / name, members, elements)
    return places


def _kind(each: Labelled) -> str:
    """How the name of its system ends, where others of its composition are of another kind."""
    if not each.atoms.pbc.all():
        return ".nopbc"
    return "" if each.label.virial is not None else ".novirial"


def _write_system(folder: Path, members: Sequence[Labelled], elements: dict[str, int]) -> None:
    import dpdata
    import numpy as np

    from operators.frame_keys import write_keys

    types = {element: number for number, element in enumerate(elements.values())}
    numbers = [np.array([types[element] for element in each.atoms.numbers.tolist()]) for each in members]
    order = [np.argsort(each, kind="stable") for each in numbers]
    atom_types = numbers[0][order[0]]
    forces = [each.label.forces for each in members]
    data: dict[str, Any] = {
        "atom_names": list(elements),
        "atom_numbs": [int(np.count_nonzero(atom_types == number)) for number in types.values()],
        "atom_types": atom_types,
        "orig": np.zeros(3),
        "cells": np.array([each.atoms.cell.array for each in members]),
        "coords": np.array([each.atoms.positions[at] for each, at in zip(members, order, strict=True)]),
        "energies": np.array([each.label.energy for each in members]),
        "forces": np.array([force[at] for force, at in zip(forces, order, strict=True) if force is not None]),
    }
    if not members[0].atoms.pbc.all():
        data["nopbc"] = True
    if members[0].label.virial is not None:
        data["virials"] = np.array([each.label.virial for each in members])
    system = dpdata.LabeledSystem(data=data)
    system.to("deepmd/npy", str(folder), set_size=len(members), prec=np.float64)
    back = dpdata.LabeledSystem(str(folder), fmt="deepmd/npy").data
    if back.get("nopbc", False) != data.get("nopbc", False):
        raise DataError(f"{folder.name}: dpdata does not read back that it is not periodic")
    cells = () if "nopbc" in data else ("cells",)
    for key in ("atom_types", *cells, "coords", "energies", "forces", "virials"):
        if (key in data) != (key in back) or (key in data and not np.array_equal(data[key], back[key])):
            raise DataError(f"{folder.name}: dpdata does not read back the {key} that it wrote")
    write_keys(folder)


def _write_index(
    product: Path,
    found: Sequence[Labelled],
    places: Sequence[tuple[str, int] | None],
    figures: Sequence[dict[str, Any]],
) -> None:
    frames = [
        {
            "structure": each.atoms.info["structure"],
            "job_id": each.job_id,
            "task_id": each.task_id,
            "class": each.label.kind,
            "message": each.label.message,
            "system": place[0] if place else None,
            "index": place[1] if place else None,
            **known,
        }
        for each, place, known in zip(found, places, figures, strict=True)
    ]
    product.mkdir(parents=True, exist_ok=True)
    # As json.dumps(..., indent=1), which does that in Python, letter by letter.
    texts = [json.dumps(frame, separators=(",\n   ", ": "))[1:-1] for frame in frames]
    listed = ",\n".join(f"  {{\n   {text}\n  }}" for text in texts)
    index = '{\n "schema_version": 1,\n "frames": ' + (f"[\n{listed}\n ]" if frames else "[]") + "\n}\n"
    (product / "labels.json").write_text(index)


def _messages(found: Sequence[Labelled], most: int = 5) -> list[str]:
    """What went wrong, each thing once, with the first place where it did."""
    groups: dict[tuple[str, str], list[Labelled]] = {}
    for each in found:
        if each.label.kind != "ok":
            groups.setdefault((each.label.kind, each.label.message), []).append(each)
    messages = []
    for (kind, message), members in list(groups.items())[:most]:
        more = f" (and {len(members) - 1} more)" if len(members) > 1 else ""
        messages.append(f"job {members[0].job_id} {members[0].task_id}: {kind}: {message}{more}")
    return messages


def rows_of(vectors: NDArray[np.float64]) -> list[str]:
    """Each vector as a line of an input, with every digit of its numbers."""
    return [" ".join(map(repr, vector)) for vector in vectors.tolist()]


def grouped(symbols: list[str]) -> list[int]:
    """Atoms by element, in the order in which elements first appear: what POSCAR and STRU need."""
    first = list(dict.fromkeys(symbols))
    return sorted(range(len(symbols)), key=lambda atom: first.index(symbols[atom]))


def kpoints(atoms: Atoms, kspacing: float) -> tuple[int, int, int]:
    """Numbers of a k-point grid, as VASP and DP-GEN have them of KSPACING (1/Angstrom, with the factor 2 pi)."""
    import numpy as np

    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    first, second, third = (max(1, math.ceil(length / kspacing)) for length in lengths.tolist())
    return first, second, third


def batches(frames: Sequence[Atoms], size: int) -> Iterator[Sequence[Atoms]]:
    """Frames in groups of `size`, the last perhaps smaller."""
    for start in range(0, len(frames), size):
        yield frames[start : start + size]
