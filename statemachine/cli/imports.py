"""`dpgen2-sm import`: from another program's inputs to a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson


def import_(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="DP-GEN's param.json, and its machine.json.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for run.yaml; default: dpgen2-sm beside SOURCE.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Write nothing when a key has no counterpart.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a configuration of DP-GEN's param.json and machine.json.

    Written are run.yaml, with a comment at each value that says where it comes from, the files that it names and that
    DP-GEN would have made (input.json, INCAR, ...), and import.md: what became of each key of the sources. Data,
    structures and pseudopotentials stay where they are. The sources are only read. Secrets are never copied.

    A job of model_devi_jobs becomes an exploration stage that runs once (convergence.repeat: once), so that the run
    does what DP-GEN would have done.
    """
    from conventions.errors import ConfigError
    from statemachine.importer.make import REPORT, RUN, make
    from statemachine.importer.make import as_json as in_json
    from statemachine.importer.report import Outcome

    made = make(sources, output)
    if strict and made.report.losses:
        lines = "\n".join(f"{row.source}: {row.note}" for row in made.report.losses)
        raise ConfigError(f"{lines}\nnothing was written: with --strict every key needs a counterpart")
    made.write()
    if as_json:
        typer.echo(in_json(made))
        return
    for outcome in Outcome:
        count = sum(row.count for row in made.report if row.outcome is outcome)
        typer.echo(f"{count:5d} {outcome.value}")
    for row in made.report.losses:
        typer.echo(f"lost: {row.source}: {row.note}", err=True)
    for text in made.report.warnings:
        typer.echo(f"to do: {text}", err=True)
    run = made.folder / RUN
    typer.echo(f"{run} is written, and {REPORT} beside it; check it with `dpgen2-sm validate {run}`")
