"""The commands. Each imports what it needs when it runs, so that `status` starts quickly."""

from __future__ import annotations

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conventions import __version__

from . import bring, evaluate, examine, orders, replay, seeing, top
from .examples import epilog
from .options import AsJson, ConfigFile, Interval, Target, Yes, checked

if TYPE_CHECKING:
    from conventions.state import State

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Concurrent learning of machine-learned force fields: label -> train -> explore -> select, until the
committee of models agrees. The state of a run is kept under its prefix; any command may be killed at any time.

A first run:  dpgen2-sm validate run.yaml;  dpgen2-sm run run.yaml;  dpgen2-sm status run.yaml

RUN is a configuration file, or the prefix that it names (a folder, file:///path or s3://bucket/path).

Exit codes: 0 done (for run and resume: converged), 1 the run failed, 2 bad input, 3 ended without convergence,
4 cancelled, 130 interrupted (143 by SIGTERM).""",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"dpgen2-sm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


class LogFormat(str, Enum):
    text = "text"
    json = "json"


@app.command()
def validate(config: ConfigFile) -> None:
    """Check a configuration; write nothing.

    Every file that it names is read as the stages will: structures, labelled data, inputs, templates.
    """
    from statemachine.run.begin import check_files, prepare
    from statemachine.run.data import load_data

    found = checked(config)
    stored, objects = prepare(found, config.parent)
    for name, count in check_files(stored, objects).items():
        print(f"structures.{name}: {count} structure{'s' * (count != 1)}")
    for kind in ("data", "test"):
        for name, data in getattr(found.init, kind).items():
            loaded = load_data(data, config.parent, f"init.{kind}.{name}", found.type_map)
            print(f"init.{kind}.{name}: {loaded.told}")
    print(f"{config}: valid; the run's prefix is {stored.prefix}")


@app.command()
def init(config: ConfigFile) -> None:
    """Create a run without submitting anything.

    The files that the configuration names are copied into the prefix, and the state is created. `plan` then shows
    what would be submitted.
    """
    state = _begin(config)
    print(f"run {state.run}: {state.at}; advance it with `dpgen2-sm run {config}`")


@app.command()
def run(target: Target, interval: Interval = 0.5) -> None:
    """Advance a run to its end, in the foreground.

    With a configuration file, the run is created if it does not exist yet.
    """
    from statemachine.cli.follow import follow_to_end
    from statemachine.run.opening import config_file, find_prefix

    config = config_file(target)
    if config is not None:
        _begin(config)
    follow_to_end(find_prefix(target), interval)


@app.command()
def resume(
    target: Target,
    interval: Interval = 0.5,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Go on here although the run works elsewhere, where it is lost.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Continue a run and follow it to its end.

    A paused run goes on; a failed or cancelled one starts a new attempt of the stage in which it stopped.
    Jobs that have finished are not run again.

    A run works where its current workflow was submitted: on the local engine of one user, host and folder, or at one
    Argo server. From elsewhere nobody can see whether it still works there, so all commands wait. --take-over is for a
    place that is lost for good: if something still works there after all, jobs run twice.
    """
    from statemachine.cli.follow import follow_to_end
    from statemachine.machine.orders import Order
    from statemachine.run.opening import find_prefix, open_poller
    from statemachine.run.orders import carry_out, stopped

    prefix = find_prefix(target)
    poller = open_poller(prefix)
    state = poller.record.load().state
    if take_over:
        orders.be_sure(f"is {state.home or 'the place where it works'} lost for good, with all that ran there?", yes)
        state = poller.take_over("taken over by the user")
    if state.at == "cancelling":
        state = stopped(poller)
    if state.hold or state.at in ("failed", "cancelled"):
        carry_out(poller, Order("resume", "resumed by the user"))
    follow_to_end(prefix, interval)


@app.command()
def step(target: Target, as_json: AsJson = False) -> None:
    """Advance a run as far as possible now, then exit: for cron."""
    from statemachine.cli.show import print_state
    from statemachine.cli.telling import watching
    from statemachine.run.opening import find_prefix, open_poller
    from statemachine.run.place import works_elsewhere

    prefix = find_prefix(target)
    with watching(prefix) as watch:
        poller = open_poller(prefix, watch.saw)
        print_state(poller.step(), as_json)
    if poller.away:
        print(works_elsewhere(poller.away, poller.engine.home), file=sys.stderr)


@app.command()
def daemon(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs to advance: configuration files, folders or URLs."),
    ] = None,
    discover: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX", help="Also advance all runs below this folder or URL; may be repeated."),
    ] = None,
    interval: Interval = 10.0,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve HTTP at this address; a port alone is on 127.0.0.1. Default: off."
        ),
    ] = None,
    pages: Annotated[
        bool | None,
        typer.Option("--pages/--no-pages", help="Show the runs there, too. Default: only on 127.0.0.1."),
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="Plain text, or one JSON object per line.")] = LogFormat.text,
    stay: Annotated[bool, typer.Option(help="Keep running when all runs have ended: one may be resumed.")] = False,
    test_notify: Annotated[
        bool, typer.Option("--test-notify", help="Send a test message to each target of notifications, then exit.")
    ] = False,
) -> None:
    """Advance several runs until all have ended.

    --discover looks below its prefixes every minute (or --interval, if that is longer), and takes up runs that are new
    there without a restart; it implies --stay. Folders are looked into up to four levels deep; a run's own are not.

    SIGTERM or Ctrl-C stops the daemon after the steps in progress; submitted workflows keep running. A run with an
    error (its store is down, its state is damaged) is retried with growing delays, up to 10 minutes; the others are
    not affected.

    --listen serves /healthz and /readyz for probes, /metrics for Prometheus, and /hook: a POST there (a hint) makes the
    daemon check the run that it names at once instead of at the next interval; without a name all runs, 40 a second. A
    hint must be signed with the key in DPGEN2_HOOK_KEY (or in the file that DPGEN2_HOOK_KEY_FILE names):
    `dpgen2-sm notify` does that. Senders that cannot sign, such as S3 bucket notifications, may send
    `Authorization: Bearer` with DPGEN2_HOOK_TOKEN, if that is set; their content is ignored. Without key and token
    hooks are off.

    On this machine it serves the pages of `dpgen2-sm web`, too. Who reaches them sees all that the runs have: at an
    address that others can reach they are served with --pages only. With a token in DPGEN2_WEB_TOKEN (or in the file
    that DPGEN2_WEB_TOKEN_FILE names) who knows it can give orders there: see `dpgen2-sm web --help`.

    People are told of ends, pauses and what needs them where the environment says how: by a signed webhook
    (DPGEN2_WEBHOOK_URL with DPGEN2_WEBHOOK_KEY), or by Apprise to Slack, Feishu, mail and others (DPGEN2_NOTIFY_URLS).
    DPGEN2_NOTIFY_ON chooses of converged, exhausted, failed, cancelled, paused, needs_person, iteration.
    docs/operations.md has more. `run`, `resume` and `step` do so, too.
    """
    from statemachine.daemon.serve import serve
    from statemachine.run.opening import find_prefix
    from statemachine.store import prefix_url

    if test_notify:
        from statemachine.cli.telling import test_notify as send_tests

        raise typer.Exit(send_tests())
    if not targets and not discover:
        raise typer.BadParameter("name a run, or --discover PREFIX", param_hint="RUN")
    prefixes = [find_prefix(target) for target in targets or ()]
    places = [prefix_url(place, Path.cwd()) for place in discover or ()]
    serve(prefixes, interval, listen, log_format is LogFormat.json, stay, places, pages)


@app.command()
def notify(
    url: Annotated[str, typer.Argument(metavar="URL", help="The daemon's hook: http://127.0.0.1:8080/hook")],
    name: Annotated[str, typer.Argument(help="Name of the run, or of its workflow. Default: all runs.")] = "",
) -> None:
    """Make a daemon check a run now, or all its runs.

    The hint is signed with the key in DPGEN2_HOOK_KEY (or in the file that DPGEN2_HOOK_KEY_FILE names), which must be
    the same as the daemon's. A lost hint does no harm: the daemon also checks at its interval.

    Exit codes: 0 accepted, 1 refused or not reachable, 2 no key or no usable URL.
    """
    from conventions.endpoint import check_endpoint
    from conventions.errors import ConfigError
    from operators.pod.hint import send
    from statemachine.daemon.hints import keys_from

    key = keys_from(os.environ).key
    if not key:
        raise ConfigError("DPGEN2_HOOK_KEY: set it to the daemon's key")
    try:
        check_endpoint(url)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if trouble := send(url, key, name):
        print(f"error: {trouble}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"accepted: the daemon checks {f'the run that is called {name}' if name else 'all its runs'} now")


for order in (
    orders.pause,
    orders.cancel,
    orders.rewind,
    orders.patch,
    orders.extend,
    orders.fork,
    orders.trust,
    orders.prune,
    bring.export,
    bring.migrate,
):
    app.command()(order)
app.command()(evaluate.test)
app.command()(replay.replay)
app.command()(seeing.report)
app.command()(seeing.explain)
app.command()(top.top)
app.command()(seeing.web)
app.command("import")(bring.import_)


@app.command()
def status(
    target: Target,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Refresh every two seconds until the run ends.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show all iterations, not only the last 40.")] = False,
) -> None:
    """Show where a run stands, and why.

    Columns of the table, a row for each iteration:

    iter: number of the iteration. stage: exploration stage (entry of explore.stages).
    labels: new labels that were trained on. disc.: frames that were discarded, because they got no usable label.
    rmse_e, rmse_f: errors of energies in eV/atom, and of forces in eV/Angstrom, on the test set (init.test); in
    brackets, on the training set. They are means over the models of the committee.
    frames: explored frames. accurate, candidate, failed: their shares with max_devi_f below f_trust_lo, between the
    levels, and from f_trust_hi on. select: candidates that the next iteration labels.

    Behind a row stand the lower trust level that the iteration found (with select.adaptive), how many times larger than
    the deviation the errors of its labels were (median; `report` tells more), and what is a bad sign.
    """
    from statemachine.cli.show import LAST, print_status, status_of

    if as_json:
        print(json.dumps(status_of(_prefix(target)), indent=1))
    elif watch:
        from statemachine.cli.follow import watch_status

        watch_status(_prefix(target))
    else:
        print_status(status_of(_prefix(target), None if every else LAST))


@app.command(name="list")
def list_runs(
    prefixes: Annotated[
        list[str], typer.Argument(metavar="PREFIX...", help="Folders or URLs below which runs are looked for.")
    ],
    as_json: AsJson = False,
) -> None:
    """List the runs below some prefixes, and where each stands.

    Folders are looked into up to four levels deep; a run's own are not.
    """
    from statemachine.cli.show import print_list
    from statemachine.store import prefix_url

    print_list([prefix_url(prefix, Path.cwd()) for prefix in prefixes], as_json)


@app.command()
def logs(
    target: Target,
    stage: Annotated[str | None, typer.Option(help="Stage; default: the current one.")] = None,
    iteration: Annotated[int | None, typer.Option("--iter", min=0, help="Iteration; default: the current one.")] = None,
    job: Annotated[
        int | None, typer.Option(min=0, help="Job number; default: guard, plan and reduce, and a list of job logs.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(min=0, help="Attempt of the current stage; default: the current one.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="With --job: print what is added until it ends.")
    ] = False,
) -> None:
    """Show the logs of a stage or of a job.

    Also those of a job that runs: on this machine and on Argo at once, on a batch system at the next look at the queue
    (`hpc.poll` seconds) or, where its folder is on this machine, at once.
    """
    from statemachine.cli.logs import print_logs

    print_logs(_prefix(target), stage, iteration, job, attempt, follow)


@app.command()
def plan(target: Target, as_json: AsJson = False) -> None:
    """Show what would be submitted next, or what is running.

    Jobs, tasks and sizes; nothing is written. With a configuration file the run need not exist yet.
    """
    from statemachine.cli.show import print_plan

    print_plan(target, as_json)


@app.command()
def schema() -> None:
    """Print the configuration's JSON Schema.

    Editors complete and check a configuration with it.
    """
    from operators.registry import full_model

    print(
        json.dumps(
            {**full_model().model_json_schema(), "$schema": "https://json-schema.org/draft/2020-12/schema"}, indent=1
        )
    )


app.command()(examine.doctor)
for command in app.registered_commands:
    command.epilog = epilog(command.name or command.callback.__name__)  # type: ignore[union-attr]


def _begin(config: Path) -> State:
    from statemachine.cli.follow import beginning
    from statemachine.run.begin import begin

    found = checked(config)
    with beginning() as progress:
        return begin(found, config.parent, progress)


def _prefix(target: str) -> str:
    from statemachine.run.opening import find_prefix

    return find_prefix(target)
