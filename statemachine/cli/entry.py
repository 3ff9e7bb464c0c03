"""The entry point: a known error is a line and an exit code, never a traceback."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from typing import NoReturn

from conventions.errors import Dpgen2Error
from statemachine.logs import guard, known

from .ending import BROKEN_PIPE, Terminated, exit_code

_INTERRUPTED = """
interrupted: nothing is lost. Submitted workflows keep running; `dpgen2-sm resume` follows the run again, \
`dpgen2-sm cancel` stops it."""


def _terminated(number: int, frame: object) -> NoReturn:
    raise Terminated


def main() -> None:
    """Run the command line; a known error is a line on stderr and an exit code, never a traceback."""
    # Collections while modules are imported, and at the end, find nothing, and are a fifth of a short command's cost.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    # Looking for pydantic plugins reads the metadata of every installed package, at each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name still shows the rest
    signal.signal(signal.SIGTERM, _terminated)
    guard()
    try:
        from .app import app

        app()
    except Dpgen2Error as error:
        print("\n".join(f"error: {line}" for line in known.redact(str(error)).splitlines()), file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Terminated) as ending:
        print(_INTERRUPTED, file=sys.stderr)
        sys.exit(exit_code(ending))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(BROKEN_PIPE)
    except OSError as error:  # a full disk, no permission: the machine's, not the program's
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
