"""`dpgen2-sm replay`: what other rules of selection would have chosen. `app` registers it as a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, Target

if TYPE_CHECKING:
    from statemachine.replay.replay import Outcome

COLUMNS = ("accurate", "candidate", "failed", "selected")


def replay(
    target: Target,
    rule: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="YAML with keys of `select`, such as `f_trust_lo: 0.08`; may be repeated."),
    ],
    retrain: Annotated[
        bool, typer.Option(help="Train on the labels that each rule would have had, and measure on init.test.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the labels drawn at random, to compare with.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw a plot: a .svg or .png file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose again from what a run explored, by other rules: nothing is explored or labelled, the run is only read.

    A table with the frames of each class by iteration and rule, `as-it-was` first, and how many of the chosen frames
    have a label: those that the run chose as well. What would have followed is not known: other labels make other
    models, which explore other frames.

    --retrain trains a committee on this machine, as the run does, for each rule: on the initial data and those
    labels; another one on as many labels drawn at random; and one on all. Each takes as long as a train stage.
    """
    from rich.console import Console

    from statemachine.replay.replay import as_json as plain
    from statemachine.replay.replay import replay as repeat
    from statemachine.replay.rules import read_rule
    from statemachine.run.opening import find_prefix
    from statemachine.store import open_store

    rules = [read_rule(path) for path in rule]
    if output is not None and output.suffix not in (".svg", ".png"):
        raise typer.BadParameter(f"{output}: give a name that ends in .svg or .png", param_hint="--output")
    console = Console(stderr=True)
    with console.status("reading the run") as status:
        outcomes = repeat(
            open_store(find_prefix(target)), rules, retrain, seed, lambda what: status.update(what, spinner="dots")
        )
    if output is not None:
        from statemachine.replay.plot import draw

        draw(outcomes, output)
    print(json.dumps(plain(outcomes), indent=1) if as_json else table(outcomes))
    if output is not None:
        console.print(str(output))


def table(outcomes: list[Outcome]) -> str:
    """Classes by iteration and rule, then labels and errors by rule."""
    width = max(len(outcome.rule) for outcome in outcomes)
    lines = ["  ".join(["iter", "rule".ljust(width), *(name.rjust(9) for name in COLUMNS)])]
    rules = [outcome for outcome in outcomes if outcome.selections]
    for number, first in enumerate(rules[0].selections):
        for outcome in rules:
            classes = outcome.selections[number].classes
            counts = (str(classes.get(name, 0)).rjust(9) for name in COLUMNS)
            lines.append("  ".join([str(first.iteration).rjust(4), outcome.rule.ljust(width), *counts]))
    trained = any(outcome.errors for outcome in outcomes)
    heads = ["selected", "labelled", *(["rmse_f", "by chance"] if trained else [])]
    lines += ["", "  ".join(["rule".ljust(width), *(head.rjust(9) for head in heads)])]
    for outcome in outcomes:
        cells = [str(outcome.selected) if outcome.selections else "", str(outcome.labels)]
        if trained:
            cells += [_error(outcome.errors), _error(outcome.by_chance)]
        lines.append("  ".join([outcome.rule.ljust(width), *(cell.rjust(9) for cell in cells)]))
    if trained:
        lines.append("rmse_f in eV/Angstrom on init.test; by chance: of as many labels drawn at random")
    return "\n".join(lines)


def _error(errors: dict[str, float]) -> str:
    return f"{errors['rmse_f']:.4f}" if "rmse_f" in errors else ""
