"""What the S3 store costs beyond bare boto3, on this side of the wire.

Listing and parsing 100,000 completion markers, against boto3's paginator; publishing 1,000 files of 4 kB, against a
32-thread loop of boto3's put_object on the same files. The null server answers at once, out of a process of its own;
ministack is a real server on the same two cores. Rounds of the two sides alternate, and their medians are compared.

An iteration of the real apps with instant programs, by the local engine: its requests, counted by a proxy, and its CPU
beside that of the same iteration in a folder, without the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from campaigns import Size, run_real
from stub_programs import StubPrograms
from wire import run_on_s3, table

from conventions.space import DataSpace, DoneKey
from statemachine.store import open_store
from tests import servers
from tests.servers.proxy import proxy

PAGE = 1000
SPACE = DataSpace({"explore": "lammps"})
DONE = SPACE.stage("explore", 3).done + "/"


def page(number: int, pages: int) -> bytes:
    """A page of a listing as AWS writes it."""
    items = "".join(
        f"<Contents><Key>null/{DONE}{index:06d}.json</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{index:032x}&quot;</ETag><Size>512</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for index in range(number * PAGE, (number + 1) * PAGE)
    )
    last = number + 1 == pages
    more = "" if last else f"<NextContinuationToken>{number + 1}</NextContinuationToken>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(not last).lower()}</IsTruncated>{more}<EncodingType>url</EncodingType>{items}"
        "</ListBucketResult>"
    ).encode()


def serve_nothing(port: int, pages: int) -> None:
    """Answers listings with pages made beforehand, and takes whatever is put."""
    ready = [page(number, pages) for number in range(pages)]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await read_head(reader):
            line, fields = head.split("\r\n", 1)[0], head.lower()
            if "expect: 100-continue" in fields:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if "content-length: " in fields:
                await reader.readexactly(int(fields.partition("content-length: ")[2].partition("\r\n")[0]))
            body = b""
            if line.startswith("GET"):
                token = line.partition("continuation-token=")[2].partition("&")[0].partition(" ")[0]
                body = ready[int(token or 0)]
            writer.write(b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
            await writer.drain()

    async def read_head(reader: asyncio.StreamReader) -> str:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            return ""

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(main())


def measure(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU time of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(what: str, ours: Callable[[], Any], bare: Callable[[], Any], rounds: int) -> None:
    """Print medians and their ratio; one round to warm up is not counted."""
    ours()
    bare()
    pairs = [(measure(ours), measure(bare)) for _ in range(rounds)]
    (wall, cpu), (bare_wall, bare_cpu) = (
        (statistics.median(pair[side][0] for pair in pairs), statistics.median(pair[side][1] for pair in pairs))
        for side in (0, 1)
    )
    print(
        f"{what:34} wall {wall:6.2f} s  CPU {cpu:6.2f} s   boto3: wall {bare_wall:6.2f} s  CPU {bare_cpu:6.2f} s   "
        f"ratio of rates: wall {bare_wall / wall:5.2f}  CPU {bare_cpu / cpu:5.2f}",
        flush=True,
    )


def listing(server: servers.Server, path: str, count: int, rounds: int) -> None:
    store, client = open_store(server.prefix(path)), server.client()

    def ours() -> None:
        assert sum(isinstance(SPACE.parse(entry.key), DoneKey) for entry in store.list(DONE)) == count

    def bare() -> None:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=server.bucket, Prefix=f"{path}/{DONE}")
        keys = (item["Key"][len(path) + 1 :] for found in pages for item in found["Contents"])
        assert sum(isinstance(SPACE.parse(key), DoneKey) for key in keys) == count

    compare(f"list and parse {count:,} markers", ours, bare, rounds)


def publishing(server: servers.Server, count: int, rounds: int) -> None:
    store: Any = open_store(server.prefix("publish"))
    client = server.client()
    with tempfile.TemporaryDirectory() as name:

        def made(folder: Path) -> Path:
            for number in range(count):
                path = folder / f"task.{number:06d}" / "conf.lmp"
                path.parent.mkdir(parents=True)
                path.write_bytes(os.urandom(4096))
            return folder

        ready = [made(Path(name) / str(number)) for number in range(2 * rounds + 2)]

        def ours() -> None:
            store.publish(ready.pop(), "jobs")

        def bare() -> None:
            folder = ready.pop()
            paths = [(f"bare/{path.relative_to(folder)}", path) for path in folder.rglob("*") if path.is_file()]

            def put(item: tuple[str, Path]) -> None:
                client.put_object(Bucket=server.bucket, Key=item[0], Body=item[1].read_bytes())

            with ThreadPoolExecutor(32) as pool:
                list(pool.map(put, paths))

        compare(f"publish {count:,} files of 4 kB", ours, bare, rounds)


def iteration(server: servers.Server, folder: Path, rounds: int = 3) -> None:
    programs = StubPrograms(folder / "programs")
    for size, group in ((Size(4, 20, 20), 1), (Size(4, 200, 20), 10)):
        print(f"an iteration of {size} tasks, {group} in an explore job")
        with proxy(server) as line:
            _, requests = run_on_s3(folder / f"counted{group}", programs, line, f"counted{group}", size, group)
        print(table(requests, size, group), flush=True)
    size = Size(4, 100, 100)
    used: dict[str, list[float]] = {"s3://": [], "file://": []}
    for number in range(rounds):
        usage, _ = run_on_s3(folder / f"s3-{number}", programs, server, f"timed{number}", size, 1)
        used["s3://"].append(usage.cpu)
        (folder / f"file-{number}").mkdir()
        used["file://"].append(run_real(folder / f"file-{number}", programs, size, 1, 1).cpu)
    there, here = (statistics.median(times) for times in used.values())
    print(f"an iteration of {size} jobs: CPU {there:.1f} s on S3, {here:.1f} s in a folder, {there / here:.2f} x")


def main() -> None:
    os.environ.update(AWS_ACCESS_KEY_ID=servers.ACCESS, AWS_SECRET_ACCESS_KEY=servers.SECRET)
    port = servers.free_port()
    null = multiprocessing.get_context("spawn").Process(target=serve_nothing, args=(port, 100), daemon=True)
    null.start()
    server = servers.Server(f"http://127.0.0.1:{port}")
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.05)
    print("null server")
    listing(server, "null", 100 * PAGE, rounds=2)
    publishing(server, 1000, rounds=5)
    null.terminate()
    print("ministack")
    with tempfile.TemporaryDirectory() as folder, servers.ministack(Path(folder)) as real:
        store = open_store(real.prefix("many"))
        made = Path(folder) / "made"
        made.mkdir()
        for number in range(3 * PAGE):
            (made / f"{number:06d}.json").write_bytes(b"{}")
        store.publish(made, DONE.rstrip("/"))
        listing(real, "many", 3 * PAGE, rounds=5)
        publishing(real, 1000, rounds=5)
        iteration(real, Path(folder) / "iteration")


if __name__ == "__main__":
    main()
