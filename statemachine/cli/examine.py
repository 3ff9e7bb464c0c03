"""`doctor`: can the software, the store and the engine be used?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson

if TYPE_CHECKING:
    from statemachine.run.checks import Check


def doctor(
    target: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Also check this run's store, engine and software.")
    ] = None,
    as_json: AsJson = False,
    trial: Annotated[
        bool, typer.Option("--try", help="Also run one tiny job of each stage where RUN's jobs will run.")
    ] = False,
    race: Annotated[
        bool, typer.Option("--race", help="Also test with concurrent writers whether RUN's store is atomic.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Also mend what can be mended safely in RUN's files.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Only restore the last good version of RUN's state.")
    ] = False,
) -> None:
    """Check software, store and engine, and what RUN needs of them.

    Of RUN: each stage's programs with its setup (LAMMPS with the DeePMD plugin, dp with TensorFlow, CP2K with its data
    files, the ASE calculator), `sel` against the structures, login, folder and queue of a batch system, store, engine,
    disk space. What could not be tried is marked `--`, with the reason.

    --try runs a campaign of tiny jobs beside the run, one of each stage: a structure is labelled, two models learn ten
    steps, and one trajectory of ten steps is explored and judged. It takes a minute or two, needs the same rights
    as the run, and leaves nothing behind, also after Ctrl-C. RUN must be its configuration file.

    What RUN has is read: its history, configurations, files, code, training data, newest products, and what the jobs
    of its present stage left. --repair mends what needs no decision: damaged code is deleted, so that the next
    submission ships it again; a configuration is written again from its copy; a completion marker that does not tell of
    its job's inputs and outputs is removed, so that the job is run again; what a killed process left is removed.

    --restore is for a state.json that is damaged, missing or not the newest: it is replaced by the last good version
    under event/, and the damaged one is kept under event/damaged/. An intact state is not changed.
    """
    from statemachine.cli.show import print_checks
    from statemachine.run.doctor import examine, race_check, restore_state

    for option, asked in (("--try", trial), ("--repair", repair), ("--race", race), ("--restore", restore)):
        if asked and target is None:
            raise typer.BadParameter("name the RUN", param_hint=option)
    if restore and (race or trial or repair):
        raise typer.BadParameter("cannot be combined with --race, --try or --repair", param_hint="--restore")
    if restore and target is not None:
        print_checks(restore_state(target), as_json)
        return
    from rich.console import Console
    from rich.progress import Progress

    def checks() -> Iterator[Check]:
        with Console(stderr=True).status("") as shown:
            yield from examine(target, trial, repair, shown.update)
        if race and target is not None:
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("concurrent writers")
                yield race_check(target, lambda done, total: bar.update(task, completed=done, total=total))

    if not print_checks(checks(), as_json):
        raise typer.Exit(1)
