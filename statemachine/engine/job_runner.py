"""Runs one job on this machine: what `operators/pod/job.sh` does where there may be no Python.

A short task costs what it starts: here that is `sh run.sh`, and nothing else. Places, files, exit codes and the marker
are the wrapper's, byte for byte, so that either of the two takes up what the other has begun.
`tests/contract/runner_contract.py` holds both.

Several threads may each run a job. So nothing here changes the process (its folder, its umask): what is made gets its
mode by itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TextIO

from operators.sums import check_file, sha256_of

_TROUBLE, _NOT_KEPT, _LEFT_NOTHING = 70, 74, 65
_UMASK = 0o022
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"  # what the marker can hold
_RECORDABLE = re.compile(rf"{_NAME}(/{_NAME})*")
_LINE = re.compile(rf"([0-9a-f]{{64}})  ({_NAME}(?:/{_NAME})*)")
_STORABLE = re.compile(r"[ -\[\]-~]*")  # what every store can hold


class _Ended(Exception):
    """The job cannot go on; there will be no marker."""

    def __init__(self, code: int, why: object) -> None:
        super().__init__(str(why))
        self.code = code


def run_job(env: Mapping[str, str], errors: TextIO = sys.stderr, shared: Sequence[int] = ()) -> int:
    """Run every task of a job that is not finished yet, and write the completion marker.

    Parameters
    ----------
    env
        The job's whole environment. JOB_ID, JOB_JOB, JOB_PREVIOUS, JOB_OUT, JOB_LOG and JOB_DONE name its places, by
        absolute paths; the tasks see all of it.
    errors
        Gets a line when the job cannot go on.
    shared
        File descriptors that the programs keep open.

    Returns
    -------
    int
        0: every task ended well. 1: some failed. 70: the job could not be run. 74: what it left could not be
        recorded. There is no marker of this attempt after 70 and 74.
    """
    try:
        return _Job(env, errors, shared).run()
    except _Ended as end:
        print(f"job runner: {end}", file=errors)
        return end.code


class _Job:
    def __init__(self, env: Mapping[str, str], errors: TextIO, shared: Sequence[int]) -> None:
        self.errors, self.shared = errors, shared
        self.id = env["JOB_ID"]
        self.inputs, self.previous = Path(env["JOB_JOB"]), Path(env["JOB_PREVIOUS"])
        self.out, self.log, self.done = Path(env["JOB_OUT"]), Path(env["JOB_LOG"]), Path(env["JOB_DONE"])
        self.work = self.out.parent / "work"
        self.env = {**env, "LC_ALL": "C"}
        self.begun = False
        self.start, self.cpu = int(time.time()), 0.0

    @cached_property
    def outputs(self) -> list[tuple[str, str]]:
        """`need` or `keep`, and a name, of what a task is to leave."""
        lines = (self.inputs / "outputs").read_text("utf-8", "surrogateescape").splitlines()
        return [(need, name) for need, name in (line.strip().split(maxsplit=1) for line in lines)]

    def run(self) -> int:
        with _or_ended(_TROUBLE):
            for folder in (self.work, self.out, self.log, self.done.parent):
                _make_folder(folder)
            digest, end, _ = (self.inputs / "digest").read_text("utf-8", "replace").partition("\n")
            if not end:
                raise _Ended(_TROUBLE, "in/digest was cut short")
            names = [entry.name for entry in _entries(self.inputs) if entry.name.startswith("task.")]
        codes: dict[str, int] = {}
        sums: dict[str, str] = {}
        for name in names:
            task = _Task(self, name)
            if task.is_finished():
                codes[name] = 0
            else:
                self.begin()
                codes[name] = task.run()
            sums.update(task.sums)
        self.mark(digest, codes, sums)
        return int(any(codes.values()))

    def say(self, error: OSError) -> None:
        print(f"job runner: {error}", file=self.errors)

    def begin(self) -> None:
        """Run once.sh before the first task that has to be run."""
        script = self.inputs / "once.sh"
        if not self.begun and script.is_file() and self.execute(script, self.work, self.log / "job.log"):
            raise _Ended(_TROUBLE, "once.sh failed, see log/job.log")
        self.begun = True

    def execute(self, script: Path, folder: Path, log: Path) -> int:
        """Run a script of the job, and return its exit code as a shell tells it."""
        with _or_ended(_TROUBLE), open(log, "wb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            with subprocess.Popen(
                ["sh", str(script)],
                cwd=folder,
                env={**self.env, "PWD": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                umask=_UMASK,
                pass_fds=self.shared,
            ) as program:
                _, status, usage = os.wait4(program.pid, 0)
                program.returncode = code = os.waitstatus_to_exitcode(status)
        self.cpu += usage.ru_utime + usage.ru_stime
        return 128 - code if code < 0 else code

    def mark(self, digest: str, codes: Mapping[str, int], sums: Mapping[str, str]) -> None:
        """Write the completion marker."""
        with _or_ended(_NOT_KEPT):
            try:
                sizes = {name: _size(self.out, name) for name in sorted(sums)}
            except FileNotFoundError as error:
                # Whose it was, the next attempt finds by running all of them.
                for name in codes:
                    (self.work / f"{name}.code").unlink(missing_ok=True)
                raise _Ended(_NOT_KEPT, f"a file that a task recorded has gone since: {error}") from None
            marker = {
                "schema_version": 2,
                "job_id": self.id,
                "inputs": digest,
                "tasks": [{"id": name, "code": code} for name, code in codes.items()],
                "files": [{"name": name, "size": size, "sha256": sums[name]} for name, size in sizes.items()],
            }
            part = self.done.with_name(f"{self.done.name}.part")
            text = json.dumps(marker, separators=(",", ":"))
            _write(part, f'{text[:-1]},"used":{self.used()}}}\n')
            part.replace(self.done)

    def used(self) -> str:
        """When the job began, its time and that of its programs, s, as the marker has it."""
        wall = max(0, int(time.time()) - self.start)
        return f'{{"began":{self.start},"wall":{wall},"cpu":{self.cpu:.3f}}}'


class _Task:
    """One task, and the files that tell how far it is: `{task}.code` and `{task}.sums` beside its folder."""

    def __init__(self, job: _Job, name: str) -> None:
        self.job, self.name = job, name
        self.inputs, self.folder, self.out = job.inputs / name, job.work / name, job.out / name
        self.code_file, self.sums_file = job.work / f"{name}.code", job.work / f"{name}.sums"
        self.log = job.log / f"{name}.log"
        self.sums: dict[str, str] = {}

    def is_finished(self) -> bool:
        """Did an interrupted attempt finish it, and is what it left as it was, here or where it was taken to since?"""
        with _or_ended(_TROUBLE):
            if _line(self.code_file) != "0":
                return False
            if not self.is_recorded(self.job.out):
                _remove(self.out)
                if not self.is_recorded(self.job.previous):
                    return False
                try:
                    _copy_tree(self.job.previous / self.name, self.out)
                except OSError:
                    return False
        return True

    def is_recorded(self, root: Path) -> bool:
        """Are the files that the task recorded the ones in that folder? If so, `sums` has them."""
        try:
            lines = self.sums_file.read_text("utf-8", "surrogateescape").splitlines()
            found = [_LINE.fullmatch(line) for line in lines]
            sums = {match[2]: match[1] for match in found if match}
            if not sums or None in found or any(check_file(root / name, digest) for name, digest in sums.items()):
                return False
        except OSError:
            return False
        self.sums = sums
        return True

    def run(self) -> int:
        """Run it, keep and record its outputs, and return its code."""
        with _or_ended(_TROUBLE):
            self.prepare()
        code = self.job.execute(self.job.inputs / "run.sh", self.folder, self.log)
        with _or_ended(_TROUBLE):
            code = self.keep(code)
        with _or_ended(_NOT_KEPT):
            self.sums = {f"{self.name}/{name}": sha256_of(self.out / name) for name in sorted(_settle(self.out))}
            _write(self.sums_file, "".join(f"{digest}  {name}\n" for name, digest in self.sums.items()))
            _write(self.code_file, f"{code}\n")
        return code

    def prepare(self) -> None:
        """A folder with the inputs, and with what an interrupted attempt left in this place.

        Else with what an earlier one could save (a checkpoint), here or where it was taken to; that is all there, or it
        does not count. Whatever stands in the way of an input goes.
        """
        if _line(self.code_file):
            _remove(self.folder)
            self.code_file.unlink()
            self.sums_file.unlink(missing_ok=True)
        saved = self.job.previous / self.name
        if self.folder.is_dir():
            _open_up(self.folder)
            for path in filter(_is_output, sorted(self.out.iterdir()) if self.out.is_dir() else ()):
                _remove(self.folder / path.name)
                path.rename(self.folder / path.name)
        elif self.out.is_dir():
            self.out.rename(self.folder)
        elif saved.is_dir():
            new = self.folder.with_name(f"{self.name}.new")
            _remove(new)
            try:
                _copy_tree(saved, new)
            except OSError as error:
                self.job.say(error)  # the task begins with what there is
            new.rename(self.folder)
        if self.folder.is_dir():
            _open_up(self.folder)
            for path in self.inputs.iterdir():
                place = self.folder / path.name
                if not (path.is_dir() and place.is_dir() and not place.is_symlink()):
                    _remove(place)
        _copy_tree(self.inputs, self.folder)

    def keep(self, code: int) -> int:
        """Move what `outputs` names to out/; a link or a fifo counts as missing."""
        _open_up(self.folder)
        found = []
        for need, name in self.job.outputs:
            path = self.folder / name
            if _is_output(path):
                found.append(path)
            elif need == "need" and code == 0:
                with open(self.log, "a", encoding="utf-8", errors="surrogateescape") as log:
                    log.write(f"job wrapper: the command ended well but left no {name}\n")
                code = _LEFT_NOTHING
        _remove(self.out)
        _make_folder(self.out)
        for path in found:
            _open_up(path)
            try:
                path.rename(self.out / path.name)
            except OSError as error:
                self.job.say(error)
                code = _NOT_KEPT
        return code


@contextmanager
def _or_ended(code: int) -> Iterator[None]:
    """End the job with a code where the system refuses something."""
    try:
        yield
    except (OSError, RecursionError) as error:  # the second: of folders in folders in folders
        raise _Ended(code, error) from None


def _is_output(path: Path) -> bool:
    """A file or a folder: a link could lead anywhere, and who opens a fifo waits."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _line(path: Path) -> str:
    """The first line of a file, empty where there is none."""
    try:
        return path.read_text("utf-8", "replace").partition("\n")[0].strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    with open(path, "wb") as stream:
        os.fchmod(stream.fileno(), 0o644)
        stream.write(text.encode())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(0o755)


def _size(folder: Path, name: str) -> int:
    """The size of a file below a folder; no link leads there."""
    path = str(folder)
    *folders, file = name.split("/")
    for part in folders:
        path = f"{path}/{part}"
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise FileNotFoundError(f"{path} is another thing now")
    status = os.lstat(f"{path}/{file}")
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(f"{path}/{file} is another thing now")
    return status.st_size


def _copy_tree(source: Path, target: Path) -> None:
    """Copy files and folders; that is all that a store holds. After an error it goes on, and raises it at the end."""
    _make_folder(target)
    errors = []
    for entry in _entries(source):
        try:
            if entry.is_dir(follow_symlinks=False):
                _copy_tree(Path(entry), target / entry.name)
            elif entry.is_file(follow_symlinks=False):
                place = shutil.copyfile(entry, target / entry.name)
                place.chmod(entry.stat(follow_symlinks=False).st_mode & 0o777 & ~_UMASK)
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def _remove(path: Path) -> None:
    """`rm -rf`, also of what a task has left read-only."""
    try:
        path.unlink(missing_ok=True)
        return
    except IsADirectoryError:
        pass
    try:
        shutil.rmtree(path)
    except PermissionError:
        for folder in [path, *_folders(path)]:
            _open_up(folder)
        shutil.rmtree(path)


def _folders(path: Path) -> Iterator[Path]:
    """The folders below one, each before what is in it."""
    for found in path.iterdir():
        if found.is_dir() and not found.is_symlink():
            yield found
            yield from _folders(found)


def _open_up(path: Path) -> None:
    """Let its owner read and change a file or folder."""
    mode = path.stat().st_mode
    wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
    if mode & wanted != wanted:
        path.chmod(stat.S_IMODE(mode) | wanted)


def _settle(folder: Path, below: str = "") -> Iterator[str]:
    """The files of a task's outputs whose names the marker can hold; what no store can hold is not kept.

    All can be read and moved on afterwards, whatever their modes were.
    """
    for entry in _entries(folder):
        path, name = Path(entry), f"{below}{entry.name}"
        if not _STORABLE.fullmatch(entry.name):
            _remove(path)
        elif entry.is_dir(follow_symlinks=False):
            _open_up(path)
            yield from _settle(path, f"{name}/")
        elif entry.is_file(follow_symlinks=False):
            _open_up(path)
            if _RECORDABLE.fullmatch(name):
                yield name
