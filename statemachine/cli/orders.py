"""Orders of a user to a run: pause, cancel, rewind, patch. `app` registers them as commands."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from .options import AsJson, ConfigFile, Interval, Reason, Target, Yes, checked


def pause(target: Target, reason: Reason = "paused by the user") -> None:
    """Submit nothing new, until `resume`.

    A running workflow is not stopped.
    """
    from statemachine.cli.show import print_state
    from statemachine.machine.orders import Order
    from statemachine.run.opening import find_prefix, open_poller
    from statemachine.run.orders import carry_out

    print_state(carry_out(open_poller(find_prefix(target)), Order("pause", reason)))


def cancel(target: Target, reason: Reason = "cancelled by the user", yes: Yes = False) -> None:
    """Stop a run and its workflow.

    Finished jobs are kept; `resume` continues with a new attempt.
    """
    from statemachine.cli.show import print_state
    from statemachine.machine.orders import Order
    from statemachine.run.opening import find_prefix, open_poller
    from statemachine.run.orders import carry_out

    poller = open_poller(find_prefix(target))
    be_sure(f"stop the workflow {poller.record.load().state.workflow} and its jobs?", yes)
    print_state(carry_out(poller, Order("cancel", reason)))


def rewind(
    target: Target,
    iteration: Annotated[int, typer.Option("--iter", min=0, help="Iteration to go back to.")],
    stage: Annotated[str, typer.Option(help="Stage to go back to: label, train, explore or select.")],
    reason: Reason = "rewound by the user",
    yes: Yes = False,
) -> None:
    """Go back to a stage of an earlier iteration, and continue from there.

    The running workflow is stopped first. The run then starts an iteration with a new number, which replaces the one
    that --iter names; a patched configuration takes effect. Nothing is deleted, but results from that stage on are not
    used any more: their labels are not trained on. `resume`, `step` or a daemon then continues the run.
    """
    from statemachine.cli.show import print_state
    from statemachine.machine.orders import Order
    from statemachine.run.opening import find_prefix, open_poller
    from statemachine.run.orders import carry_out

    poller = open_poller(find_prefix(target))
    be_sure(f"drop what was made from {stage} of iteration {iteration} on?", yes)
    print_state(carry_out(poller, Order("rewind", reason, iteration, stage)))


def extend(
    target: Target,
    iterations: Annotated[int, typer.Option(min=1, help="How many iterations more.")],
    reason: Reason = "extended by the user",
    interval: Interval = 0.5,
) -> None:
    """Continue a run that ended at max_iterations, and follow it to its end.

    It explores with its newest models, then goes on as ever. max_iterations of the configuration file must be
    changed, too, before `run` or `patch` are used with it again.
    """
    from statemachine.cli.follow import follow_to_end
    from statemachine.run.extend import extend
    from statemachine.run.opening import find_prefix
    from statemachine.store import open_store

    prefix = find_prefix(target)
    state = extend(open_store(prefix), iterations, reason)
    typer.echo(f"max_iterations is {state.policy.max_iterations} now; iteration {state.iteration} explores")
    follow_to_end(prefix, interval)


def patch(config: ConfigFile, reason: Reason = "patched by the user") -> None:
    """Change the configuration of a run to that of the file.

    It takes effect with the next iteration, or with the one that `rewind` starts; the current workflow is not changed.
    A patch that changes only how jobs are run (command, setup, retries, ratio_failed, image, pod, hpc, engine) also
    takes effect when `resume` starts a new attempt after a failure or a cancel. retries, max_iterations, convergence
    and the number of exploration stages take effect at once. run, prefix, type_map, init, the stages' apps and the
    place of the engine cannot be changed.
    """
    from statemachine.cli.show import print_state, waiting
    from statemachine.run.patch import patch

    state, changes = patch(checked(config), config.parent, reason)
    print_state(state)
    for change in changes:
        typer.echo(f"  {change}")
    if text := waiting(state):
        typer.echo(text)


def prune(
    target: Target,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what could go.")] = False,
    keep_last: Annotated[
        int, typer.Option(min=0, help="Iterations to keep whole, beside the newest that explored.")
    ] = 1,
    label_outputs: Annotated[
        bool, typer.Option("--label-outputs", help="Also what the labelling code wrote; labels are kept.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete what a run no longer needs: inputs and outputs of jobs whose results were used.

    Labels, models, chosen frames, reports, logs, configurations and the history are never deleted. The run may go on
    meanwhile. A rewind to `select` of a pruned iteration is refused afterwards, since it would need its trajectories.
    Where nobody can be asked, nothing is deleted without --yes.
    """
    from rich.console import Console
    from rich.progress import Progress

    from statemachine.run.opening import find_prefix
    from statemachine.run.prune import prunable, prune
    from statemachine.store import open_store

    store = open_store(find_prefix(target))
    until, sums, keys = prunable(store, keep_last, label_outputs)
    total = sum(one.bytes for one in sums)
    if not as_json:
        for one in sums:
            typer.echo(f"{one.stage}: {one.iterations} iterations, {one.files:,} files, {one.bytes / 1e9:.3f} GB")
    deleting = bool(keys) and not dry_run and (yes or (sys.stdin.isatty() and not as_json))
    if deleting:
        be_sure(f"delete {len(keys):,} files, {total / 1e9:.3f} GB?", yes)
        with Progress(console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task("deleting", total=len(keys))
            prune(store, until, keys, lambda more: bars.update(task, advance=more))
    if as_json:
        stages = [asdict(one) for one in sums]
        print(json.dumps({"before_iteration": until, "deleted": deleting, "bytes": total, "stages": stages}, indent=1))
    elif not keys:
        typer.echo("nothing can go")
    elif deleting:
        typer.echo(f"{total / 1e9:.3f} GB were deleted, from iterations before {until}")
    else:
        more = "" if dry_run else "; --yes deletes it"
        typer.echo(f"{total / 1e9:.3f} GB could go, from iterations before {until}; nothing was deleted{more}")


def fork(target: Target, reason: Reason = "forked by the user") -> None:
    """Make a copy of a run, or a run that was moved, a run of its own.

    It keeps the table and all results. Its workflows get new names, and it goes on with a new attempt of the stage that
    it is in; what the first run still does there does not reach it.
    """
    from statemachine.cli.show import print_state
    from statemachine.run.fork import fork
    from statemachine.run.opening import find_prefix
    from statemachine.store import open_store

    state = fork(open_store(find_prefix(target)), reason)
    print_state(state)
    typer.echo("`dpgen2-sm resume` goes on with it")


def trust(target: Target, yes: Yes = False) -> None:
    """Let a run's commands be run here, and its Argo server be used, as the run names them now.

    Who begins or patches a run with a configuration file trusts it; so does who first advances a run of the local
    engine. From then on a change that somebody else makes below the prefix is refused, until this command.
    It is kept in ~/.config/dpgen2-sm/trust/, for this user.
    """
    from statemachine.run.opening import find_prefix
    from statemachine.run.record import Record
    from statemachine.run.trust import news, trust
    from statemachine.store import open_store

    store = open_store(find_prefix(target))
    state = Record(store).load().state
    if not (found := list(news(store, state))):
        typer.echo("nothing is new: you trust this run as it is")
        return
    for line in found:
        typer.echo(f"  {line}")
    be_sure("is that as it should be?", yes)
    trust(store, state)
    typer.echo("trusted")


def be_sure(question: str, yes: bool) -> None:
    """Ask on a terminal; a script is not asked."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True)
