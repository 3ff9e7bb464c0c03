"""The catalogue of bad input: 64 kinds that bring other programs down, and the tests that hold them here.

A test is named as `file::function`, or `file::function[case]` for one of a table; what cannot occur has its reason.
The kinds that no other file tries are tried here.
"""

from __future__ import annotations

import importlib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from conventions.errors import Conflict, DataError, EngineError, StoreError
from conventions.names import canonical_json, sha256
from conventions.state import State
from statemachine.machine.orders import Order
from statemachine.run.config_file import read_mapping
from statemachine.store import open_store
from statemachine.store.file import FileStore
from tests.conftest import CONFIG, Cli
from tests.doubles import FakeEngine, MemoryStore, first_state, poller_of
from tests.figures import Figures
from tests.mutations import small_memory
from tests.unit.test_argo_answers import WORKFLOW, engine
from tests.unit.test_security_bytes import Stage

CONFIG_TABLE = "unit/test_bad_config.py::test_refused_in_one_line[{}]"
STATE_TABLE = "unit/test_bad_state.py::test_refused[{}]"
HERE = "unit/test_bad_catalogue.py::{}"
DAMAGE = "unit/test_bad_state.py::test_every_command_leaves_a_damaged_state_alone"
RESTORE = "unit/test_restore.py::test_every_damage_on_file"
S3_PREFIX = "unit/test_s3.py::test_odd_prefixes_are_refused_in_a_line"
ESCAPE = "contract/store_contract.py::test_keys_that_could_escape_are_refused"
NO_TAR = "reason: nothing unpacks an archive; unit/test_security_code.py refuses every call that would"


def config(*cases: str) -> tuple[str, ...]:
    return tuple(CONFIG_TABLE.format(case) for case in cases)


def state(*cases: str) -> tuple[str, ...]:
    return tuple(STATE_TABLE.format(case) for case in cases)


CATALOGUE: dict[int, tuple[str, ...]] = {
    # configuration
    1: config("python object"),
    2: config("alias bomb", "merge bomb", "bomb of one long text", "alias of itself", "merge of itself"),
    3: config("duplicate key", "nested duplicate key"),
    4: config("sexagesimal"),
    5: ("unit/test_bad_config.py::test_not_a_mistake[no is a word, No an element]",),
    6: (HERE.format("test_numbers_are_what_they_look_like"),),
    7: (HERE.format("test_numbers_are_what_they_look_like"),),
    8: (HERE.format("test_numbers_are_what_they_look_like"),),
    9: config("date"),
    10: config("nan", "infinity"),
    11: config("deep"),
    12: (*config("UTF-16", "latin-1", "NUL"), "unit/test_bad_config.py::test_not_a_mistake[byte order mark]"),
    13: config("misspelt key", "misspelt nested key", "foreign key"),
    14: config("list for a mapping", "list for a stage", "text for a list"),
    15: ("unit/test_cli.py::test_usage_errors", *config("no iterations", "huge retries", "huge slots")),
    16: config("bool for a number"),
    17: config("empty", "only a comment", "two documents", "too large"),
    18: config("prefix ${HOME}/x"),
    19: (*config("foreign key", "duplicate key", "unknown app"), "reason: the order of stages is not configured"),
    20: (HERE.format("test_addresses_of_servers"),
         "unit/test_security_strings.py::test_odd_addresses_are_refused", S3_PREFIX),
    21: (S3_PREFIX, HERE.format("test_buckets")),
    22: (*config('prefix ""', "prefix /", 'prefix "out "'), S3_PREFIX),
    23: config("run 'Stub'", "run '-x'", "run '$(id)'", "run 'ü'"),
    24: config("image with a space"),
    25: config("infinity", "5000 digits"),
    # state.json
    26: ("unit/test_bad_state.py::test_truncated_at_every_byte",),
    27: ("unit/test_bad_state.py::test_every_bit_flipped",),
    28: state("empty", "null", "list", "HTML"),
    29: state("duplicate key"),
    30: state("NaN", "Infinity", "1e999"),
    31: state("deep"),
    32: state("5000 digits"),
    33: state("lone surrogate"),
    34: state("byte order mark"),
    35: state("version 0", "version as float", "version as bool", "version as text", "huge version"),
    36: ("unit/test_bad_state.py::test_a_state_that_is_older_than_its_history",),
    37: ("unit/test_bad_state.py::test_a_state_of_another_run", RESTORE),
    38: (*state("newer schema"), "unit/test_restore.py::test_a_state_of_a_newer_program_is_no_damage"),
    39: state("foreign phase", "foreign stage", "negative attempt", "huge iteration"),
    40: (*state("edited"), HERE.format("test_a_state_that_was_made_from_another_one")),
    41: (HERE.format("test_a_state_of_50_megabytes"),),
    42: (DAMAGE, RESTORE),
    43: (DAMAGE, RESTORE),
    44: (*state("gzip"), RESTORE),
    45: state("app that leaves the prefix"),
    # keys and outputs
    46: (ESCAPE, "unit/test_security_code.py::test_keys_of_others_do_not_leave_the_folder_they_are_fetched_to"),
    47: (ESCAPE,),
    48: ("unit/test_security_code.py::test_names_that_differ_in_case_or_in_their_code_are_two",
         HERE.format("test_files_of_two_codes")),
    49: ("contract/test_s3_store.py::test_a_key_that_is_also_a_folder_is_an_error",
         HERE.format("test_a_folder_in_the_place_of_a_marker")),
    50: ("unit/test_bad_state.py::test_strangers_in_the_done_index_do_not_count",),
    51: (HERE.format("test_a_marker_of_other_inputs"),),
    52: ("unit/test_security_bytes.py::test_a_job_whose_files_are_not_its_markers_is_repeated",),
    53: (HERE.format("test_a_marker_of_a_gigabyte"),),
    54: ("contract/store_contract.py::test_many_keys_come_in_pages",
         "unit/test_s3_listing.py::test_an_empty_page_is_the_last"),
    55: ("contract/test_s3_store.py::test_folder_placeholders_are_no_objects",),
    56: (NO_TAR, "unit/test_security_code.py::test_links_that_a_job_left_are_not_followed"),
    57: ("unit/test_security_code.py::test_arrays_with_objects_are_refused",),
    # Argo and the network
    58: ("contract/engine_contract.py::test_another_specification_under_the_name_is_an_error",
         "unit/test_argo_answers.py::test_a_workflow_without_our_annotation_is_another"),
    59: ("contract/test_argo_engine.py::test_another_page_is_not_taken_for_an_argo_server",),
    60: (HERE.format("test_phases_that_nobody_knows"),),
    61: ("contract/test_argo_engine.py::test_a_wrong_token_is_an_error_with_advice",
         "contract/test_argo_engine.py::test_a_busy_server_is_asked_again",
         "contract/test_argo_engine.py::test_a_redirect_is_not_followed",
         "contract/test_argo_engine.py::test_tls_is_verified",
         "unit/test_argo_answers.py::test_a_404_of_something_on_the_way_is_no_gone_workflow",
         "fault/test_s3_faults.py::test_answers_that_break_off_are_read_again"),
    62: ("unit/test_argo_answers.py::test_an_archive_that_does_not_know_it",
         "reason: workflows are asked for by name only"),
    63: (HERE.format("test_refusals_of_a_store"), HERE.format("test_a_storm_of_refused_swaps"),
         "contract/test_s3_store.py::test_what_is_wrong_is_said_in_a_line"),
    64: ("unit/test_hints.py::test_what_is_not_signed_by_the_key_is_refused",
         "unit/test_hints.py::test_a_replay_is_refused",
         "unit/test_hints.py::test_a_signed_body_that_is_no_hint_is_refused",
         "unit/test_hints.py::test_a_hint_of_another_time_is_refused", "unit/test_web.py::test_the_body_is_small",
         "unit/test_web.py::test_slow_clients_keep_nobody_out"),
}  # fmt: skip
TESTS = Path(__file__).parents[1]


def test_every_kind_has_a_test_or_a_reason(figure: Figures) -> None:
    assert list(CATALOGUE) == list(range(1, 65))
    for number, held in CATALOGUE.items():
        tests = [name for name in held if not name.startswith("reason: ")]
        assert tests, number
        for name in tests:
            file, _, rest = name.partition("::")
            function, _, case = rest.partition("[")
            assert f"def {function}(" in (TESTS / file).read_text("utf-8"), name
            if case:
                module = importlib.import_module(f"tests.{file[:-3].replace('/', '.')}")
                assert case[:-1] in module.BAD or case[:-1] in module.GOOD, name
    figure("bad input: kinds of the catalogue", len(CATALOGUE))


def test_how_many_of_the_tables(figure: Figures) -> None:
    from tests.unit import test_bad_config, test_bad_files, test_bad_state

    figure("bad input: configurations refused", len(test_bad_config.BAD))
    figure("bad input: files refused", len(test_bad_files.BAD))
    bits = 9 * len(test_bad_state.SEALED)  # each bit flipped, and cut off at each byte
    figure("bad input: damaged states refused", len(test_bad_state.BAD) + bits)


# --- configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("1_000", 1000), ("1e3", 1000.0), ("0o10", 8), ("on", "on")])
def test_numbers_are_what_they_look_like(tmp_path: Path, text: str, value: Any) -> None:
    """YAML 1.2; older readers make 8 of 010, a text of 1e3, and true of on."""
    path = tmp_path / "run.yaml"
    path.write_text(f"a: {text}\n")
    found = read_mapping(path)["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd", "http://169.254.169.254", "https://[fd00:ec2::254]", "https://u:hunter22@h",
    "https://h:0",
        "https://h:99999", "https://h:x", "h:2746", "https://", "https://h/a b", "https://h?x=1",
    "https://h#x", "https://{{x}}",
    ],
)  # fmt: skip
def test_addresses_of_servers(cli: Cli, stub_run: Path, address: str) -> None:
    settings = f"engine: {{type: argo, image: i, server: '{address}'}}"
    stub_run.write_text(CONFIG.replace("engine: {type: local, slots: 2}", settings).replace("out", "s3://bucket/p"))
    code, output, errors = cli("validate", stub_run)
    assert (code, output) == (2, "") and "engine.server: " in errors and "hunter22" not in errors
    assert all(line.startswith("error: ") for line in errors.splitlines())


@pytest.mark.parametrize("prefix", ["s3://A_B/p", "s3://../p", f"s3://{'a' * 64}/p", "s3://1.2.3.4/p", "s3://bucket"])
def test_buckets(cli: Cli, stub_run: Path, prefix: str) -> None:
    stub_run.write_text(CONFIG.replace("prefix: out", f"prefix: {prefix}"))
    code, output, errors = cli("init", stub_run)
    assert (code, output, len(errors.splitlines())) == (2, "", 1) and "prefix" in errors


# --- state.json -------------------------------------------------------------------------------------------


def test_a_state_that_was_made_from_another_one(cli: Cli, stub_run: Path) -> None:
    """Whole, of this run, and with the next number, but not of this history."""
    assert cli("init", stub_run)[0] == 0
    path = stub_run.parent / "out" / "state.json"
    before = State.unseal(path.read_bytes())
    for previous in ("", "0" * 64, sha256(canonical_json({}))):
        path.write_bytes(before.model_copy(update={"version": 2, "previous_sha256": previous}).seal())
        code, output, errors = cli("status", stub_run)
        assert (code, output) == (2, "") and "version 2 does not continue this run's history" in errors
    assert cli("doctor", stub_run, "--restore")[0] == 0
    assert State.unseal(path.read_bytes()) == before


def test_a_state_of_50_megabytes(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    (stub_run.parent / "out" / "state.json").write_bytes(b"[" * (50 << 20))
    code, output, errors = cli("step", stub_run)
    assert (code, output, len(errors.splitlines())) == (2, "", 1) and len(errors) < 1000


# --- keys and outputs -------------------------------------------------------------------------------------


def test_files_of_two_codes(cli: Cli, stub_run: Path) -> None:
    """Two names that look alike, and two that differ in case: four files."""
    names = [unicodedata.normalize(form, "sé.xyz") for form in ("NFC", "NFD")] + ["a.xyz", "A.xyz"]
    content = (stub_run.parent / "cu.xyz").read_text()
    for number, name in enumerate(names):
        (stub_run.parent / name).write_text(content.replace("Cu 0", f"Cu 0.{number}"))
    stub_run.write_text(CONFIG.replace("{files: cu.xyz}", '{files: "*.xyz"}'))
    assert cli("init", stub_run)[0] == 0
    assert len(list((stub_run.parent / "out/config/file").iterdir())) == len(names) + 1


def test_a_folder_in_the_place_of_a_marker(tmp_path: Path) -> None:
    """No marker for the poller; the plan names it, before any job runs in vain."""
    stage = Stage(tmp_path)
    place = stage.place.job("000001")
    (tmp_path / place.job_done).mkdir(parents=True)
    (tmp_path / place.job_done / "x").touch()
    keys = [entry.key for entry in FileStore.of(tmp_path).list(place.done + "/")]
    assert len(keys) == 1 and place.space.parse(keys[0]) is None
    with pytest.raises(DataError, match=r"done/000001\.json is a folder .*: move it away"):
        stage.plan()


@pytest.mark.parametrize("digest", [b"0" * 64, b"\xff\n", b""])
def test_a_marker_of_other_inputs(tmp_path: Path, digest: bytes) -> None:
    """As of another attempt, whose plan was another one: the job is repeated."""
    stage = Stage(tmp_path)
    stage.run(stage.plan())
    (tmp_path / stage.place.job("000001").job_in / "digest").write_bytes(digest)
    report = stage.reduce(0)
    assert (report.complete, report.jobs.failed) == (False, 1)
    assert "job 000001" in report.messages[0] and "belongs to other inputs" in report.messages[0]


def test_a_marker_of_a_gigabyte(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run(stage.plan())
    with open(tmp_path / stage.place.job("000001").job_done, "wb") as marker:
        marker.truncate(1 << 30)
    with small_memory(256 << 20):
        report = stage.reduce(0)
        assert (report.complete, report.jobs.failed) == (False, 1)
        assert "this is no completion marker" in report.messages[0]
        assert stage.plan() == ["000001"]


# --- Argo and the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["Omitted", "Skipped", "unknown", "RUNNING", "0", "{}"])
def test_phases_that_nobody_knows(phase: str) -> None:
    """Neither running nor ended: it is an error, and nothing is decided."""
    with pytest.raises(EngineError, match="is in an unknown phase: "):
        engine((200, {**WORKFLOW, "status": {"phase": phase}})).status("w")


REFUSALS = {
    "SlowDown": 503, "ServiceUnavailable": 503, "InternalError": 500, "RequestTimeout": 400, "NoSuchBucket": 404,
    "RequestTimeTooSkewed": 403, "AccessDenied": 403, "ExpiredToken": 400, "NotImplemented": 501,
    "SignatureDoesNotMatch": 403,
}  # fmt: skip


@pytest.mark.parametrize("code", [*REFUSALS, "ConditionalRequestConflict", "PreconditionFailed", "NoSuchKey"])
def test_refusals_of_a_store(aws: None, code: str) -> None:
    """Of a conditional write: a conflict where the store says so, else an error of one line that names the key."""
    store: Any = open_store("s3://bucket/run?endpoint=http://127.0.0.1:9")
    status = REFUSALS.get(code, {"ConditionalRequestConflict": 409, "NoSuchKey": 404}.get(code, 412))
    body = f"<Error><Code>{code}</Code><Message>no\n\nmore</Message></Error>".encode()

    class Raw:
        def stream(self, *args: Any, **kwargs: Any) -> Any:
            yield body

    store._client, store._once = store.place.connect(), store.place.connect(1)
    for client in (store._client, store._once):
        client.meta.events.register("before-send.s3", lambda **_: AWSResponse("http://x", status, {}, Raw()))
    with pytest.raises(StoreError, match=r"s3://bucket/run/state\.json: ") as caught:
        store.put("state.json", b"{}", if_match="0" * 32)
    assert isinstance(caught.value, Conflict) == (code not in REFUSALS)


@pytest.mark.parametrize("refusal", [Conflict, StoreError])
def test_a_storm_of_refused_swaps(refusal: type[StoreError]) -> None:
    """Every swap is refused, and nobody else wrote: an error at once, and no loop."""

    class Stormy(MemoryStore):
        swaps = 0

        def put(self, key: str, data: bytes, **conditions: Any) -> str:
            if conditions.get("if_match"):
                self.swaps += 1
                raise refusal(key)
            return super().put(key, data, **conditions)

    store = Stormy()
    poller = poller_of(store, FakeEngine(store))
    poller.record.create(first_state())
    calls: list[Callable[[], object]] = [poller.step, lambda: poller.tell(Order("pause", "x"))]
    for call in calls:
        with pytest.raises(StoreError):
            call()
    assert store.swaps == len(calls)
