"""Draw the pictures of `concurrent-learning.md` from the run that `make demo` leaves.

python docs/make_pictures.py runs/copper
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from ase.calculators.emt import EMT
from ase.io import read

LO, HI = 0.10, 0.40  # f_trust_lo, f_trust_hi of the demo
EXPLORED = {"first models": 0, "after 23 labels": 1}
COLOURS = ("#b33", "#28c")
STYLE = {"svg.hashsalt": "dpgen2-sm", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def explored(run: Path, iteration: int) -> tuple[np.ndarray[Any, Any], list[Any]]:
    """max_devi_f of every frame that an iteration explored, and the frames."""
    deviations, frames = [], []
    for folder in sorted((run / f"explore/lammps/iter/{iteration:06d}/job").glob("*/out/task.*")):
        deviations.append(np.loadtxt(folder / "model_devi.out", ndmin=2)[:, 4])
        frames += read(folder / "traj.lammpstrj", ":", format="lammps-dump-text", specorder=["Cu"])
    return np.concatenate(deviations), frames


def true_errors(run: Path, iteration: int, frames: list[Any]) -> np.ndarray[Any, Any]:
    """The largest error of a force in each frame: of the committee's mean, against the teacher, eV/A."""
    from deepmd.infer import DeepPot

    models = [
        DeepPot(str(path)) for path in sorted((run / f"train/deepmd/iter/{iteration:06d}/product").glob("graph.*.pb"))
    ]
    worst = []
    for atoms in frames:
        kind = np.zeros(len(atoms), int)
        found = [model.eval(atoms.positions[None], atoms.cell.array[None], kind)[1][0] for model in models]
        atoms.calc = EMT()
        error = np.linalg.norm(np.mean(found, axis=0) - atoms.get_forces(), axis=1)
        worst.append(error.max())
    return np.array(worst)


def deviations(run: Path, path: Path) -> None:
    """How exploration moves below the lower trust level."""
    figure, axes = plt.subplots(figsize=(5.2, 2.6))
    bins = np.geomspace(0.005, 1, 36)
    for (name, iteration), colour in zip(EXPLORED.items(), COLOURS, strict=True):
        axes.hist(explored(run, iteration)[0], bins, alpha=0.6, color=colour, label=f"iteration {iteration}: {name}")
    axes.axvspan(LO, HI, color="#fc6", alpha=0.3, zorder=0)
    axes.set(xscale="log", xlabel="max_devi_f, eV/Å", ylabel="frames")
    top = axes.get_ylim()[1]
    for at, word in ((0.022, "accurate"), ((LO * HI) ** 0.5, "candidate"), (0.63, "failed")):
        axes.text(at, top, word, ha="center", va="bottom")
    axes.legend(frameon=False, loc="upper right")
    save(figure, path)


def calibration(run: Path, path: Path) -> None:
    """Deviation beside true error: what the trust levels are chosen on."""
    figure, axes = plt.subplots(figsize=(4.2, 3.6))
    for (name, iteration), colour in zip(EXPLORED.items(), COLOURS, strict=True):
        found, frames = explored(run, iteration)
        axes.scatter(
            found, true_errors(run, iteration, frames), 6, color=colour, label=f"iteration {iteration}: {name}"
        )
    ends = (0.01, 2)
    axes.plot(ends, ends, color="black", linewidth=0.7)
    axes.axvspan(LO, HI, color="#fc6", alpha=0.3, zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(0.01, 1), ylim=ends)
    axes.set(xlabel="max_devi_f, eV/Å", ylabel="largest true error of a force, eV/Å")
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)


def progress(run: Path, path: Path) -> None:
    """The table of `status`, drawn."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.4))
    reports = {stage: {} for stage in ("train", "select")}  # type: dict[str, dict[int, dict[str, float]]]
    for stage, found in reports.items():
        for report in run.glob(f"{stage}/*/iter/*/report.json"):
            found[int(report.parent.name)] = json.loads(report.read_bytes())["summary"]
    errors = {number: found["rmse_f"] for number, found in sorted(reports["train"].items())}
    left.plot(list(errors), list(errors.values()), "o-", color=COLOURS[0])
    left.set(xlabel="iteration", ylabel="force RMSE, eV/Å", ylim=(0, None), xticks=list(errors))
    numbers = sorted(reports["select"])
    bottom = np.zeros(len(numbers))
    for name, colour in (("accurate", "#7b7"), ("candidate", "#fc6"), ("failed", "#c66")):
        counts = np.array([reports["select"][number][name] for number in numbers])
        shares = counts / sum(reports["select"][numbers[0]][each] for each in ("accurate", "candidate", "failed"))
        right.bar(numbers, shares, 0.6, bottom, color=colour, label=name)
        bottom += shares
    right.set(xlabel="iteration", ylabel="explored frames", xticks=numbers)
    right.legend(frameon=False, fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    run, here = Path(sys.argv[1]), Path(__file__).parent / "pictures"
    here.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        deviations(run, here / "deviations.svg")
        calibration(run, here / "calibration.svg")
        progress(run, here / "progress.svg")


if __name__ == "__main__":
    main()
