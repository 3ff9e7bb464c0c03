"""What is seen on this machine of a batch job that runs. Part of the script that `batch_waiter.py` ends."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

LIVE = Path("live")  # in a job's folder
MOST = 1 << 20  # bytes of a log in one look


def see(context: Any) -> None:
    """Let this machine see how far the job of the current folder is: `live` is like `out` there, for logs and codes.

    Where that is on this machine, `live` is a link to it. Over SSH it is a copy, to which each look adds what is
    new. Nothing here may end the wait.
    """
    with contextlib.suppress(Exception):
        if hasattr(context, "sftp"):
            copy_new(context.sftp, f"{context.remote_root}/out")
        elif not LIVE.is_symlink():
            LIVE.symlink_to(Path(context.remote_root, "out"))


def copy_new(sftp: Any, root: str) -> None:
    for part, ending in (("log", ".log"), ("work", ".code")):
        (LIVE / part).mkdir(parents=True, exist_ok=True)
        for entry in sftp.listdir_attr(f"{root}/{part}"):
            path = LIVE / part / Path(entry.filename).name
            have = path.stat().st_size if path.exists() else 0
            if path.suffix == ending and entry.st_size != have:
                with sftp.open(f"{root}/{part}/{path.name}", "rb") as source:
                    have = have if have < entry.st_size else 0  # a log that begins anew is shorter
                    source.seek(have)
                    with open(path, "ab" if have else "wb") as target:
                        target.write(source.read(MOST))


def unsee() -> None:
    if LIVE.is_symlink():
        LIVE.unlink()
    shutil.rmtree(LIVE, ignore_errors=True)
