"""A run's data and models as DP-GEN keeps them: `dpgen2-sm export --dpgen`.

An iteration has the number there that it has here, so the labels of `iter.000003` are those that the table calls
iteration 3. DP-GEN trains an iteration with the labels of those before it; what it begins here is the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conventions.state import State
from statemachine.store import Store

from .export_models import Models, copy_models
from .formats import npy
from .labelled import Source, read

TASKS = range(9)  # make, run and post of train, model_devi and fp: what a line of record.dpgen counts


def record(last: int) -> str:
    """`record.dpgen` of a run whose iterations up to `last` have ended.

    >>> record(0).splitlines()[-1]
    '0 8'
    """
    return "".join(f"{iteration} {task}\n" for iteration in range(last + 1) for task in TASKS)


def last_of(sources: Sequence[Source], models: Models | None) -> int | None:
    """The last iteration that DP-GEN is to take as done; None where it is to begin with the first."""
    numbers = [source.iteration for source in sources if source.iteration is not None]
    return max([*numbers, *([models.iteration] if models else [])], default=None)


def numbered(sources: Sequence[Source]) -> dict[str, str]:
    """The folder of each system of labels: a number for a composition, the same one in all iterations.

    >>> numbered([Source("iter", "000000", ("H2O", "H2O.nopbc", "H4O2"))])
    {'H2O': 'data.000', 'H2O.nopbc': 'data.000', 'H4O2': 'data.001'}
    """
    names = sorted({name for source in sources if source.part == "iter" for name in source.systems})
    compositions = sorted({name.partition(".")[0] for name in names})
    return {name: f"data.{compositions.index(name.partition('.')[0]):03d}" for name in names}


def write_dpgen(
    store: Store,
    state: State,
    sources: Sequence[Source],
    models: Models | None,
    type_map: Sequence[str],
    folder: Path,
    arrived: Callable[[], None],
) -> dict[str, Any]:
    """Write the tree; return what it holds, and what a person still has to do."""
    (folder / "data.init").mkdir(parents=True)
    driven = models if models and models.kind == "deepmd" else None
    last = last_of(sources, driven)
    for number in range(-1 if last is None else last + 1):
        _fp(folder, number).mkdir(parents=True)
    place = numbered(sources)
    for source in sources:
        for system in read(store, source):
            above = folder / "data.init" / source.name
            npy([system], above if source.iteration is None else _fp(folder, source.iteration) / place[system.name])
            arrived()
    if driven:
        _write_committee(store, state, driven, folder / _name(driven.iteration) / "00.train")
    if last is not None:
        (folder / "record.dpgen").write_text(record(last))
    init = [source.name for source in sources if source.part == "init"]
    return {
        "next_iteration": 0 if last is None else last + 1,
        "models_of": driven.iteration if driven else None,
        "init_data_sys": init,
        "notes": notes(last, init, models, type_map),
    }


def _name(iteration: int) -> str:
    return f"iter.{iteration:06d}"


def _fp(folder: Path, iteration: int) -> Path:
    return folder / _name(iteration) / "02.fp"


def _write_committee(store: Store, state: State, models: Models, work: Path) -> None:
    """As DP-GEN leaves a training: a folder for each model, and links to the models."""
    suffix = Path(models.files[0]).suffix
    frozen = f"frozen_model{suffix}"
    copy_models(store, state, models, {name: work / f"{n:03d}" / frozen for n, name in enumerate(models.files)})
    for number in range(len(models.files)):
        (work / f"graph.{number:03d}{suffix}").symlink_to(f"{number:03d}/{frozen}")


def notes(last: int | None, init: Sequence[str], models: Models | None, type_map: Sequence[str]) -> list[str]:
    """What a person has to know before DP-GEN is started in the folder."""
    driven = models if models and models.kind == "deepmd" else None
    found = ["param.json, machine.json and the files that they name are not made"]
    keys = [f"type_map: {json.dumps(list(type_map))}", "init_data_prefix: data.init"]
    keys.append(f"init_data_sys: {json.dumps(list(init))}")
    keys.append("fp_task_min: 1 (DP-GEN leaves out folders of labels with fewer frames)")
    if driven:
        keys.append(f"numb_models: {len(driven.files)}")
        if driven.files[0].endswith(".pth"):
            keys.append("train_backend: pytorch")
    found.append(f"in param.json: {'; '.join(keys)}")
    if last is None:
        found.append("DP-GEN begins with iteration 0")
    else:
        found.append(
            f"DP-GEN begins iteration {last + 1}, with a training: model_devi_jobs needs {last + 1} entries for what "
            "is done, which are not run, before yours"
        )
    if models and driven is None:
        found.append(f"the models of train/{models.app} are not those of DP-GEN, and are left out")
    elif driven and driven.iteration == last:
        found.append(
            f"the models are those of iteration {last}; with `skip_training: true` in entry {last} of model_devi_jobs "
            "(counted from 0) DP-GEN explores with them at once"
        )
    elif driven:
        found.append(f"the models are those of iteration {driven.iteration}; newer labels are not trained on yet")
    return found
