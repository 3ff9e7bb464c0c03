"""The embedded store: a folder. Real compare-and-swap, durable, no server."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from conventions.errors import ConfigError, Conflict, NotFound, StoreError

from .base import Arrived, Blob, Entry, check_key, files_below

_PART = ".part-"
_LOCK = ".lock"
_HIDDEN = (_PART, _LOCK, ".engine", ".nfs")  # the last: NFS's name for what is deleted while it is open


class FileStore:
    """Objects as files below a root folder.

    A write goes to a temporary file, is flushed, and is renamed over the target; conditional writes do so under
    a lock. A swap flushes the whole file system first, so that after a power cut a state never exists without the
    files that it depends on.

    Examples
    --------
    >>> import tempfile
    >>> store = FileStore.of(Path(tempfile.mkdtemp()))
    >>> tag = store.put("a/b.json", b"{}", if_absent=True)
    >>> store.get("a/b.json").data
    b'{}'
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            path = Path(unquote(parts.path, errors="strict"))
        except ValueError:  # a broken host, bytes that are not UTF-8
            raise ConfigError(f"prefix {url!r}: not a URL of UTF-8 text") from None
        if parts.scheme != "file" or parts.netloc or parts.query or parts.fragment or not path.is_absolute():
            raise ConfigError(f"prefix {url!r}: a file prefix is file:///absolute/path")
        self.root = Path(os.path.normpath(path))
        if self.root == Path(self.root.anchor):
            raise ConfigError(f"prefix {url!r}: name a folder for the run")
        if not str(self.root).isprintable() or "\\" in str(self.root):
            raise ConfigError(f"prefix {url!r}: its path has a backslash or a character that cannot be printed")
        try:
            if not stat.S_ISDIR(self.root.stat().st_mode):
                raise ConfigError(f"prefix {url!r}: this is a file; a folder is expected")
        except FileNotFoundError:
            pass
        except OSError as error:  # a file in the middle, a name too long, no permission
            raise ConfigError(f"prefix {url!r}: {error.strerror}") from None
        self.url = f"file://{quote(str(self.root))}"
        self._threads = threading.Lock()

    @classmethod
    def of(cls, root: Path) -> FileStore:
        """The store of a local folder."""
        return cls(f"file://{quote(str(root.resolve()))}")

    def at(self, key: str) -> str:
        return f"{self.url}/{key}"

    def secrets(self) -> list[str]:
        return []

    def get(self, key: str) -> Blob:
        try:
            data = self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"{self.at(key)}: there is no such object") from None
        except OSError as error:
            raise StoreError(f"cannot read {self.at(key)}: {error.strerror}") from error
        return Blob(data, _tag(data))

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        path = self._path(key)
        try:
            if not if_absent and if_match is None:
                self._write(path, data)
                return _tag(data)
            with self._locked() as still:
                self._check(path, key, if_match)
                if if_match is not None:
                    _sync_filesystem(self.root)
                self._write(path, data, still)
        except OSError as error:
            raise StoreError(f"cannot write {self.at(key)}: {error.strerror}") from error
        return _tag(data)

    def list(self, prefix: str) -> Iterator[Entry]:
        folder = self.root / prefix.rpartition("/")[0]
        if prefix and not prefix.endswith("/"):
            check_key(prefix)
        for path, size in _walk(folder):
            key = path[len(str(self.root)) + 1 :]
            if key.startswith(prefix):
                yield Entry(key, size)

    def folders(self, prefix: str) -> Sequence[str]:
        try:
            with os.scandir(self.root / prefix) as found:
                return sorted(entry.name for entry in found if entry.is_dir() and not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return []

    def head(self, key: str) -> Entry | None:
        path = self._path(key)
        try:
            if not path.is_file():
                return None
            status = path.stat()
        except OSError as error:
            raise StoreError(f"cannot look at {self.at(key)}: {error.strerror}") from error
        return Entry(key, status.st_size, modified=status.st_mtime)

    def copy(self, source: str, target: str) -> None:
        self.put(target, self.get(source).data)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def delete_all(self, keys: Sequence[str]) -> None:
        for path in map(self._path, keys):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:  # something is left in it
                    break

    def fetch(self, key: str, scratch: Path) -> Path | None:
        path = self._path(key)
        return path if path.exists() else None

    def publish(self, path: Path, key: str, arrived: Arrived = lambda size: None) -> None:
        target = self._path(key)
        if path.is_dir() and not path.is_symlink():
            _move_folder(_scan(str(path)), target, arrived)
        else:
            for file in files_below(path, key):
                size = file.stat().st_size
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(file, target)
                arrived(size)

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        if path.name.startswith(_HIDDEN):
            raise StoreError(f"{key!r} is a name reserved by the store")
        return path

    def _check(self, path: Path, key: str, if_match: str | None) -> None:
        try:
            present = _tag(path.read_bytes())
        except FileNotFoundError:
            present = None
        if present != if_match:
            found = "exists already" if if_match is None else "it has changed" if present else "it is gone"
            raise Conflict(f"{self.at(key)}: {found}")

    @contextmanager
    def _locked(self) -> Iterator[Callable[[], None]]:
        """Hold the store's lock. What is yielded raises where its file was deleted: others lock a new one then."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._threads:
            while True:
                with open(self.root / _LOCK, "ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if self._is_lock(lock.fileno()):  # not one that was deleted while this waited for it
                        yield lambda: self._keep_lock(lock.fileno())
                        return

    def _is_lock(self, handle: int) -> bool:
        try:
            return os.path.samestat((self.root / _LOCK).stat(), os.fstat(handle))
        except FileNotFoundError:
            return False

    def _keep_lock(self, handle: int) -> None:
        if not self._is_lock(handle):
            raise StoreError(f"{self.root / _LOCK} was deleted while it was held; nothing was written: try again")

    def _write(self, path: Path, data: bytes, still: Callable[[], None] = lambda: None) -> None:
        _make_folder(path.parent)
        part = path.with_name(f"{_PART}{os.getpid()}-{threading.get_ident()}-{path.name}")
        try:
            with open(part, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            still()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _walk(folder: Path) -> Iterator[tuple[str, int]]:
    """Files below a folder with their sizes, in the lexical order of their keys."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(_HIDDEN)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in sorted(entries, key=lambda e: e.name + "/" if e.is_dir() else e.name):
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        else:
            yield entry.path, entry.stat().st_size


@dataclass(frozen=True)
class _Folder:
    """A folder that is published; `plain` where all that it holds is published, so that it can be moved as a whole."""

    path: str
    files: list[tuple[str, int]]
    folders: list[_Folder]
    plain: bool

    def sizes(self) -> Iterator[int]:
        for folder in self.folders:
            yield from folder.sizes()
        yield from (size for _, size in self.files)


def _scan(path: str) -> _Folder:
    """What a folder holds of files and folders; links, special files and the store's own names are left out."""
    files, folders, strange = [], [], False
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda found: found.name):
            if entry.name.startswith(_HIDDEN):
                strange = True
            elif entry.is_dir(follow_symlinks=False):
                folders.append(_scan(entry.path))
            elif entry.is_file(follow_symlinks=False):
                files.append((entry.name, entry.stat().st_size))
            else:
                strange = True
    plain = not strange and bool(files or folders) and all(folder.plain for folder in folders)
    return _Folder(path, files, folders, plain)


def _move_folder(found: _Folder, target: Path, arrived: Arrived) -> None:
    """Rename a folder, or, where it cannot go as a whole, what it holds; what is not published is removed."""
    if found.plain:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            Path(found.path).rename(target)
        except OSError:  # another file system; or there is something at the target that is no empty folder
            pass
        else:
            for size in found.sizes():
                arrived(size)
            return
    for folder in found.folders:
        _move_folder(folder, target / Path(folder.path).name, arrived)
    for name, size in found.files:
        target.mkdir(parents=True, exist_ok=True)
        _move(Path(found.path, name), target / name)
        arrived(size)
    shutil.rmtree(found.path, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    """Like mkdir -p, flushing each new folder's entry to disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _move(source: Path, target: Path) -> None:
    """Rename, or copy and rename where the two are on different file systems."""
    try:
        source.replace(target)
    except OSError:
        part = target.with_name(f"{_PART}{os.getpid()}-{threading.get_ident()}-{target.name}")
        shutil.copyfile(source, part)
        part.replace(target)
        source.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_filesystem(folder: Path) -> None:
    """Flush to disk what jobs wrote without flushing it themselves."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
        if syncfs is None or syncfs(handle) != 0:
            os.sync()
    finally:
        os.close(handle)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
