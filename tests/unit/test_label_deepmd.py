"""label/deepmd with a stand-in for DeePMD-kit: the teacher reaches the job, and its labels the dataset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ase import Atoms

from conventions.errors import DataError
from conventions.space import DataSpace
from operators.registry import load_config
from tests.label_run import LabelRun
from tests.label_samples import given
from tests.stage_harness import run_job

# A teacher whose energy is a spring to the origin with the constant in the model file.
DEEPMD = """\
import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class DP(Calculator):
    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, model, head=None):
        super().__init__()
        assert model.endswith("teacher.pth")
        self.spring = float(open(model).read()) * (2 if head == "stiff" else 1)
        self.type_dict = {"Cu": 0, "O": 1}

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        forces = -self.spring * atoms.positions
        types = [self.type_dict[symbol] for symbol in atoms.symbols]
        self.results = {"energy": 0.5 * self.spring * (atoms.positions**2).sum(), "forces": forces,
                        "stress": np.array([0.1, 0, 0, 0, 0, 0])}
"""


def run(root: Path, frames: list[Atoms], type_map: list[str], **label: Any) -> LabelRun:
    (root / "site/deepmd").mkdir(parents=True)
    (root / "site/deepmd/__init__.py").write_text("__version__ = '3'\n")
    (root / "site/deepmd/calculator.py").write_text(DEEPMD)
    settings = {
        "teacher_model_path": given(root, "big.pth", "3.0"),
        "setup": [f"export PYTHONPATH='{root}/site'"],
        "command": sys.executable,
    }
    return LabelRun(root, {"app": "deepmd", **settings, **label}, frames, type_map, iteration=1)


def frames(*symbols: str) -> list[Atoms]:
    positions = [[0.5, 0.25, 0], [2, 2, 2]]
    return [Atoms(each, positions, cell=[4, 4, 4], pbc=True) for each in symbols]


@pytest.mark.parametrize(("head", "spring"), [(None, 3.0), ("stiff", 6.0)])
def test_the_teacher_labels(tmp_path: Path, head: str | None, spring: float) -> None:
    more = {} if head is None else {"head": head}
    found = run(tmp_path, frames("OCu", "OCu", "OCu"), ["Cu", "O"], group_size=2, **more)
    report = found.stage()
    assert (report.classes, report.jobs.planned) == ({"ok": 3}, 2)
    data = dpdata.LabeledSystem(str(found.labels / "Cu1O1"), fmt="deepmd/npy").data
    assert np.allclose(data["forces"][0], [[-2 * spring] * 3, [-0.5 * spring, -0.25 * spring, 0]])
    assert data["energies"] == pytest.approx([0.5 * spring * 12.3125] * 3)
    assert data["virials"][0, 0, 0] == pytest.approx(-0.1 * 64)


def test_an_element_that_the_teacher_does_not_know(tmp_path: Path) -> None:
    found = run(tmp_path, frames("OCu", "AlCu"), ["Cu", "O", "Al"])
    report = found.stage()
    assert report.classes == {"ok": 1, "exception": 1}
    assert "KeyError: 'Al'" in report.messages[0]
    config = load_config((tmp_path / found.place.config).read_bytes())
    contents = found.app.probe(config, tmp_path / DataSpace.files)
    (tmp_path / "probe").mkdir()
    for name, content in contents.items():
        (tmp_path / "probe" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    done = subprocess.run(["sh", "run.sh"], cwd=tmp_path / "probe", capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode().strip().endswith("the teacher of label.teacher_model_path does not know Al")


def test_another_teacher_is_another_job_and_a_spoiled_one_is_refused(tmp_path: Path) -> None:
    found = run(tmp_path, frames("OCu"), ["Cu", "O"])
    assert found.stage().classes == {"ok": 1}
    assert found.plan().n_todo == 0
    root = tmp_path / "other"
    root.mkdir()
    other = run(root, frames("OCu"), ["Cu", "O"], teacher_model_path=given(root, "big.pth", "4.0"))
    first = (tmp_path / found.place.jobs / "000000/in/digest").read_text()
    assert other.plan().n_todo == 1
    assert (root / other.place.jobs / "000000/in/digest").read_text() != first
    (read,) = (root / other.place.files).rglob("*.pth")
    read.write_text("5.0")
    assert run_job(other.app, other.place, root, "000000") == 70
    report = other.reduce(1)
    assert report.classes == {"lost": 1} and "sha256 differs" in report.messages[1]
    assert other.plan().n_todo == 1 and read.read_text() == "4.0", "the next attempt writes it again"
    (stored,) = (path for path in (root / DataSpace.files).rglob("big.pth") if path.read_text() == "4.0")
    stored.write_text("5.0")
    with pytest.raises(DataError, match="sha256 differs"):
        other.plan()
