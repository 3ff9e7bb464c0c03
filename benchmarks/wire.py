"""What an iteration on S3 by the local engine asks of the store: requests by the keys they name, and their kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from campaigns import Size, run_real
from stub_programs import StubPrograms
from tree import Usage

STAGES = ("label", "train", "explore", "select")
KINDS = ("GET", "HEAD", "LIST", "PUT", "DELETE")


class Request(NamedTuple):
    """`part` is a folder of the stage (of its jobs: job/in, job/out, job/log); of other keys it is their first name."""

    stage: str
    part: str
    kind: str


def read_request(line: str, path: str) -> Request:
    """A request as the proxy saw it; `path` is the run's, in its bucket."""
    kind, _, address = line.partition(" ")
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    if kind == "GET" and "list-type" in query:
        kind, key = "LIST", query["prefix"][0]
    else:
        key = unquote(parts.path).split("/", 2)[2]
    names = key.removeprefix(f"{path}/").split("/")
    if names[0] not in STAGES:
        return Request("", names[0], kind)
    below = names[4:]  # stage, app, iter, its number
    return Request(names[0], "/".join([*below[:1], *below[2:3]] if below[:1] == ["job"] else below[:1]), kind)


def run_on_s3(
    folder: Path, programs: StubPrograms, server: Any, path: str, size: Size, group: int
) -> tuple[Usage, Counter[Request]]:
    """An iteration of the real apps with instant programs; requests are counted where the server is a proxy."""
    (folder / "home").mkdir(parents=True)
    env = {"HOME": str(folder / "home")}  # the engine's folder
    usage = run_real(folder, programs, size, group, 1, server.prefix(path), env)
    return usage, Counter(read_request(line, path) for line in getattr(server, "seen", []))


def per_job(requests: Counter[Request], stage: str, jobs: int) -> float:
    """Requests for keys of a stage, by itself and by the stages after it, for each of its jobs."""
    return sum(count for request, count in requests.items() if request.stage == stage) / jobs


def table(requests: Counter[Request], size: Size, explore_group: int) -> str:
    """A line for each kind of key, and of each stage the sum for a job."""
    jobs = {"label": size.label, "train": size.train, "explore": -(-size.explore // explore_group)}
    lines = [f"{'keys of':8} {'':12}" + "".join(f"{kind:>8}" for kind in KINDS)]
    for stage in (*STAGES, ""):
        parts = {request.part for request in requests if request.stage == stage}
        for part in sorted(parts):
            counts = "".join(f"{requests[Request(stage, part, kind)] or '':>8}" for kind in KINDS)
            lines.append(f"{stage:8} {part:12}{counts}")
        if stage in jobs:
            lines.append(f"{stage:8} {jobs[stage]} jobs: {per_job(requests, stage, jobs[stage]):.1f} requests each")
    lines.append(f"all: {sum(requests.values())}")
    return "\n".join(lines)
