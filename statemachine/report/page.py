"""The report as one self-contained page: no network, no script; it prints, and reads on a phone and in dark mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from conventions.errors import Dpgen2Error
from conventions.forms import printable
from statemachine.machine.outlook import CLASSES, shares

from .causes import causes
from .curves import read_curves
from .figures import Figures
from .pictures import read_pictures
from .plots import plots, svg

if TYPE_CHECKING:
    from jinja2 import Environment

    from statemachine.store import Store

LONGEST = 120  # characters of a text that somebody else wrote, in a table
# Classes of results that nobody needs to look at.
NO_TROUBLE = {"select": {*CLASSES, "skipped", "selected", "check", "duplicate", "too_few", "accurate_set"}}
ROWS, NEWEST = 200, 25  # iterations in the table, and of these without opening it


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    svg: Any  # Markup: made by us


def render(figures: Figures, store: Store, configuration: str = "") -> str:
    """The page of a run."""
    return environment().get_template("report.html").render(values(figures, store, configuration))


def values(figures: Figures, store: Store, configuration: str = "") -> dict[str, Any]:
    """What the page of a run shows: for `report.html`, and for templates that extend it."""
    from markupsafe import Markup

    drawn = plots(figures, read_curves(store, figures.state))
    iteration, chosen, pictures = read_pictures(store, figures.state)
    explored = [one for one in figures.iterations if one.explored is not None]
    trained = [one for one in figures.iterations if one.trained is not None and one.trained.models]
    return {
        "figures": figures,
        "state": figures.state,
        "rows": [_cells(one.row.figures) | {"one": one} for one in figures.iterations[-ROWS:]],
        "newest": NEWEST,
        "hidden": max(0, len(figures.iterations) - ROWS),
        "plots": [Plot(name, title, Markup(svg(draw, title))) for name, (title, draw) in drawn.items()],
        "pictures": pictures,
        "chosen": chosen,
        "chosen_in": iteration,
        "explored": explored[-1] if explored else None,
        "trained": trained[-1] if trained else None,
        "calibrations": figures.calibrations()[-ROWS:],
        "times": figures.times,
        "troubles": troubles(figures),
        "configuration": configuration,
    }


def _cells(figures: Mapping[str, float]) -> dict[str, Any]:
    """What a row of the table shows of an iteration's figures."""
    return {
        "shares": shares(figures),
        "frames": int(sum(figures.get(name, 0) for name in CLASSES)),
        **{name: int(figures[name]) for name in ("labelled", "discarded", "selected") if name in figures},
    }


def troubles(figures: Figures) -> list[tuple[str, str]]:
    """Where something went wrong and what was said: attempts that were given up, and what stages tell."""
    found = [
        (f"iteration {span.iteration} {span.stage}, attempt {span.attempt}", span.why)
        for span in figures.spans
        if span.why
    ]
    for one in figures.iterations:
        for stage, outcome in one.stages.items():
            bad = {
                kind: number
                for kind, number in outcome.classes.items()
                if number and kind not in NO_TROUBLE.get(stage, {"ok"})
            }
            told = ", ".join(f"{number} {kind}" for kind, number in sorted(bad.items()))
            why = causes(one.explored, outcome.classes) if stage == "select" else []
            text = "; ".join([*([told] if told else []), *outcome.messages, *why])
            if text:
                found.append((f"iteration {one.row.iteration} {stage}", text))
    return found[-ROWS:]


def short(text: str, longest: int = LONGEST) -> str:
    """A text of others, without what is not printable, cut where it is long."""
    plain = printable(text, kept="\n")
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def duration(seconds: float | None) -> str:
    """
    >>> duration(40), duration(150), duration(7300), duration(200000)
    ('40 s', '2 min 30 s', '2 h 01 min', '2 d 7 h')
    """
    if seconds is None:
        return "–"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole} s"
    if hours < 1:
        return f"{minutes} min {whole % 60} s" if whole % 60 else f"{minutes} min"
    return f"{hours} h {minutes % 60:02d} min" if days < 1 else f"{days} d {hours % 24} h"


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def hours(seconds: float | None) -> str:
    """
    >>> hours(None), hours(90), hours(4567890)
    ('–', '0.0250', '1,269')
    """
    if seconds is None:
        return "–"
    if seconds < 360:
        return f"{seconds / 3600:.4f}"
    return f"{seconds / 3600:.3g}" if seconds < 360_000 else f"{seconds / 3600:,.0f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates of reports, with what they need to write numbers and texts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("statemachine.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    found.filters |= {
        "short": short,
        "duration": duration,
        "hours": hours,
        "number": number,
        "percent": percent,
        "moment": moment,
    }
    return found


def configuration_text(store: Store, state: Any) -> str:
    """The configuration of the present iteration as it is stored; empty where it cannot be read."""
    import json

    from statemachine.run.configuration import configuration

    try:
        return json.dumps(json.loads(configuration(store, state)), indent=1, ensure_ascii=False)
    except (Dpgen2Error, ValueError):
        return ""
