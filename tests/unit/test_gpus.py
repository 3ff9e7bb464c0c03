"""GPUs of the local engine: what the configuration says, and which job gets which."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import ConfigError
from operators.pod import scripts
from statemachine.engine import Phase
from statemachine.engine.interpreter import Interpreter
from statemachine.engine.local import LocalEngine
from statemachine.run.config_file import read_config
from statemachine.store.file import FileStore
from tests.contract.engine_contract import manifest

Seen = list[tuple[str, str | None]]


def run(root: Path, stage: str, gpus: list[str], slots: int, script: str = scripts.JOB) -> tuple[Seen, int, str]:
    """Jobs and their GPUs, how many ran at once, and the threads that each was told to use."""
    items = json.dumps([f"{number:06d}" for number in range(12)])
    (root / "workflow").mkdir()
    (root / "workflow/manifest.json").write_text(json.dumps(manifest(f"cu-0-000000-{stage}-a0", script, items=items)))
    settings = {"uid": "u", "store": FileStore.of(root / "store").url, "slots": slots, "gpus": gpus}
    (root / "workflow/settings.json").write_text(json.dumps({**settings, "work": str(root / "work")}))
    lock, most, threads = threading.Lock(), [0], [""]
    taken: Seen = []
    seen: Seen = []
    full = threading.Barrier(min(slots, len(gpus)) if gpus and stage != "label" else slots)

    def execute(script: Mapping[str, Any], env: Mapping[str, str], place: Path, log: Path) -> int:
        if "JOB_ID" not in env:
            return sh(script, env)
        job = (env["JOB_ID"], env.get("CUDA_VISIBLE_DEVICES"))
        with lock:
            taken.append(job)
            most[0] = max(most[0], len(taken))
            if gpus:
                assert all(sum(gpu == other for _, other in taken) <= gpus.count(gpu) for _, gpu in taken if gpu)
        full.wait(20)
        with lock:
            taken.remove(job)
            seen.append(job)
        threads[0] = env["OMP_NUM_THREADS"]
        return 0

    assert Interpreter(root / "workflow", execute).run() is Phase.succeeded
    return sorted(seen), most[0], threads[0]


def sh(script: Mapping[str, Any], env: Mapping[str, str]) -> int:
    import subprocess

    return subprocess.run(["sh", "-c", script["source"]], env=dict(env)).returncode


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)


@pytest.mark.parametrize("stage", ["train", "explore"])
def test_each_job_has_a_gpu_of_its_own(tmp_path: Path, stage: str) -> None:
    seen, at_once, threads = run(tmp_path, stage, ["0", "2"], slots=4)
    assert at_once == 2 and {gpu for _, gpu in seen} == {"0", "2"} and len(seen) == 12
    assert threads == "4", "the cores are divided among the jobs that run at once"


def test_a_gpu_that_is_listed_twice_has_two_jobs(tmp_path: Path) -> None:
    seen, at_once, _ = run(tmp_path, "train", ["0", "0", "1"], slots=4)
    assert at_once == 3 and {gpu for _, gpu in seen} == {"0", "1"}


def test_fewer_slots_than_gpus(tmp_path: Path) -> None:
    seen, at_once, _ = run(tmp_path, "train", ["0", "1", "2"], slots=1)
    assert at_once == 1 and None not in dict(seen).values()


def test_other_stages_and_other_machines_get_none(tmp_path: Path) -> None:
    for name, stage, gpus in (("a", "label", ["0"]), ("b", "train", [])):
        (tmp_path / name).mkdir()
        seen, at_once, threads = run(tmp_path / name, stage, gpus, slots=4)
        assert at_once == 4 and {gpu for _, gpu in seen} == {None} and threads == "2"


def test_jobs_for_a_batch_system_are_not_limited_by_this_machine(tmp_path: Path) -> None:
    (tmp_path / "workflow").mkdir()
    found = manifest("cu-0-000000-train-a0", f"HPC = ...\n{scripts.BATCH}")
    (tmp_path / "workflow/manifest.json").write_text(json.dumps(found))
    settings = {"uid": "u", "store": tmp_path.as_uri(), "slots": 9, "gpus": ["0"], "work": str(tmp_path)}
    (tmp_path / "workflow/settings.json").write_text(json.dumps(settings))
    interpreter = Interpreter(tmp_path / "workflow", lambda *_: 0)
    assert interpreter.slots == 9 and interpreter.gpus == []


@pytest.mark.parametrize(
    ("typed", "devices"),
    [("2", ["0", "1"]), ("[1, 3]", ["1", "3"]), ("[GPU-5c1e8a2f-1]", ["GPU-5c1e8a2f-1"]), ("0", [])],
)
def test_what_the_configuration_says(stub_run: Path, typed: str, devices: list[str]) -> None:
    stub_run.write_text(stub_run.read_text().replace("slots: 2", f"slots: 2, gpus: {typed}"))
    assert read_config(stub_run).engine.gpus == devices


@pytest.mark.parametrize("typed", ["-1", "two", "[cuda:0]", "[-1]", "1.5", '["0,1"]', "true"])
def test_what_is_refused(stub_run: Path, typed: str) -> None:
    stub_run.write_text(stub_run.read_text().replace("slots: 2", f"slots: 2, gpus: {typed}"))
    with pytest.raises(ConfigError, match=r"engine\.gpus"):
        read_config(stub_run)


def test_doctor_says_it(tmp_path: Path) -> None:
    said = LocalEngine(tmp_path, "file:///x", 4, ["0", "1"]).check()
    assert said == "local: up to 4 jobs at once on this machine; train and explore jobs on GPU 0, 1, one each"
