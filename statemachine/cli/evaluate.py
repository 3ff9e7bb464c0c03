"""`dpgen2-sm test`: how good the models of a run are. `app` registers it as a command."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .options import AsJson, Target


def test(
    target: Target,
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Labelled data: folders or files that dpdata reads.")
    ],
    format: Annotated[str, typer.Option(help="dpdata's name of their format, as in init.data.")] = "deepmd/npy",
    iteration: Annotated[
        int | None, typer.Option("--iter", min=0, help="Iteration of the models; default: the newest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test a run's models on labelled data.

    A table for each DATA: the errors of each model, and of the mean of their predictions.

    rmse_e: energies, eV/atom. rmse_f: components of the forces, eV/Angstrom. rmse_v: components of the virials,
    eV/atom, where the data have some. max_devi_f: how much the models disagree on a frame, eV/Angstrom, as in
    exploration.

    On init.test the mean of the models' errors (not the error of their mean) is what `status` shows. The program that
    trained the models must be installed here: for train/deepmd, DeePMD-kit.
    """
    from rich.console import Console
    from rich.progress import Progress

    from statemachine.run.committee import measure
    from statemachine.run.opening import find_prefix

    prefix, console = find_prefix(target), Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=None)
        found = measure(
            prefix, data, format, iteration, lambda total, more: bar.update(task, total=total, advance=more)
        )
    print(json.dumps(found, indent=1) if as_json else _table(found))


def _table(found: dict[str, Any]) -> str:
    names = [path.rpartition("/")[2] for path in found["models"]]
    width = max(map(len, names))
    lines = [f"{found['run']}  models of iteration {found['iteration']}:", *found["models"]]
    for each in found["data"]:
        keys = list(each["mean"])
        lines += ["", f"{each['path']}: {each['frames']} frames"]
        lines.append("  ".join(["model".ljust(width), *(key.rjust(7) for key in keys)]))
        for name, row in zip([*names, "mean"], [*each["models"], each["mean"]], strict=True):
            lines.append("  ".join([name.ljust(width), *(_number(row[key]).rjust(7) for key in keys)]))
        if devi := each["max_devi_f"]:
            mean, high, largest = (_number(devi[key]) for key in ("mean", "percentile_95", "max"))
            lines.append(f"max_devi_f: mean {mean}, 95th percentile {high}, largest {largest}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4f}"
