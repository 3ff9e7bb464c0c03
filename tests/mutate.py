"""Mutants: one small change to a file at a time, and some test must fail. By hand: `make mutants`.

    python tests/mutate.py ROOM SAMPLE SEED

runs Cosmic Ray on a folder, or on a file, in a checkout of HEAD beside its own virtual environment: on so many mutants,
chosen at random, or on all (0). Each is written to the disk, for much of the code runs in other processes: workflows,
jobs, pods. It is tried by tests that name its file, then by its room's. A run that was interrupted goes on
when it is called again. What has survived is shown at the end; `docs/reliability.md` has the reasons.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

TREE = Path(sys.prefix) / "tree"
QUICK = "not engines and not servers and not slow and not search"
TESTS = {  # of each room, the cheap ones first
    "statemachine/machine": """
        unit/test_machine unit/test_docs unit/test_home unit/test_prune unit/test_outlook fault/test_crashes
        unit/test_orders""",
    "statemachine/run": """
        unit/test_systems unit/test_history unit/test_home unit/test_data unit/test_prune unit/test_bad_files
        unit/test_restore unit/test_orders""",
    "statemachine/store": """
        contract/test_memory_store contract/test_file_store unit/test_race unit/test_locks unit/test_s3
        unit/test_s3_listing unit/test_mirror contract/test_s3_store fault/test_s3_faults""",
    "statemachine/engine": """
        unit/test_workflow unit/test_scripts unit/test_given unit/test_gpus unit/test_job_environment
        contract/test_local_engine""",
    "operators/pod": """
        unit/test_claim unit/test_pods unit/test_scripts unit/test_s3 unit/test_workflow unit/test_batch_routes
        unit/test_security_code unit/test_hpc""",
}
# One other operator for each is enough. Most of `|` are in types, and most of `/` in paths.
LEFT_OUT = [
    r"core/ReplaceBinaryOperator_(?!(Add_Sub|Sub_Add|Mul_Div|Mod_Mul|FloorDiv_Mul|BitAnd_BitOr|Pow_Mul)$)",
    r"core/ReplaceComparisonOperator_(?!(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)$)",
    r"core/ReplaceUnaryOperator_(?!(Delete_Not|USub_UAdd)$)",
]
CONFIG = """\
[cosmic-ray]
module-path = "{path}"
excluded-modules = []
timeout = 600.0
test-command = "{python} tests/mutate.py --try {room}"
distributor.name = "local"
filters.operators-filter.exclude-operators = {left_out}
"""


def tests_of(room: str, file: str) -> list[str]:
    """The test files that try a mutant of a file: up to three that name it, then those of its room."""
    package, stem = room.replace("/", "."), Path(file).stem
    named = re.compile(rf"\b{package}\.{stem}\b|\b{package} import [^\n]*\b{stem}\b")
    all_of_room = [f"tests/{name}.py" for name in TESTS[room].split()]
    others = sorted(str(path) for folder in ("unit", "contract") for path in Path("tests", folder).glob("test_*.py"))
    files = list(dict.fromkeys([*all_of_room, *others]))
    near = [file for file in files if Path(file).stem == f"test_{stem}"]
    near += [file for file in files if named.search(Path(file).read_text("utf-8"))]
    return list(dict.fromkeys([*list(dict.fromkeys(near))[:3], *all_of_room]))


def try_mutant(room: str) -> int:
    """Run the tests on the mutant that is in this checkout, in two parts; without one, those of the room."""
    changed = git("diff", "--name-only", "--", room).split()
    files = tests_of(room, changed[0] if changed else "")
    command = [sys.executable, "-m", "pytest", "-x", "-m", QUICK]
    none_failed = (0, 5)  # 5: no test of these is a quick one
    return int(any(subprocess.call([*command, *part]) not in none_failed for part in (files[:3], files[3:])))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def main(path: str, sample: int, seed: int) -> None:
    from cosmic_ray.work_db import WorkDB, use_db

    room = next((room for room in TESTS if path.startswith(room)), None)
    if room is None:
        sys.exit(f"ROOM is one of {', '.join(TESTS)}, or a file in one of them")
    head = git("rev-parse", "HEAD").strip()
    subprocess.run(["git", "fetch", "-q", Path.cwd(), head], cwd=TREE, check=True)
    subprocess.run(["git", "reset", "-q", "--hard", head], cwd=TREE, check=True)
    name = "-".join([path.replace("/", "."), str(sample or "all"), str(seed), head[:7]])
    config, results = TREE.with_name(f"{name}.toml"), TREE.with_name(f"{name}.sqlite")
    config.write_text(CONFIG.format(path=path, room=room, python=sys.executable, left_out=LEFT_OUT))
    if not results.exists():
        cosmic("cosmic-ray", "baseline", config)
        cosmic("cosmic-ray", "init", config, results)
        cosmic("cr-filter-operators", results, config)
        with use_db(results, WorkDB.Mode.open) as work:
            choose(work, sample, seed)
    cosmic("cosmic-ray", "exec", config, results)
    with use_db(results, WorkDB.Mode.open) as work:
        show(work)


def cosmic(program: str, *arguments: Path | str) -> None:
    subprocess.run([Path(sys.prefix) / "bin" / program, *arguments], cwd=TREE, check=True)


def choose(work: Any, sample: int, seed: int) -> None:
    """Take out what was filtered, and all but a sample of the rest."""
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    pending = list(work.pending_work_items)
    pending.sort(key=lambda item: [(str(m.module_path), m.operator_name, m.occurrence) for m in item.mutations])
    chosen = random.Random(seed).sample(pending, min(sample or len(pending), len(pending)))
    kept = {item.job_id for item in chosen}
    for item in pending:
        if item.job_id not in kept:
            work.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def show(work: Any) -> None:
    from cosmic_ray.work_item import WorkerOutcome

    tried = [(i, r) for i, r in work.completed_work_items if r.worker_outcome is not WorkerOutcome.SKIPPED]
    counts = Counter(str(result.test_outcome.value) for _, result in tried)
    for item, result in tried:
        if not result.is_killed:
            print(item.mutations[0].operator_name, result.diff, sep="\n", end="\n\n")
    print(f"{len(tried)} mutants:", ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))


if __name__ == "__main__":
    if sys.argv[1] == "--try":
        sys.exit(try_mutant(sys.argv[2]))
    main(sys.argv[1].rstrip("/"), int(sys.argv[2]), int(sys.argv[3]))
