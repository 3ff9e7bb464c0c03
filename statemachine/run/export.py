"""A run's labelled data and models in a local folder, for other programs: `dpgen2-sm export RUN OUT`.

The run is only read. All is written to a folder beside OUT, which is renamed to OUT when it is whole.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conventions import __version__
from conventions.errors import CommandRefused, ConfigError
from conventions.names import canonical_json
from conventions.state import State
from operators.registry import load_config
from operators.sums import write_sums
from statemachine.store import Store, local_folder

from .configuration import configuration
from .export_dpgen import write_dpgen
from .export_models import newest_models, write_models
from .formats import WRITERS
from .labelled import Source, System, labelled_with, read, test_data, training_data
from .record import Record

Progress = Callable[[int, int], None]  # of systems: all, and more since the last call


def export(
    store: Store, out: Path, data: str | None, models: bool, dpgen: bool, progress: Progress = lambda total, more: None
) -> dict[str, Any]:
    """Write what is asked for into a new folder; return what was written.

    Parameters
    ----------
    out
        A folder that does not exist, or is empty.
    data
        A format of `WRITERS` for the training data, which go into `data/`, and the test data, into `test/`.
    models
        Also the newest committee, into `models/`.
    dpgen
        Also a tree that DP-GEN can go on with, into `dpgen/`.

    Raises
    ------
    CommandRefused
        When the run has none of that yet.
    ConfigError
        When the folder cannot be used.
    DataError
        When the run's data are damaged.
    """
    state = Record(store).load().state
    check_out(store, out)
    config = load_config(configuration(store, state))
    train = training_data(store, state) if data or dpgen else []
    tests = test_data(store, state, config.init.test) if data else []
    committee = newest_models(store, state) if models or dpgen else None
    where = f"its state is {state.at} of iteration {state.iteration}"
    if (data or dpgen) and not train:
        raise CommandRefused(f"the run has no labelled data yet: {where}")
    if models and committee is None:
        raise CommandRefused(f"the run has no models yet: {where}")
    written = [*([*train, *tests] if data else []), *(train if dpgen else [])]
    total = sum(len(source.systems) for source in written)
    found: dict[str, Any] = {"run": state.run, "out": str(out)}
    with whole(out) as folder:
        progress(total, 0)
        if data:
            rows = write_data(store, state, [*train, *tests], data, folder, lambda: progress(total, 1))
            about = {**_about(store, state), "format": data, "type_map": config.type_map, "systems": rows}
            (folder / "provenance.json").write_bytes(canonical_json(about) + b"\n")
            found["data"] = {"format": data, **_counts(rows, test=False)}
            found["test"] = _counts(rows, test=True)
        if models and committee:
            write_models(store, state, committee, folder / "models")
            found["models"] = {"iteration": committee.iteration, "files": committee.files}
        if dpgen:
            found["dpgen"] = write_dpgen(
                store, state, train, committee, config.type_map, folder / "dpgen", lambda: progress(total, 1)
            )
        write_sums(folder)
    return found


def check_out(store: Store, out: Path) -> None:
    """Raise `ConfigError` unless a folder can be made there, outside the run."""
    if "://" in str(out) or ":/" in str(out):
        raise ConfigError(f"{out}: name a folder on this machine")
    try:
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise ConfigError(f"{out} is not a folder")
        if out.is_dir() and next(out.iterdir(), None) is not None:
            raise ConfigError(f"{out} is not empty; name a folder that does not exist")
        inside = local_folder(store.url)
        if inside and out.resolve().is_relative_to(inside.resolve()):
            raise ConfigError(f"{out} is inside the run; name another folder")
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from None


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to. It becomes `out` at the end; after an error, or Ctrl-C, nothing is left.

    Of a process that is killed a hidden folder is left, `.{name}.part-...`.
    """
    out = out.absolute()
    part = out.with_name(f".{out.name}.part-{secrets.token_hex(4)}")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{out}: it cannot be made: {error.strerror}") from None
    try:
        yield part
        try:
            part.replace(out)
        except OSError as error:
            raise ConfigError(f"{out}: {error.strerror}; somebody else has written there meanwhile") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_data(
    store: Store, state: State, sources: Sequence[Source], format: str, folder: Path, arrived: Callable[[], None]
) -> list[dict[str, Any]]:
    """Write each folder of the dataset; return a row for each system: where it is, and where it is from."""
    rows: list[dict[str, Any]] = []

    def told(source: Source) -> Iterator[System]:
        for system in read(store, source):
            yield system
            arrived()

    for source in sources:
        top = ("test",) if source.part == "test" else ("data", source.part)
        written = WRITERS[format](told(source), folder.joinpath(*top, source.name))
        labelled = labelled_with(store, state, source)
        rows += [
            {
                "path": path.relative_to(folder).as_posix(),
                "dataset": source.folder,
                "system": system.name,
                "iteration": source.iteration,
                "config_sha256": labelled,
                "frames": len(system.data),
                "periodic": not system.data.nopbc,
                "virials": system.data.has_virial(),
                "sha256": system.sums,
            }
            for path, system in written
        ]
    return rows


def _about(store: Store, state: State) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "written_by": f"dpgen2-sm {__version__}",
        "run": state.run,
        "run_uid": state.run_uid,
        "prefix": store.url,
        "state_version": state.version,
        "label_app": state.policy.apps["label"],
        "config_sha256": state.config_sha256,
    }


def _counts(rows: Sequence[dict[str, Any]], test: bool) -> dict[str, int]:
    chosen = [row["frames"] for row in rows if row["dataset"].startswith("test/") == test]
    return {"systems": len(chosen), "frames": sum(chosen)}
