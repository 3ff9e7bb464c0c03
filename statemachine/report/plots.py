"""The plots of a report, by matplotlib: as SVG in the page's own colours, or as PNG for a paper.

Equal figures give equal bytes: no date, no random ids.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .curves import Curve
from .figures import Figures, scored
from .times import waits

Axes = Any  # of matplotlib, whose types differ from version to version
INK = "#010203"  # stands for the page's text colour
BLUE, ORANGE, RED, GREEN, GREY = "#3b7dd8", "#e08a1e", "#d1495b", "#2a9d6f", "#8a8f98"
CLASSES = {"accurate": GREEN, "candidate": ORANGE, "failed": RED}
POINTS = 600  # of a scatter plot; more are drawn evenly from all
BARS = 400  # of the timeline
UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dpgen2-sm",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}

Draw = Callable[[Axes], None]
_drawing = threading.Lock()  # matplotlib's settings are those of the whole process


def plots(figures: Figures, curves: Sequence[Curve] = ()) -> dict[str, tuple[str, Draw]]:
    """What there is to draw: a title and who draws it, by name."""
    found: dict[str, tuple[str, Draw]] = {}
    rows = [one.row for one in figures.iterations if not one.row.left]
    if any(name in row.figures for row in rows for name in CLASSES):
        found["classes"] = ("Explored frames by class", lambda axes: draw_classes(axes, rows))
    if any("rmse_f" in row.figures or "train_rmse_f" in row.figures for row in rows):
        found["errors_f"] = ("Errors of forces", lambda axes: draw_forces(axes, rows))
        found["errors_e"] = ("Errors of energies", lambda axes: draw_energies(axes, rows))
    if any("labelled" in row.figures for row in rows):
        found["labels"] = ("Labels so far", lambda axes: draw_labels(axes, rows))
    explored = [one for one in figures.iterations if one.explored and not one.row.left]
    if explored:
        found["deviations"] = ("Model deviation of the explored frames", lambda axes: draw_deviations(axes, explored))
    if pairs := scored([one for one in figures.iterations if not one.row.left]):
        found["calibration"] = (
            "True error of new labels beside the deviation that chose them",
            lambda axes: draw_calibration(axes, pairs),
        )
        found["absorption"] = (
            "Error on the labels before and after they were trained on",
            lambda axes: draw_absorption(axes, pairs),
        )
    if curves:
        found["curves"] = ("Learning curves of the newest models", lambda axes: draw_curves(axes, curves))
    if figures.spans:
        found["timeline"] = (
            "Stages and attempts, pale while they waited for a first job",
            lambda axes: draw_timeline(axes, figures),
        )
    return found


def svg(draw: Draw, title: str) -> str:
    """A plot as an SVG element in the colour of the text around it."""
    text = io.StringIO()
    with _figure(draw) as figure:
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": title})
    whole = text.getvalue()
    return plain_attributes(whole[whole.index("<svg") :]).replace(INK, "currentColor")


_SHEET = re.compile(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>\s*")
_ROUND = '<svg stroke-linejoin="round" stroke-linecap="butt"'  # what that sheet says of all elements


def plain_attributes(drawn: str) -> str:
    """matplotlib's SVG without styles, which a page under a strict policy may not have: as attributes they are allowed.

    >>> plain_attributes('<svg><defs><style>*{}</style></defs><g style="fill: #fff; font: 9px sans"/></svg>')
    '<svg stroke-linejoin="round" stroke-linecap="butt"><g fill="#fff" font-size="9px" font-family="sans"/></svg>'
    """
    without = _SHEET.sub("", drawn, count=1).replace("<svg", _ROUND, 1)
    return re.sub(r"<[a-z][^<>]*>", lambda tag: re.sub(r'style="([^"]*)"', _as_attributes, tag[0]), without)


def _as_attributes(style: re.Match[str]) -> str:
    pairs = [(name.strip(), value.strip()) for name, _, value in (one.partition(":") for one in style[1].split(";"))]
    short = dict(pairs).get("font", "")
    size, _, family = short.partition(" ")
    pairs += [("font-size", size), ("font-family", family)] if short else []
    return " ".join(f'{name}="{value}"' for name, value in pairs if name and name != "font")


def write_png(folder: Path, found: dict[str, tuple[str, Draw]]) -> list[Path]:
    """Each plot as a PNG of 200 dpi, black on white."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (_, draw) in found.items():
        paths.append(folder / f"{name}.png")
        with _figure(draw) as figure:
            figure.savefig(paths[-1], dpi=200, facecolor="white", metadata={"Software": None})
    return paths


@contextmanager
def _figure(draw: Draw) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with _drawing, matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                _plain_numbers(axis)
        yield figure


def draw_classes(axes: Axes, rows: Sequence[Any]) -> None:
    explored = [row for row in rows if any(row.figures.get(name) for name in CLASSES)]
    at = [row.iteration for row in explored]
    total = np.array([sum(row.figures.get(name, 0.0) for name in CLASSES) for row in explored])
    bottom = np.zeros(len(explored))
    for name, colour in CLASSES.items():
        share = np.array([row.figures.get(name, 0.0) for row in explored]) / total
        axes.bar(at, share, bottom=bottom, color=colour, label=name, width=0.8)
        bottom = bottom + share
    axes.set(xlabel="iteration", ylabel="fraction of frames", ylim=(0, 1))
    _whole_numbers(axes)
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def draw_forces(axes: Axes, rows: Sequence[Any]) -> None:
    names = {
        "rmse_f": ("test set", BLUE),
        "train_rmse_f": ("training set", GREY),
        "blind_rmse_f": ("new labels, before training", RED),
        "new_rmse_f": ("new labels, after training", GREEN),
        "check_rmse_f": ("accurate frames (check)", ORANGE),
    }
    _lines(axes, rows, names)
    axes.set(xlabel="iteration", ylabel="RMSE of forces (eV/Å)", yscale="log")


def draw_energies(axes: Axes, rows: Sequence[Any]) -> None:
    _lines(axes, rows, {"rmse_e": ("test set", BLUE), "train_rmse_e": ("training set", GREY)})
    axes.set(xlabel="iteration", ylabel="RMSE of energies (eV/atom)", yscale="log")


def _lines(axes: Axes, rows: Sequence[Any], names: dict[str, tuple[str, str]]) -> None:
    for name, (label, colour) in names.items():
        found = [(row.iteration, row.figures[name]) for row in rows if row.figures.get(name, 0) > 0]
        if found:
            axes.plot(*zip(*found, strict=True), "o-", color=colour, label=label, markersize=4, linewidth=1.5)
    _whole_numbers(axes)
    if axes.get_lines():
        axes.legend()


def draw_labels(axes: Axes, rows: Sequence[Any]) -> None:
    found = [row for row in rows if "labelled" in row.figures]
    at = [row.iteration for row in found]
    axes.step(at, np.cumsum([row.figures["labelled"] for row in found]), where="post", color=BLUE, label="labels")
    if any(row.figures.get("discarded") for row in found):
        lost = np.cumsum([row.figures.get("discarded", 0) for row in found])
        axes.step(at, lost, where="post", color=RED, label="discarded")
    axes.set(xlabel="iteration", ylabel="frames", ylim=(0, None))
    _whole_numbers(axes)
    axes.legend()


def draw_deviations(axes: Axes, explored: Sequence[Any]) -> None:
    """Histograms of the first, the middle and the last iterations, with the trust levels of the last."""
    reach: list[float] = []
    places = sorted({0, len(explored) // 3, 2 * len(explored) // 3, len(explored) - 1})
    for number, place in enumerate(places):
        one = explored[place]
        counts = np.sum([group.histogram for group in one.explored.groups], axis=0) if one.explored.groups else None
        if counts is None or not counts.sum():
            continue
        edges = np.array(one.explored.edges)
        filled = np.flatnonzero(counts[1:-1])
        reach += [edges[filled[0]], edges[filled[-1] + 1]] if len(filled) else []
        shade = (number + 1) / len(places)
        axes.stairs(counts[1:-1] / counts.sum(), edges, color=BLUE, alpha=shade, label=f"iteration {one.row.iteration}")
    for name, colour in (("f_trust_lo", GREEN), ("f_trust_hi", RED)):
        for value in sorted({levels[name] for levels in explored[-1].explored.levels.values() if name in levels}):
            axes.axvline(value, color=colour, linestyle="--", linewidth=1)
            reach.append(value)
    axes.set(xscale="log", xlabel="max_devi_f (eV/Å)", ylabel="fraction of frames")
    if reach:
        axes.set_xlim(min(reach) / 1.5, max(reach) * 1.5)
    axes.legend()


def draw_calibration(axes: Axes, pairs: Sequence[tuple[int, Any]]) -> None:
    from matplotlib import colormaps

    shown = _thin(pairs)
    at = np.array([[one.max_devi_f, one.max_error_f] for _, one in shown])
    numbers = [number for number, _ in shown]
    colours = colormaps["viridis"].resampled(min(len(set(numbers)), 20))  # more would be an image, not shapes
    points = axes.scatter(*at.T, c=numbers, cmap=colours, s=14, alpha=0.8, linewidths=0)
    if checks := [place for place, (_, one) in enumerate(shown) if one.check]:
        axes.scatter(*at[checks].T, s=40, facecolors="none", edgecolors=INK, linewidths=0.8, label="check frames")
    ends = [at.min(), at.max()]
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="error = deviation")
    axes.set(xscale="log", yscale="log", xlabel="max_devi_f (eV/Å)", ylabel="largest error of a force (eV/Å)")
    bar = axes.figure.colorbar(points, label="iteration")
    bar.ax.yaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def draw_absorption(axes: Axes, pairs: Sequence[tuple[int, Any]]) -> None:
    for name, label, colour in (
        ("max_error_f", "before (blind spot)", RED),
        ("new_error_f", "after (absorption)", GREEN),
    ):
        numbers = sorted({number for number, one in pairs if getattr(one, name) is not None})
        medians = [
            np.percentile(
                [getattr(one, name) for at, one in pairs if at == number and getattr(one, name) is not None],
                [5, 50, 95],
            )
            for number in numbers
        ]
        if numbers:
            low, middle, high = np.array(medians).T
            axes.plot(numbers, middle, "o-", color=colour, label=label, markersize=4)
            axes.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="iteration", ylabel="largest error of a force (eV/Å)", ylim=(0, None))
    _whole_numbers(axes)
    axes.legend(title="median, 5 to 95 %")


def draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    for number, curve in enumerate(curves):
        label = "energy (eV/atom)" if number == 0 else None
        axes.plot(curve.steps, curve.rmse_e, color=BLUE, alpha=0.7, linewidth=1, label=label)
        label = "forces (eV/Å)" if number == 0 else None
        axes.plot(curve.steps, curve.rmse_f, color=ORANGE, alpha=0.7, linewidth=1, label=label)
    axes.set(xlabel=curves[0].unit, ylabel=f"RMSE on {curves[0].data}", yscale="log")
    axes.legend()


def draw_timeline(axes: Axes, figures: Figures) -> None:
    spans = figures.spans[-BARS:]
    first = spans[0].begin
    unit, seconds = next(each for each in UNITS if spans[-1].end - first >= 2 * each[1] or each[1] == 1)
    rows = ("select", "explore", "train", "label")
    waited = waits(figures.iterations, spans)
    idle = {span: ((span.begin - first) / seconds, length / seconds) for span, length in waited.items()}
    colours = {"label": BLUE, "train": GREEN, "explore": ORANGE, "select": GREY}
    for row, stage in enumerate(rows):
        for failed in (False, True):
            bars = [
                ((span.begin - first) / seconds, (span.end - span.begin) / seconds)
                for span in spans
                if span.stage == stage and bool(span.why) is failed
            ]
            if bars:
                edge = {"edgecolor": RED, "hatch": "///", "alpha": 0.6} if failed else {}
                axes.broken_barh(bars, (row - 0.35, 0.7), facecolor=colours[stage], linewidth=0, **edge)
        pale = [bar for span, bar in idle.items() if span.stage == stage]
        axes.broken_barh(pale, (row - 0.35, 0.7), facecolor="white", alpha=0.6, linewidth=0)
    axes.set(yticks=range(4), yticklabels=rows, xlabel=f"{unit} since the first of them began")
    axes.grid(axis="y", visible=False)


def _thin(pairs: Sequence[tuple[int, Any]]) -> Sequence[tuple[int, Any]]:
    if len(pairs) <= POINTS:
        return pairs
    return [pairs[place] for place in np.linspace(0, len(pairs) - 1, POINTS).astype(int)]


def _plain_numbers(axis: Any) -> None:
    """0.01, not 10 to the power of -2: a report of many plots is ready in half the time without mathematical text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(plain if high < 50 * low else NullFormatter())


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
