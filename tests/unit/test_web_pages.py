"""Pages of runs: what they show, to whom, and what they refuse."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from conventions.documents import DoneMarker, TaskResult
from conventions.errors import StoreAway
from statemachine.engine.local import LocalEngine
from statemachine.run.opening import open_poller
from statemachine.store import open_store
from statemachine.store.file import FileStore
from statemachine.web import board, files, jobs, view
from statemachine.web.app import POLICY, Site
from statemachine.web.board import Looking, Seen
from statemachine.web.lanes import Busy, Lane, Lanes
from tests.conftest import Cli, command
from tests.doubles import first_state
from tests.report_run import SPACE, campaign, keep, moved

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>{{7*7}}"
LOCAL = "http://127.0.0.1:8080"


def site(*prefixes: str, places: tuple[str, ...] = (), host: str = "127.0.0.1") -> TestClient:
    lanes = Lanes()
    return TestClient(Site(Looking(prefixes, places, lanes), lanes, host).app, base_url=LOCAL, follow_redirects=False)


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is asked, and waited for."""
    for module, name, value in ((board, "FRESH", 0.0), (view, "FRESH", 0.0), (board, "PATIENCE", 60.0)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(view, "FIRST", 60.0)
    monkeypatch.setattr(view, "AGAIN", 60.0)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    store = open_store(f"file://{tmp_path}/run")
    campaign(store, 2, tmp_path)
    return store.url


@pytest.fixture
def pages(prefix: str) -> Iterator[TestClient]:
    with site(prefix) as client:
        yield client


def at(prefix: str, rest: str = "") -> str:
    return f"/run/{Seen(prefix).name}{rest}"


def test_the_overview_has_a_row_for_each_run(tmp_path: Path, prefix: str) -> None:
    damaged, gone = tmp_path / "damaged", tmp_path / "gone"
    damaged.mkdir()
    (damaged / SPACE.state).write_text("{")
    with site(prefix, f"file://{damaged}", f"file://{gone}") as client:
        text = client.get("/").text
        rows = re.findall(r"<tr>(.*?)</tr>", text.partition("<tbody>")[2], re.DOTALL)
        assert len(rows) == 3
        assert "label.running" in rows[0] and f'href="{at(prefix)}"' in rows[0] and "unreadable" not in rows[0]
        assert "unreadable" in rows[1] and "not valid JSON" in rows[1]
        assert "there is no run at" in rows[2]
        assert client.get(at(f"file://{gone}")).status_code == 503


def test_runs_are_discovered(tmp_path: Path, prefix: str) -> None:
    with site(places=(f"file://{tmp_path}",)) as client:
        assert f'href="{at(prefix)}"' in client.get("/").text


def test_a_report_has_the_numbers_of_the_command(pages: TestClient, prefix: str, capsys: Any) -> None:
    assert command("report", prefix, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert pages.get(at(prefix, "/json")).json() == told
    text = pages.get(at(prefix)).text
    assert f"{told['labels']} labels so far" in text and text.count("<figure") > 8
    assert "<style" not in text and "style=" not in text.replace('rel="stylesheet"', "")


def test_a_run_is_named_by_its_uid_too_where_no_other_has_it(tmp_path: Path, prefix: str) -> None:
    store = open_store(f"file://{tmp_path}/copy")
    store.put(SPACE.state, open_store(prefix).get(SPACE.state).data)
    with site(prefix) as client:
        assert client.get(f"/run/{'0' * 32}").status_code == 200
    with site(prefix, store.url) as client:
        assert client.get(f"/run/{'0' * 32}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/run/x", "/static/live.js", "/nowhere", "/run/x/data/../../..", "/%2e%2e/etc"])
def test_every_answer_is_guarded(pages: TestClient, path: str) -> None:
    headers = pages.get(path).headers
    assert headers["Content-Security-Policy"] == POLICY and "unsafe" not in POLICY
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "same-origin")
    assert (headers["Cache-Control"], headers["Connection"]) == ("no-store", "close")


@pytest.mark.parametrize(
    ("method", "status"), [("POST", 405), ("PUT", 501), ("DELETE", 501), ("BREW", 501), ("HEAD", 200)]
)
def test_pages_only_show(pages: TestClient, prefix: str, method: str, status: int) -> None:
    assert {pages.request(method, path).status_code for path in ("/", at(prefix))} == {status}


@pytest.mark.parametrize(
    ("host", "asked", "status"),
    [
        ("127.0.0.1", "evil.example", 421),
        ("127.0.0.1", "127.0.0.1.evil.example:8080", 421),
        ("::1", "evil.example", 421),
        ("127.0.0.1", "localhost:8080", 200),
        ("127.0.0.1", "[::1]:8080", 200),
        ("0.0.0.0", "cluster.example", 200),
    ],
)
def test_another_name_for_this_machine_gives_no_access(prefix: str, host: str, asked: str, status: int) -> None:
    with site(prefix, host=host) as client:
        assert client.get("/", headers={"Host": asked}).status_code == status


def test_a_page_is_sent_again_when_it_has_changed(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/run")
    state = campaign(store, 1, tmp_path)
    with site(store.url) as client:
        for path in ("/", at(store.url)):
            first = client.get(path)
            known = {"If-None-Match": first.headers["ETag"]}
            assert client.get(path, headers=known).status_code == 304
            state = moved(store, state, reason="another <reason>")
            store.put(SPACE.state, state.seal())
            second = client.get(path, headers=known)
            assert (second.status_code, second.headers["ETag"] != first.headers["ETag"]) == (200, True)
        assert "another &lt;reason&gt;" in second.text


def test_a_report_is_drawn_once_for_a_state(pages: TestClient, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages.get(at(prefix)).status_code == 200
    monkeypatch.setattr(view, "values", lambda *arguments: pytest.fail("drawn again"))
    assert pages.get(at(prefix)).status_code == 200
    assert "Not up to date" not in pages.get(at(prefix)).text


def test_names_of_others_do_nothing(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/run")
    campaign(store, 1, tmp_path, sets=(HOSTILE,), at="failed", reason=HOSTILE)
    store.put(f"{SPACE.dataset_iter(0)}/{HOSTILE.replace('/', '')}", b"x")
    with site(store.url) as client:
        for path in (at(store.url), at(store.url, "/data/iter/000000/")):
            text = client.get(path).text
            assert "<script>" not in text and "&lt;script&gt;" in text and "{{7*7}}" in text


def test_files_of_models_and_data_are_downloaded(pages: TestClient, prefix: str) -> None:
    store = open_store(prefix)
    system = f"{SPACE.dataset_iter(0)}/Cu4"
    store.put(f"{system}/type.raw", b"0 0 0 0\n")
    top, inner = pages.get(at(prefix, "/data/")), pages.get(at(prefix, "/data/iter/000000/Cu4/"))
    assert f'href="{at(prefix, "/data/iter/")}"' in top.text
    assert f'href="{at(prefix, "/data/iter/000000/Cu4/type.raw")}"' in inner.text and "8 bytes" in inner.text
    answer = pages.get(at(prefix, "/data/iter/000000/Cu4/type.raw"))
    assert (answer.content, answer.headers["Content-Type"]) == (b"0 0 0 0\n", "application/octet-stream")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="type.raw"'
    models = pages.get(at(prefix, "/models/")).text
    assert at(prefix, "/models/lcurve.000.out") in models
    expected = store.get(f"{SPACE.stage('train', 1).product}/lcurve.000.out").data
    assert pages.get(at(prefix, "/models/lcurve.000.out")).content == expected


@pytest.mark.parametrize(
    "path",
    [
        "/data/../state.json", "/data/%2e%2e/%2e%2e/state.json", "/data//etc/passwd",
        "/data/..%5cstate.json", "/event/00000001.json", "/state.json", "/data/iter/000000/../../../../state.json",
        "/models/..%2f..%2f..%2freport.json", "/data/link/state.json", "/data/link/", "/data/%00", "/data/nothing",
    ],
)  # fmt: skip
def test_nothing_else_is_downloaded(pages: TestClient, prefix: str, path: str) -> None:
    folder = Path(prefix.removeprefix("file://"))
    (folder / SPACE.dataset / "init").mkdir(parents=True)
    (folder / SPACE.dataset / "link").symlink_to(folder.parent)
    (folder.parent / SPACE.state).write_text("secret")
    answer = pages.get(at(prefix, path))
    assert answer.status_code == 404
    assert b"secret" not in answer.content and b'"run_uid"' not in answer.content


def test_a_file_that_is_too_large_is_not_read(pages: TestClient, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 10)
    answer = pages.get(at(prefix, "/models/lcurve.000.out"))
    assert answer.status_code == 422 and "are too many" in answer.text


def test_jobs_and_their_logs(pages: TestClient, prefix: str) -> None:
    store = open_store(prefix)
    place = SPACE.stage("explore", 1)
    for number in range(3):
        job = place.job(f"{number:06d}")
        store.put(f"{job.job_in}/run.sh", b"true")
        store.put(f"{job.job_log}/task.000000.txt", b"step %d <b>\n" % number)
    tasks = [TaskResult(id=f"task.00000{n}", code=n) for n in range(2)]
    for job_id, those in (("000001", tasks), ("000002", tasks[:1])):
        marker = DoneMarker(job_id=job_id, inputs="0" * 64, tasks=those, files=[])
        store.put(place.job(job_id).job_done, marker.dump())
    present = pages.get(at(prefix, "/jobs"))
    assert (present.status_code, present.headers["Location"]) == (307, at(prefix, "/jobs/label/2"))
    text = pages.get(at(prefix, "/jobs/explore/1")).text
    rows = re.findall(r'<tr><th scope="row">(\d+)<td>(.*?)<td>(.*?)\n', text)
    assert rows == [("0", "not finished", "–"), ("1", "finished", "2 tasks, 1 failed"), ("2", "finished", "ok")]
    assert f'href="{at(prefix, "/log/explore/1/2")}"' in text and "3 jobs, 2 finished" in text
    log = pages.get(at(prefix, "/log/explore/1/2"))
    assert (log.text, log.headers["Content-Type"]) == (
        "== task.000000.txt ==\nstep 2 <b>\n", "text/plain; charset=utf-8",
    )  # fmt: skip
    for path in ("/jobs/explore/3", "/jobs/cook/1", "/log/explore/1/7", "/jobs/explore/99999999999999999999"):
        assert pages.get(at(prefix, path)).status_code == 404
    assert "There are no jobs here" in pages.get(at(prefix, "/jobs/explore/1?first=500")).text


def test_long_logs_are_cut(pages: TestClient, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, place = open_store(prefix), SPACE.stage("explore", 1).job("000000")
    for number in range(3):
        store.put(f"{place.job_log}/task.00000{number}.txt", b"x" * 50 + b"the end\n")
    monkeypatch.setattr(jobs, "TAIL", 8)
    monkeypatch.setattr(jobs, "PRINTED", 60)
    text = pages.get(at(prefix, "/log/explore/1/0")).text
    assert text.count("(the last 8 bytes)\nthe end\n") == 2 and "x" not in text.replace("txt", "")
    assert text.endswith("`dpgen2-sm logs` shows all)\n")
    monkeypatch.setattr(jobs, "LARGEST", 10)
    assert "(58 bytes: `dpgen2-sm logs` shows it)" in pages.get(at(prefix, "/log/explore/1/0")).text


def test_logs_of_the_steps(stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("init", stub_run)[0] == 0
    prefix = f"file://{stub_run.parent}/out"
    poller = open_poller(prefix)
    poller.engine.wait(poller.step().workflow, 60)
    with site(prefix) as client:
        page = client.get(at(prefix, "/jobs/label/0")).text
        assert f'href="{at(prefix, "/steps")}"' in page
        assert f'href="{at(prefix, "/steps")}"' not in client.get(at(prefix, "/jobs/train/0")).text
        monkeypatch.setattr(LocalEngine, "logs", lambda self, name: iter([f"plan: {name} <b>", "reduce: it ended"]))
        answer = client.get(at(prefix, "/steps"))
        assert answer.text == f"plan: {poller.record.load().state.workflow} <b>\nreduce: it ended\n"
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        monkeypatch.setattr(jobs, "PRINTED", 5)
        assert client.get(at(prefix, "/steps")).text.endswith("<b>\n(there may be more: `dpgen2-sm logs` shows all)\n")
        monkeypatch.undo()
        poller.engine.delete(poller.record.load().state.workflow)
        assert client.get(at(prefix, "/steps")).status_code == 404


def test_a_running_stage_shows_its_progress(stub_run: Path, cli: Cli) -> None:
    assert cli("init", stub_run)[0] == cli("step", stub_run)[0] == 0
    prefix = f"file://{stub_run.parent}/out"
    with site(prefix) as client:
        text = client.get(at(prefix)).text
    assert "label.running" in text and "Not up to date" not in text
    assert cli("cancel", "--yes", stub_run)[0] == 0


class Hanging(FileStore):
    """A store that answers when it is told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.go_on = threading.Event()

    def get(self, key: str) -> Any:
        self.go_on.wait()
        return super().get(key)


@pytest.mark.slow
def test_a_store_that_hangs_keeps_no_page_waiting(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Hanging(prefix)
    store.go_on.set()
    for module in (board, view):
        monkeypatch.setattr(module, "open_store", lambda url: store)
    with site(prefix) as client:
        assert "label.running" in client.get("/").text and client.get(at(prefix)).status_code == 200
        store.go_on.clear()
        for module, name in ((board, "PATIENCE"), (view, "AGAIN"), (view, "FIRST")):
            monkeypatch.setattr(module, name, 0.01)
        try:
            assert "label.running" in client.get("/").text
            assert "Not up to date: the store has not answered" in client.get(at(prefix)).text
            assert client.get(at(prefix, "/jobs")).status_code == 503
        finally:
            store.go_on.set()


def test_an_error_is_shown_beside_what_was_known(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(prefix)
    for module in (board, view):
        monkeypatch.setattr(module, "open_store", lambda url: store)

    def away(key: str) -> Any:
        raise StoreAway("the store is away")

    with site(prefix) as client:
        assert client.get(at(prefix)).status_code == client.get("/").status_code == 200
        monkeypatch.setattr(store, "get", away)
        text = client.get("/").text
        assert "label.running" in text and "the store is away" in text
        assert "Not up to date: the store is away" in client.get(at(prefix)).text


def test_a_page_that_fails_shows_no_traceback(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def seen(self) -> list[Seen]:
            raise RuntimeError("inner secret")

    with TestClient(Site(Broken(), Lanes()).app, base_url=LOCAL) as client:
        answer = client.get("/")
        assert (answer.status_code, answer.text) == (500, "this page failed; the log says why\n")


def test_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"file://{tmp_path}/run")
    campaign(store, 1, tmp_path, reason="token hunter2-of-the-store was refused")
    monkeypatch.setattr(FileStore, "secrets", lambda self: ["hunter2-of-the-store"])
    with site(store.url) as client:
        for path in ("", "/json"):
            text = client.get(at(store.url, path)).text
            assert "hunter2" not in text and "token *** was refused" in text


def test_questions_to_a_busy_store_are_refused() -> None:
    lane, go_on = Lane(threads=1), threading.Event()
    with pytest.raises(Busy, match="has not answered"):
        lane.ask(go_on.wait, 0.01)
    begun: list[int] = []
    with pytest.raises(Busy, match="has not answered"):
        lane.ask(lambda: begun.append(1), 0.01)
    go_on.set()
    assert lane.ask(lambda: 7, 60.0) == 7
    assert begun == []


@pytest.mark.slow
def test_two_hundred_runs_are_read_once(tmp_path: Path) -> None:
    for number in range(200):
        store = open_store(f"file://{tmp_path}/{number}")
        state = first_state(run=f"run-{number}", updated_at="2026-01-01T00:00:00+00:00")
        keep(store, state)
        store.put(SPACE.state, state.seal())
    with site(*[f"file://{tmp_path}/{number}" for number in range(200)]) as client:
        text = client.get("/").text
    assert text.count("label.submitting") == 200 and "200 runs" in text


def test_the_command_wants_a_run_and_an_address(cli: Cli, prefix: str) -> None:
    assert cli("web")[0] == 2
    code, _, errors = cli("web", prefix, "--listen", "nowhere")
    assert code == 2 and "HOST:PORT" in errors


def test_the_command_serves_until_it_is_told_to_stop(prefix: str) -> None:
    arguments = [sys.executable, "-c", "from statemachine.cli import main; main()", "web", prefix, "--listen", "0"]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = process.stderr.readline()
            found = re.search(r"shown at (http://127\.0\.0\.1:[0-9]+)$", told)
            assert found, told
            answer = httpx.get(found[1], timeout=60)
            assert answer.status_code == 200 and "label.running" in answer.text
            assert answer.headers.get_list("Server") == ["dpgen2-sm"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert (process.wait(60), process.stderr.read()) == (0, "")
