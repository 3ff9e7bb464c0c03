"""Damaged, foreign and old documents in the store: refused, and left as they are. And what the documents promise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conventions.documents import DoneMarker, OutputFile, StageReport, TaskResult, parse_json
from conventions.errors import DataError, StateError
from conventions.names import MAX_ID, STAGES, canonical_json, derive_seed, format_id, parse_id, sha256, workflow_name
from conventions.space import DataSpace, DoneKey, JobFile
from conventions.state import State
from statemachine.machine.orders import Order
from statemachine.run import place
from statemachine.run.record import Record
from tests.conftest import Cli
from tests.doubles import APPS, FakeEngine, MemoryStore, first_state, poller_of, run_to_end

SEALED = first_state(reason='"ü" at 1e-07', updated_at="2024-01-01T00:00:00+00:00").seal()


def resealed(**changes: Any) -> bytes:
    """The state with other values and a right checksum: what a newer program or a careful editor could write."""
    body = {**json.loads(SEALED), **changes}
    body = {key: value for key, value in body.items() if key != "sha256"}
    return canonical_json({**body, "sha256": sha256(canonical_json(body))}) + b"\n"


EARLIER = {"sha256": "0" * 64, "iterations": 8, "left": 0, "newest": {"train": 7}, "level": None}


def policy(**changes: Any) -> dict[str, Any]:
    return {**json.loads(SEALED)["policy"], **changes}


def test_the_sealed_state_is_read() -> None:
    assert State.unseal(SEALED).seal() == SEALED == resealed()


@pytest.mark.parametrize("words", ["half a pair: \ud800", "no UTF-8: \udcff", "nul: \0", "long: " + "x" * 10**6])
def test_odd_words_of_an_engine_or_a_person_do_not_spoil_the_state(words: str) -> None:
    class Engine(FakeEngine):
        def explain(self, name: str) -> str:
            return words

    store = MemoryStore()
    engine = Engine(store, spoil=lambda state: "dies")
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    assert run_to_end(poller, engine).at == "failed"
    assert words[:5] in poller_of(store, engine).record.load().state.reason
    poller.tell(Order("resume", words))
    state = poller_of(store, engine).record.load().state
    assert state.reason.startswith(words[:5])
    assert len(state.seal()) < 5000


def test_truncated_at_every_byte() -> None:
    for length in range(len(SEALED)):
        with pytest.raises(StateError):
            State.unseal(SEALED[:length])


def test_every_bit_flipped() -> None:
    for index in range(len(SEALED)):
        for bit in range(8):
            damaged = bytearray(SEALED)
            damaged[index] ^= 1 << bit
            with pytest.raises(StateError):
                State.unseal(bytes(damaged))


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "null": (b"null", "not a state document"),
    "list": (b"[]", "not a state document"),
    "HTML": (b"<html>503</html>", "not valid JSON"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "not valid JSON"),
    "duplicate key": (SEALED.replace(b'"version":1', b'"version":1,"version":2'), "'version' appears twice"),
    "NaN": (SEALED.replace(b'"version":1', b'"version":NaN'), "NaN"),
    "Infinity": (SEALED.replace(b'"version":1', b'"version":-Infinity'), "Infinity"),
    "1e999": (SEALED.replace(b'"version":1', b'"version":1e999'), "not valid JSON"),
    "5000 digits": (SEALED.replace(b'"version":1', b'"version":' + b"1" * 5000), "not valid JSON"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "byte order mark": (b"\xef\xbb\xbf" + SEALED, "not valid JSON"),
    "lone surrogate": (SEALED.replace(b'"reason":"', b'"reason":"\\ud800'), "not valid JSON"),
    "spaces": (json.dumps(json.loads(SEALED)).encode(), "not the bytes that were written"),
    "edited": (SEALED.replace(b'"version":1', b'"version":2'), "checksum"),
    "no checksum": (b'{"version":1}', "not a state document"),
    "newer schema": (resealed(schema_version=5), "newer dpgen2-sm .*upgrade"),
    "unknown key": (resealed(more=1), "more"),
    "foreign phase": (resealed(at="relax.running"), "at: "),
    "foreign stage": (resealed(stage="relax"), "stage: "),
    "negative attempt": (resealed(attempt=-1), "attempt: "),
    "huge iteration": (resealed(iteration=10**9), "iteration: "),
    "version as text": (resealed(version="1"), "version: "),
    "version as bool": (resealed(version=True), "version: "),
    "version as float": (resealed(version=1.5), "version: "),
    "version 0": (resealed(version=0), "version: "),
    "huge version": (resealed(version=2**63), "version: "),
    "app that leaves the prefix": (resealed(policy=policy(apps={**APPS, "label": "../.."})), "plain name"),
    "stage without an app": (resealed(policy=policy(apps={"label": "ase"})), "policy: .*stages"),
    "earlier rows without a name": (resealed(earlier={**EARLIER, "sha256": "../../state"}), "earlier.sha256: "),
    "earlier rows, none": (resealed(earlier={**EARLIER, "iterations": 0}), "earlier.iterations: "),
    "earlier rows of a foreign stage": (resealed(earlier={**EARLIER, "newest": {"relax": 1}}), "earlier.newest"),
    "earlier rows with an infinite level": (
        resealed(earlier={**EARLIER, "level": 1e308}).replace(b"1e+308", b"1e999"),
        "not valid JSON",
    ),
    "training systems without a name": (resealed(systems={"iteration": 0, "sha256": ""}), "systems.sha256: "),
    "training systems of no iteration": (resealed(systems={"iteration": -1, "sha256": "0" * 64}), "systems.iteration"),
    "stage without retries": (resealed(policy=policy(retries={})), "policy: .*stages"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case: str) -> None:
    data, expected = BAD[case]
    with pytest.raises(StateError, match=f"^state.json: (?s:.*){expected}"):
        State.unseal(data)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has just begun; its test copies it."""
    from statemachine.run.begin import begin
    from statemachine.run.config_file import read_config
    from tests.conftest import CONFIG, STRUCTURE

    base = tmp_path_factory.mktemp("begun")
    (base / "cu.xyz").write_text(STRUCTURE)
    (base / "run.yaml").write_text(CONFIG)
    begin(read_config(base / "run.yaml"), base)
    return base / "out"


@pytest.fixture
def prefix(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(place, "is_copy", lambda prefix, url: False)
    return Path(shutil.copytree(begun, tmp_path / "out"))


def snapshot(folder: Path) -> dict[str, bytes]:
    """All that there is, but for what the engine keeps for itself."""
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".engine" not in path.parts
    }


REWIND = "rewind --iter 0 --stage label"
COMMANDS = ("run", "resume", "step", "status", "pause", "cancel", REWIND, "logs", "plan", "doctor", "daemon")
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "checksum": lambda data: data.replace(b"stub", b"stab"),
    "half": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
}


@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_leaves_a_damaged_state_alone(cli: Cli, prefix: Path, damage: str, command: str) -> None:
    state = prefix / "state.json"
    if damage == "missing":
        state.unlink()
    else:
        state.write_bytes(DAMAGE[damage](state.read_bytes()))
    before = snapshot(prefix)
    code, output, errors = cli(*command.split(), prefix)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ") and len(errors.splitlines()) == 1
    assert "`dpgen2-sm doctor RUN --restore` restores the last good version" in errors
    assert "event/00000001.json" in errors or damage == "missing"
    assert snapshot(prefix) == before


@pytest.mark.parametrize("damage", ["edited", "missing"])
@pytest.mark.parametrize("command", ["run", "step", "pause", "cancel", "doctor"])
def test_the_configuration_is_pinned(cli: Cli, prefix: Path, damage: str, command: str) -> None:
    (config,) = (prefix / "config/run").iterdir()
    if damage == "edited":
        config.write_bytes(config.read_bytes().replace(b'"slots":2', b'"slots":3'))
    else:
        config.unlink()
        (prefix / "config/iter/000000/config.json").unlink()
    before = snapshot(prefix)
    code, _, errors = cli(command, prefix)
    assert code == 2 and f"config/run/{config.name} is" in errors
    assert snapshot(prefix) == before


def test_a_run_of_an_earlier_version_has_its_configuration_elsewhere(cli: Cli, prefix: Path) -> None:
    (config,) = (prefix / "config/run").iterdir()
    config.unlink()
    assert cli("step", prefix)[0] == 0
    assert config.read_bytes() == (prefix / "config/iter/000000/config.json").read_bytes()
    assert cli("cancel", prefix)[0] == 0


def test_a_state_that_is_older_than_its_history(cli: Cli, prefix: Path) -> None:
    old = (prefix / "state.json").read_bytes()
    assert cli("pause", prefix)[0] == 0
    (prefix / "state.json").write_bytes(old)
    before = snapshot(prefix)
    for command in ("step", "status", "cancel"):
        code, _, errors = cli(command, prefix)
        assert code == 2 and "older than the run's history" in errors and "event/00000002.json" in errors
    assert snapshot(prefix) == before


def test_the_version_that_is_offered_is_a_good_one(cli: Cli, prefix: Path) -> None:
    assert cli("pause", prefix)[0] == 0
    (prefix / "state.json").write_bytes(b"")
    (prefix / "event" / "00000002.json").write_bytes(b"")
    (prefix / "event" / "notes.txt").touch()
    assert "the last good version is file://" in (errors := cli("status", prefix)[2])
    assert "event/00000001.json: `dpgen2-sm doctor RUN --restore` restores the last good version" in errors


def test_a_state_of_another_run(cli: Cli, prefix: Path) -> None:
    state = State.unseal((prefix / "state.json").read_bytes()).model_copy(update={"run_uid": "f" * 32})
    (prefix / "state.json").write_bytes(state.seal())
    code, _, errors = cli("step", prefix)
    assert code == 2 and "does not match event/00000001.json in this run's history" in errors


def test_a_state_is_parsed_once_while_its_bytes_are_equal() -> None:
    store = MemoryStore()
    record = Record(store)
    record.create(first_state())
    loaded = record.load()
    assert record.load().state is loaded.state
    assert record.commit(loaded, loaded.state.model_copy(update={"hold": True})) is not None
    assert record.load().state.hold
    store.objects[DataSpace.state] = store.objects[DataSpace.state][:-2]
    with pytest.raises(StateError):
        record.load()


def test_a_rival_between_two_reads_is_no_damage() -> None:
    """The history is written after the state: one who reads in between sees a later event than his state."""
    store = MemoryStore()
    record = Record(store)
    record.create(first_state())
    loaded = record.load()
    head = store.head

    def late(key: str) -> Any:
        if loaded.data == store.objects[DataSpace.state]:
            assert record.commit(loaded, loaded.state.model_copy(update={"hold": True})) is not None
        return head(key)

    store.head = late  # type: ignore[method-assign]
    assert record.load().state.version == 1


def test_strangers_in_the_done_index_do_not_count() -> None:
    """A marker that the report counts is not there yet, however many other files lie beside it."""
    store = MemoryStore()
    engine = FakeEngine(store)
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    place = poller.step().place
    for name in (
        "000000.json.part",
        "0.json",
        "0000001.json",
        "notes.txt",
        "\u0660\u0660\u0660\u0660\u0660\u0660.json",
    ):
        store.put(f"{place.done}/{name}", b"{")
    engine.run()
    marker = place.job("000000").job_done
    store.delete(marker)
    assert poller.step().attempt == 1
    store.put(marker, b"{}")
    assert run_to_end(poller, engine).at == "converged"


# --- what the documents promise ---------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
quick = settings(max_examples=60, deadline=None)


@quick
@given(JSON)
def test_canonical_json_is_read_back(value: Any) -> None:
    data = canonical_json(value)
    assert parse_json(data, "x") == value
    assert canonical_json(parse_json(data, "x")) == data


@quick
@given(
    st.binary(max_size=60) | st.text(alphabet='[]{}",:0123456789eE+-.\\ud8nulltrsafNIiy', max_size=30).map(str.encode)
)
def test_any_bytes_are_json_or_a_data_error(data: bytes) -> None:
    try:
        value = parse_json(data, "x")
    except DataError as error:
        assert str(error).startswith("x: ")
    else:
        assert parse_json(canonical_json(value), "x") == value


NUMBER = st.integers(0, MAX_ID)
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)


@quick
@given(NUMBER, DIGEST, st.lists(st.tuples(NUMBER, st.integers(-1, 255)), max_size=3), st.integers(0))
def test_a_marker_is_read_back(job: int, digest: str, tasks: list[tuple[int, int]], size: int) -> None:
    marker = DoneMarker(
        job_id=format_id(job),
        inputs=digest,
        tasks=[TaskResult(id=f"task.{format_id(index)}", code=code) for index, code in tasks],
        files=[OutputFile(name="task.000000/a.b", size=size, sha256=digest)],
    )
    assert DoneMarker.load(marker.dump()) == marker
    assert DoneMarker.load(marker.dump()).dump() == marker.dump()


@pytest.mark.parametrize(
    "name", ["../up", "a/../b", "/abs", "//x", "./x", "a//b", "a/", "a\0b", "a\nb", "a\n", "", ".."]
)
def test_a_marker_names_only_files_below_out(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        OutputFile(name=name, size=0, sha256="0" * 64)


@pytest.mark.parametrize("document", [DoneMarker, StageReport])
@pytest.mark.parametrize("data", [b"", b"null", b"[]", b'{"schema_version":2}', b'{"schema_version":true}', b'{"a":1}'])
def test_no_document(document: Any, data: bytes) -> None:
    with pytest.raises(DataError, match=r"^done/x: "):
        document.load(data, "done/x")


@quick
@given(
    st.sampled_from(STAGES),
    NUMBER,
    NUMBER,
    st.sampled_from(["in", "out", "log"]),
    st.from_regex(r"[a-z.]{1,9}(/[a-z]{1,3})?"),
)
def test_keys_of_jobs_are_read_back(stage: str, iteration: int, job: int, part: str, path: str) -> None:
    at = DataSpace(APPS).stage(stage, iteration).job(format_id(job))
    folder = {"in": at.job_in, "out": at.job_out, "log": at.job_log}[part]
    expected = JobFile(stage, APPS[stage], iteration, format_id(job), part, path)
    assert at.space.parse(f"{folder}/{path}") == expected
    assert at.space.parse(at.job_done) == DoneKey(stage, APPS[stage], iteration, format_id(job))


@quick
@given(st.text(max_size=20) | st.from_regex(r"label/[a-z./]{1,5}/iter/[0-9]{5,7}/(job|done)/[0-9]{5,7}(\.json|/in/x)"))
def test_any_text_is_a_key_of_a_job_or_not(text: str) -> None:
    found = DataSpace(APPS).parse(text)
    if found is not None:
        at = DataSpace({found.stage: found.app}).stage(found.stage, found.iteration).job(found.job_id)
        assert text == (
            f"{at.jobs}/{found.job_id}/{found.part}/{found.path}" if isinstance(found, JobFile) else at.job_done
        )


@quick
@given(NUMBER, NUMBER)
def test_ids_and_keys_of_siblings(one: int, other: int) -> None:
    assert parse_id(format_id(one)) == one
    space = DataSpace(APPS)
    for make in (space.config, space.event, space.dataset_iter, lambda n: space.stage("train", n).root):
        assert make(one) == make(other) or not make(other).startswith(make(one))
        assert (make(one) < make(other)) == (one < other)


@pytest.mark.parametrize(
    "text", ["", "0", "00000", "0000001", "-00001", "00000a", "000001\n", " 00001", "٠٠٠٠٠١", "+00001"]
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(DataError):
        parse_id(text)


@pytest.mark.parametrize("number", [-1, MAX_ID + 1])
def test_numbers_that_have_no_id(number: int) -> None:
    with pytest.raises(DataError):
        format_id(number)


@quick
@given(
    st.from_regex(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", fullmatch=True),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    NUMBER,
    st.sampled_from(STAGES),
    st.integers(0, 10**9),
)
def test_workflow_names_fit_kubernetes(run: str, uid: str, iteration: int, stage: str, attempt: int) -> None:
    name = workflow_name(run, uid, iteration, stage, attempt)
    assert len(name) <= 63
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and name[0].isalpha() and name[-1] != "-"


@quick
@given(st.integers(0, 2**31 - 1), st.lists(st.text(max_size=5) | NUMBER, max_size=4))
def test_seeds_are_positive_and_fit_31_bits(seed: int, purpose: list[str | int]) -> None:
    assert 0 < derive_seed(seed, *purpose) < 2**31 - 1
