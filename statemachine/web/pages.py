"""Pages as text, out of what is known. Nothing is read here, and every text of others is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from conventions.names import STAGES, sha256
from statemachine.logs import known
from statemachine.report.page import environment

from .board import Seen
from .consequences import TITLES
from .files import Folder
from .jobs import PAGE, Jobs
from .view import Shown

if TYPE_CHECKING:
    from jinja2 import Environment

    from conventions.state import State
    from statemachine.machine.orders import Order

SHOWN = 1000  # runs of an overview
EVERY = 5.0  # seconds between two questions of a page that is looked at


def overview_tag(runs: Sequence[Seen]) -> str:
    """Changes when the overview does."""
    rows = [(run.prefix, run.state and (run.state.version, run.state.nonce), run.error) for run in runs]
    return sha256(repr(rows).encode())[:32]


def overview(runs: Sequence[Seen], every: float = EVERY) -> str:
    """All runs: a row for each."""
    return _page(
        "overview.html", runs=runs[:SHOWN], more=max(0, len(runs) - SHOWN), tag=overview_tag(runs), every=every
    )


def run(name: str, shown: Shown, every: float = EVERY, orders: bool = False) -> str:
    """The report of a run, and where its present stage is."""
    return _page("run.html", **shown.values, name=name, shown=shown, tag=shown.tag, every=every, orders=orders)


def jobs_tag(state: State, stage: str, iteration: int, found: Jobs) -> str:
    """Changes when that page does."""
    return sha256(repr((stage, iteration, state.stage, state.iteration, found)).encode())[:32]


def jobs(
    name: str,
    state: State,
    stage: str,
    iteration: int,
    found: Jobs,
    tag: str,
    every: float = EVERY,
    orders: bool = False,
) -> str:
    """The jobs of a stage."""
    place = {"stage": stage, "iteration": iteration, "stages": STAGES}
    shown = {"found": found, "page": PAGE, "tag": tag, "every": every, "orders": orders}
    return _page("jobs.html", name=name, state=state, **shown, **place)


def folder(name: str, title: str, kind: str, path: str, found: Folder, orders: bool = False) -> str:
    """Files that can be downloaded."""
    up = path.rstrip("/").rpartition("/")[0]
    place = {"kind": kind, "path": path, "up": f"{up}/" if up else ""}
    return _page("folder.html", name=name, title=title, found=found, orders=orders, **place)


def login(run: str, wrong: str = "") -> str:
    """Where the token is given; afterwards the orders of a run are shown."""
    return _page("login.html", run=run, wrong=wrong)


def orders(name: str, state: State, csrf: str, why: Mapping[str, str], text: str) -> str:
    """What can be ordered: `why` says of an order what is against it, `text` is the present configuration."""
    return _page(
        "orders.html", name=name, state=state, csrf=csrf, why=why, text=text, stages=STAGES, titles=TITLES, orders=True
    )


def sure(
    name: str,
    state: State,
    csrf: str,
    order: Order,
    sure: str,
    will: Sequence[str],
    changes: Sequence[str],
    notes: Sequence[str],
    moved: bool,
) -> str:
    """What an order will do, and whether that is meant; `moved`: the run is not any more where it was first asked."""
    asked = {"order": order, "title": TITLES[order.trigger], "sure": sure, "will": will, "moved": moved}
    return _page("sure.html", name=name, state=state, csrf=csrf, changes=changes, notes=notes, orders=True, **asked)


def trouble(title: str, text: str, back: str = "") -> str:
    """Why there is no such page, or not now; and from where to try again."""
    return _page("trouble.html", title=title, text=text, back=back)


def style() -> bytes:
    """The style sheet of all pages: that of the report, and ours."""
    report = files("statemachine.report") / "templates" / "report.css"
    return report.read_bytes() + (files("statemachine.web") / "static" / "web.css").read_bytes()


def script() -> bytes:
    """What refreshes pages."""
    return (files("statemachine.web") / "static" / "live.js").read_bytes()


def _page(template: str, **values: Any) -> str:
    return known.redact(_environment().get_template(template).render(values)) + "\n"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, PackageLoader

    report = environment()
    assert report.loader is not None
    return report.overlay(loader=ChoiceLoader([PackageLoader("statemachine.web"), report.loader]))
