"""What can become of a file that others write: real samples, damaged in the ways that files are.

A test of a parser takes `mutated(samples)`; mutations of good samples go much deeper into it than random bytes. Under
`examples(...)` the inputs are the same in every run; a parser that hangs, or asks for gigabytes, fails.
"""

from __future__ import annotations

import contextlib
import copy
import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUICK, LONG = 8, 150  # inputs for each parser
# Numbers that are none, or none that anybody can use; words that mean something to some reader; broken encodings.
TOKENS = [
    *(b"NaN", b"-nan", b"inf", b"-Infinity", b"1e999", b"-1", b"0", b"-0", b"1e300", b"1e-320", b"0.5", b"1_0", b"1e"),
    *(b"0x10", b"2147483648", b"9223372036854775808", b"9" * 30, b"9" * 400, b"9" * 5000, "\u0663".encode(), b"--1"),
    *(b"", b" ", b"\n", b"\r\n", b"\t", b"\0", b"\x7f", b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"null", b"true", b"[]", b"{}", b"[", b"{", b'"', b"'", b",", b":", b"#", b".", b"&a", b"*a", b"*****"),
    *(b"[" * 3000, b'{"a":' * 3000, b"../../x", b"/etc/passwd", b"{{x}}", b"$(id)", b"<!DOCTYPE x>", b"&lt;"),
    *(b"!!python/name:os.system", b"ITEM: TIMESTEP\n", b"[ABORT]", b"PROGRAM ENDED AT", b"Lattice=", b"PK\x03\x04"),
    *(b"x" * 70_000, b"1 " * 5000, b"<html>"),
]  # fmt: skip
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**6, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e300, -1e-320, 1e-5),
    *("", " ", "x", "nan", "1", "../x", "/", "a\nb", "\0", "\u0663", "\ud800", "{{x}}", "$(id)", "x" * 5000, "{a: 1}"),
    *([], {}, [None], [[]], {"": None}, [1, "x"], {"app": "stub"}, ["x"] * 2000, {str(n): n for n in range(300)}),
]  # fmt: skip


def _cut(data: bytes, place: int, token: bytes) -> bytes:
    return data[: place % (len(data) + 1)]


def _flip(data: bytes, place: int, token: bytes) -> bytes:
    if not data:
        return token
    at = (place >> 3) % len(data)
    return data[:at] + bytes([data[at] ^ 1 << (place & 7)]) + data[at + 1 :]


def _insert(data: bytes, place: int, token: bytes) -> bytes:
    at = place % (len(data) + 1)
    return data[:at] + token + data[at:]


def _remove(data: bytes, place: int, token: bytes) -> bytes:
    at = place % (len(data) + 1)
    return data[:at] + data[at + 1 + len(token) :]


def _zero(data: bytes, place: int, token: bytes) -> bytes:
    """A block that never reached the disk."""
    at = place % (len(data) + 1)
    return data[:at] + bytes(min(len(data) - at, 1 + len(token))) + data[at + 1 + len(token) :]


def _lines(change: Callable[[list[bytes], int, bytes], None]) -> Callable[[bytes, int, bytes], bytes]:
    def mutate(data: bytes, place: int, token: bytes) -> bytes:
        lines = data.splitlines(keepends=True) or [b""]
        change(lines, place % len(lines), token)
        return b"".join(lines)

    return mutate


def _word(data: bytes, place: int, token: bytes) -> bytes:
    """A word, or a number, becomes another one."""
    words = data.replace(b",", b" , ").replace(b":", b" : ").split(b" ") if b" " not in data else data.split(b" ")
    filled = [number for number, word in enumerate(words) if word.strip()] or [0]
    words[filled[place % len(filled)]] = token
    return b" ".join(words)


def _delete(lines: list[bytes], at: int, token: bytes) -> None:
    del lines[at]


def _double(lines: list[bytes], at: int, token: bytes) -> None:
    lines.insert(at, lines[at])


def _swap(lines: list[bytes], at: int, token: bytes) -> None:
    lines[at], lines[at - 1] = lines[at - 1], lines[at]


def _replace(lines: list[bytes], at: int, token: bytes) -> None:
    lines[at] = token + b"\n"


OPERATIONS = [_cut, _flip, _insert, _remove, _zero, _word, _word, *map(_lines, (_delete, _double, _swap, _replace))]
_CHANGES = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2**20), st.sampled_from(TOKENS)), min_size=1, max_size=4
)


def _apply(data: bytes, changes: Sequence[tuple[Callable[[bytes, int, bytes], bytes], int, bytes]]) -> bytes:
    for operation, place, token in changes:
        data = operation(data, place, token)
    return data


def mutated(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Damaged samples, and now and then bytes that never were one."""
    damaged = st.builds(_apply, st.sampled_from(samples), _CHANGES)
    return st.one_of(damaged, damaged, damaged, damaged, st.binary(max_size=80))


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a document: its container and its key there."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _nodes(value[key])


def _change_tree(document: Any, changes: Sequence[tuple[str, int, Any]]) -> Any:
    document = copy.deepcopy(document)
    for kind, place, value in changes:
        value = copy.deepcopy(value)
        nodes = list(_nodes(document))
        if not nodes:
            return value
        parent, key = nodes[place % len(nodes)]
        if kind == "replace":
            parent[key] = value
        elif kind == "wrap":
            parent[key] = [parent[key]]
        elif kind == "move":
            other, name = nodes[(place >> 8) % len(nodes)]
            parent[key] = copy.deepcopy(other[name])
        elif isinstance(parent, list):
            parent.insert(key, value)
        elif kind == "rename":
            parent[str(value)[:50]] = parent.pop(key)
        elif kind == "add":
            parent["more"] = value
        else:
            del parent[key]
    return document


def mutated_trees(documents: Sequence[Any]) -> st.SearchStrategy[Any]:
    """JSON documents with other values, keys and shapes: they parse, and say something odd."""
    kinds = st.sampled_from(["replace"] * 4 + ["delete", "rename", "add", "wrap", "move"])
    changes = st.lists(st.tuples(kinds, st.integers(0, 2**16), st.sampled_from(VALUES)), min_size=1, max_size=3)
    return st.builds(_change_tree, st.sampled_from(documents), changes)


def mutated_json(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Documents that parse and say something odd, and such that do not parse."""
    return st.one_of(
        mutated_trees(documents).map(lambda document: json.dumps(document).encode()),
        mutated([json.dumps(document).encode() for document in documents]),
    )


def examples(count: int) -> settings:
    """So many inputs, the same ones in every run. The deadline is for what hangs, not for what is slow."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=30),
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def small_memory(more: int = 2 << 30) -> Iterator[None]:
    """Let nothing take more than so many bytes beyond what this process has already: it is a MemoryError."""
    with open("/proc/self/statm") as stream:
        now = int(stream.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@dataclass(frozen=True)
class Parser:
    """Something that reads what others wrote. `parse` may raise `errors`; another exception fails the test.

    Parameters
    ----------
    parse
        Is given the bytes, and a folder of its own.
    samples, documents
        Good inputs; documents are written as JSON.
    """

    parse: Callable[[bytes, Path], object]
    samples: Sequence[bytes] = ()
    documents: Sequence[Any] = ()
    errors: tuple[type[Exception], ...] = ()


def check(parser: Parser, folder: Path, count: int = QUICK) -> int:
    """The samples are read without an error; of so many damaged ones, none has another end than it may. How many?"""
    for data in [*parser.samples, *(json.dumps(document).encode() for document in parser.documents)]:
        parser.parse(data, folder)
    parts = [mutated(parser.samples)] if parser.samples else []
    parts += [mutated_json(parser.documents)] if parser.documents else []
    tried = 0

    @examples(count)
    @given(st.one_of(parts))
    def go(data: bytes) -> None:
        nonlocal tried
        tried += 1
        with contextlib.suppress(*parser.errors):
            parser.parse(data, folder)

    with small_memory():
        go()
    return tried
