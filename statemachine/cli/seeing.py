"""`dpgen2-sm report` and `explain`: a run as a page, as numbers, in words. `app` registers them as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Target


def report(
    target: Target,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    png: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the plots as PNG into this folder, instead of a page.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page that shows a run: where it stands and why, tables, plots, the chosen frames, what went wrong.

    One file without scripts, which needs no network and prints. Nothing of the run is changed, and its engine is not
    asked; the figures are from the store alone. Equal runs give equal bytes.

    Forces of new labels are compared with those of the model that chose them (the blind spot), and with the models
    that were trained on them (the absorption); the deviation, by which frames are chosen, with the true error.
    """
    from statemachine.report.figures import Reader
    from statemachine.run.opening import find_prefix
    from statemachine.store import open_store

    store = open_store(find_prefix(target))
    figures = Reader(store).read()
    if as_json:
        from statemachine.report.figures import as_json as plain

        print(json.dumps(plain(figures), indent=1))
        return
    if png is not None:
        from statemachine.report.curves import read_curves
        from statemachine.report.plots import plots, write_png

        for path in write_png(png, plots(figures, read_curves(store, figures.state))):
            print(path)
        return
    from statemachine.report.page import configuration_text, render

    page = render(figures, store, configuration_text(store, figures.state))
    part = output.with_name(f".{output.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(output)
    print(output)


def explain(
    target: Target,
    what: Annotated[str, typer.Argument(metavar="ITER|FRAME|JOB", help="3, or 2/14, or label/3/12.")],
    as_json: AsJson = False,
) -> None:
    """Explain an iteration, a chosen frame, or a job.

    3: what iteration 3 did, why stages were repeated, how far it is from convergence.

    2/14: the 15th frame that iteration 2 chose (they count from 0): from which trajectory, temperature and step, why it
    was a candidate, what its label is, how wrong the models were before and after, which ones were trained on it.

    label/3/12: job 12 of the label stage of iteration 3: what it left, its frames and what was wrong with them.
    """
    from conventions.forms import printable
    from statemachine.report.explain import explain as answer
    from statemachine.report.figures import Reader
    from statemachine.run.opening import find_prefix
    from statemachine.store import open_store

    store = open_store(find_prefix(target))
    found = list(answer(store, Reader(store).read(), what))
    if as_json:
        print(json.dumps([{"what": name, "text": text} for name, text in found], indent=1))
        return
    width = max(len(name) for name, _ in found)
    for name, text in found:
        typer.echo(f"{typer.style(name.ljust(width), bold=True)}  {printable(text)}")


def web(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs to show: configuration files, folders or URLs.")
    ] = None,
    discover: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX", help="Also show all runs below this folder or URL; may be repeated."),
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to serve; a port alone is on 127.0.0.1.")
    ] = "127.0.0.1:8080",
) -> None:
    """Show runs in a browser: an overview, live reports, jobs and their logs, downloads of models and data.

    Nothing is advanced. Whoever reaches the address sees everything: keep it on this machine, or behind a server that
    asks who is there. With a token in DPGEN2_WEB_TOKEN (or in the file that DPGEN2_WEB_TOKEN_FILE names) who knows it
    can pause, resume, cancel, rewind and patch runs there. Ctrl-C ends it. The daemon's --listen serves the same pages.
    """
    from statemachine.run.opening import find_prefix
    from statemachine.store import prefix_url
    from statemachine.web.serve import serve

    if not targets and not discover:
        raise typer.BadParameter("name a run, or --discover PREFIX", param_hint="RUN")
    prefixes = [find_prefix(target) for target in targets or ()]
    serve(prefixes, [prefix_url(place, Path.cwd()) for place in discover or ()], listen)
