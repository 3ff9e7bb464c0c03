"""From other programs and to them: `import`, `export`; to another store: `migrate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conventions.errors import ConfigError

from .options import AsJson, Target, checked

if TYPE_CHECKING:
    from statemachine.importer.make import Imported


class DataFormat(str, Enum):
    npy = "deepmd/npy"
    mixed = "deepmd/npy/mixed"
    hdf5 = "deepmd/hdf5"
    extxyz = "extxyz"
    quip = "quip/gap/xyz"


def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="DP-GEN's param.json and machine.json, DPGEN2's input.json, or ai2-kit's YAML files; with --adopt "
            "also a run.yaml.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for run.yaml; default: dpgen2-sm beside SOURCE.")
    ] = None,
    adopt: Annotated[
        Path | None,
        typer.Option(
            "--adopt", metavar="RUN_DIR", help="Begin the run, with what DP-GEN or DPGEN2 left in this folder."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Write nothing when a key has no counterpart.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a configuration of DP-GEN's param.json and machine.json, DPGEN2's input.json, or ai2-kit's YAML files.

    Written are run.yaml, with a comment at each value that says where it comes from, the files that it names and that
    the other program would have made (input.json, INCAR, ...), and import.md: what became of each key of the sources.
    Data, structures and pseudopotentials stay where they are. The sources are only read. Secrets are never copied.

    A job of model_devi_jobs becomes an exploration stage that runs once (convergence.repeat: once), so that the run
    does what DP-GEN would have done. Stages of DPGEN2 are repeated until they have converged, as they are there.

    --adopt takes a campaign over, wherever it stopped: DP-GEN's folder with record.dpgen, what `dpgen2 download` has
    brought, or a copy of its workflow's folder in the bucket. Collected labels become the run's dataset, finished
    labelling tasks of an unfinished iteration too, the newest models explore next, and the run begins at the stage that
    comes next; nothing is labelled again. If run.yaml has to be edited first, give it as SOURCE then.
    """
    from statemachine.importer.campaign import ADOPTED, campaign
    from statemachine.importer.make import RUN, is_ours, make
    from statemachine.importer.make import as_json as in_json

    if adopt and len(sources) == 1 and is_ours(sources[0]):
        _adopt(sources[0], adopt)
        return
    made = make(sources, output)
    if adopt and made.dialect not in ADOPTED:
        raise ConfigError(f"--adopt: {sources[0]} is of {made.dialect}; of {' and '.join(ADOPTED)} it can be done")
    if adopt and (theirs := campaign(adopt).dialect) != made.dialect:
        raise ConfigError(f"--adopt: {adopt} is of {theirs}, but {sources[0]} is of {made.dialect}")
    if strict and made.report.losses:
        lines = "\n".join(f"{row.source}: {row.note}" for row in made.report.losses)
        raise ConfigError(f"{lines}\nnothing was written: with --strict every key needs a counterpart")
    made.write()
    run = made.folder / RUN
    if as_json:
        typer.echo(in_json(made))
    else:
        _tell(made)
    if adopt:
        _adopt(run, adopt)
    elif not as_json:
        typer.echo(f"check it with `dpgen2-sm validate {run}`")


def _tell(made: Imported) -> None:
    """What became of the keys, and what is left to do."""
    from statemachine.importer.make import REPORT, RUN
    from statemachine.importer.report import Outcome

    for outcome in Outcome:
        count = sum(row.count for row in made.report if row.outcome is outcome)
        typer.echo(f"{count:5d} {outcome.value}")
    for row in made.report.losses:
        typer.echo(f"lost: {row.source}: {row.note}", err=True)
    for text in made.report.warnings:
        typer.echo(f"to do: {text}", err=True)
    typer.echo(f"{made.folder / RUN} is written, and {REPORT} beside it")


def _adopt(run: Path, folder: Path) -> None:
    """Begin the run of a configuration with what another program has done."""
    from statemachine.cli.follow import beginning
    from statemachine.importer.campaign import campaign
    from statemachine.run.begin import begin

    told: list[str] = []
    find = campaign(folder).adopt(told.append)
    with beginning() as progress:
        state = begin(checked(run), run.resolve().parent, progress, find)
    for text in told:
        typer.echo(text)
    typer.echo(f"run {state.run}: {state.at} of iteration {state.iteration}; go on with `dpgen2-sm resume {run}`")


def export(
    target: Target,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist, or is empty.")],
    data: Annotated[DataFormat | None, typer.Option(help="Labelled data, in this format.")] = None,
    models: Annotated[bool, typer.Option("--models", help="The newest models.")] = False,
    dpgen: Annotated[bool, typer.Option("--dpgen", help="A folder in which DP-GEN can go on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's data and models into a folder, for other programs.

    --data: the initial data and all labels that no rewind has dropped in data/, the test data in test/, and
    provenance.json, which says of each system where it is from. --models: the newest committee, in models/.
    --dpgen: a run directory of DP-GEN in dpgen/, without param.json and machine.json: what they need is printed.
    SHA256SUMS lists all files.

    The run is only read, and may go on; all that is read is checked against its sums. OUT appears when it is whole.
    """
    from statemachine.run.export import export
    from statemachine.run.opening import find_prefix
    from statemachine.store import open_store

    if not (data or models or dpgen):
        raise typer.BadParameter("say what to export: --data FORMAT, --models or --dpgen", param_hint="OUT")
    with _bar("systems") as progress:
        found = export(open_store(find_prefix(target)), out, data.value if data else None, models, dpgen, progress)
    print(json.dumps(found, indent=1) if as_json else _told(found))


def _told(found: dict[str, Any]) -> str:
    """What was exported, in words.

    >>> _told({"run": "cu", "out": "x", "models": {"iteration": 3, "files": ["graph.000.pb"]}})
    'cu: exported to x\\nmodels/: 1 of iteration 3'
    """
    lines = [f"{found['run']}: exported to {found['out']}"]
    for name in ("data", "test"):
        if (part := found.get(name)) and part["systems"]:
            lines.append(f"{name}/: {part['systems']} systems, {part['frames']} frames")
    if part := found.get("models"):
        lines.append(f"models/: {len(part['files'])} of iteration {part['iteration']}")
    if part := found.get("dpgen"):
        lines += ["dpgen/: a run directory of DP-GEN", *(f"  {note}" for note in part["notes"])]
    return "\n".join(lines)


def migrate(
    target: Target,
    place: Annotated[str, typer.Argument(metavar="TARGET", help="Folder or URL where it is to be: a new prefix.")],
    as_json: AsJson = False,
) -> None:
    """Move a run to another store: a folder to S3, S3 to a folder, or between two of a kind.

    The run must rest: it has ended, or is paused and submits nothing. All that it has is copied and checked, then the
    copy becomes a run of its own, as by `fork`; `resume TARGET` goes on with it. What was interrupted is repeated:
    objects that are there with equal size and checksum are not copied again. Nothing at RUN is changed or deleted.
    """
    from statemachine.run.migrate import migrate
    from statemachine.run.opening import find_prefix
    from statemachine.store import open_store, prefix_url

    source, there = open_store(find_prefix(target)), open_store(prefix_url(place, Path.cwd()))
    with _bar("copying") as progress:
        moved = migrate(source, there, f"migrated from {source.url}", progress)
    state = moved.state
    if as_json:
        found = {
            "run": state.run,
            "from": source.url,
            "to": there.url,
            "at": state.at,
            "paused": state.hold,
            "objects": moved.objects,
            "bytes": moved.bytes,
            "copied": moved.copied,
        }
        print(json.dumps(found, indent=1))
        return
    if moved.objects:
        typer.echo(f"{moved.objects:,} objects, {moved.bytes / 1e9:.3f} GB; {moved.copied:,} were copied now")
    else:
        typer.echo("this run was migrated there before; nothing was copied")
    typer.echo(
        f"{state.run} is at {there.url} now\n"
        f"`dpgen2-sm resume {there.url}` goes on with it; write this prefix into its configuration file\n"
        "the run at the old prefix is as it was. If it goes on as well, they are two runs, which pay for their labels "
        "twice: delete the old one when you have seen that the new one works"
    )


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, which is told how much there is and how much more was done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    done = DownloadColumn() if what == "copying" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda total, more: bars.update(task, total=total, advance=more)
