"""The plot of a replay: frames chosen by each rule, and errors over the labels that they had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .replay import Outcome


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write it as SVG or PNG, by the name of the file; equal outcomes give equal bytes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "dpgen2-sm"
    from matplotlib.figure import Figure

    rules = [outcome for outcome in outcomes if outcome.selections]
    trained = [outcome for outcome in outcomes if outcome.errors]
    figure = Figure(figsize=(10 if trained else 5.5, 4), layout="constrained")
    chosen, *more = figure.subplots(1, 2 if trained else 1, squeeze=False)[0]
    for outcome in rules:
        numbers = [one.iteration for one in outcome.selections]
        chosen.plot(numbers, [len(one.frames) for one in outcome.selections], "o-", label=outcome.rule)
    chosen.set(xlabel="iteration", ylabel="frames chosen", ylim=(0, None))
    chosen.xaxis.get_major_locator().set_params(integer=True)
    chosen.legend()
    for errors in more:
        for outcome in trained:
            (mark,) = errors.plot([outcome.labels], [outcome.errors["rmse_f"]], "o", label=outcome.rule)
            if outcome.by_chance:
                point = [outcome.labels], [outcome.by_chance["rmse_f"]]
                errors.plot(*point, "x", color=mark.get_color(), label=f"{outcome.rule}, by chance")
        errors.set(xlabel="labels trained on", ylabel="force RMSE on init.test (eV/\u00c5)", ylim=(0, None))
        errors.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
