"""Code that travels: operators as content-addressed objects under `.dflow/python/`.

A workflow pins the hash of `fn/{hash}.py`, which pins the hashes of the packages: nothing else is run.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conventions.errors import ConfigError
from conventions.names import sha256
from conventions.space import DataSpace
from operators.core import Operator
from operators.registry import APPS, known

OURS = ("conventions", "operators")


@dataclass(frozen=True)
class Shipped:
    """An operator as the store holds it: the key of its entry point, and of each package, with the bytes."""

    function: str
    digest: str
    packages: dict[str, str]
    objects: dict[str, bytes]


def ship(operator: Operator, space: DataSpace) -> Shipped:
    """The objects that a pod needs to run `operator`."""
    apps = third_party(space)
    modules = (*OURS, operator.__module__, *apps.values())
    archives = {name: pack(name) for name in dict.fromkeys(re.split(r"[.:]", module)[0] for module in modules)}
    pins = {name: sha256(data) for name, data in archives.items()}
    header = f'OPERATOR = "{operator.__module__}:{operator.__qualname__}"\nPACKAGES = {pins!r}\nAPPS = {apps!r}\n'
    source = header.encode() + _runner()
    digest = sha256(source)
    keys = {name: space.package(name, pin) for name, pin in pins.items()}
    objects = {space.function(digest): source, **{keys[name]: archives[name] for name in archives}}
    return Shipped(space.function(digest), digest, keys, objects)


def read_entry(source: bytes, digest: str) -> dict[str, Any]:
    """OPERATOR, PACKAGES and APPS of a shipped entry point; empty unless it is the one named, and of this version."""
    header, tail = source.partition(_runner())[::2]
    if sha256(source) != digest or tail or len(header) == len(source):
        return {}
    lines = (line.split(" = ", 1) for line in header.decode().splitlines())
    return {name: ast.literal_eval(value) for name, value in lines}


@functools.cache
def _runner() -> bytes:
    return files("operators.pod").joinpath("runner.py").read_bytes()


def third_party(space: DataSpace) -> dict[str, str]:
    """The run's apps that are not ours: a pod, where they are not installed, finds them by this."""
    names = [f"{stage}.{name}" for stage, name in sorted(space.apps.items())]
    return {name: known()[name] for name in names if name not in APPS and name in known()}


@functools.cache
def pack(package: str) -> bytes:
    """A package as it was when this process first needed it: what it submits stays the same."""
    return read_package(package)


def read_package(package: str) -> bytes:
    """A package (or a single module) as a zip whose bytes depend on its files only."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the Python package {package} has no files to ship")
    origin = Path(spec.origin)
    root = origin.parent
    paths = sorted(root.rglob("*")) if spec.submodule_search_locations else [origin]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(root.parent if spec.submodule_search_locations else root)
                archive.writestr(zipfile.ZipInfo(name.as_posix(), (1980, 1, 1, 0, 0, 0)), path.read_bytes())
    return buffer.getvalue()
