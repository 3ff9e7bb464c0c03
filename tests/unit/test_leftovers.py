"""The suite's own check that nothing outlives it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.leftovers import nothing_is_left


def test_what_outlives_the_tests_is_named_and_ended() -> None:
    with pytest.raises(AssertionError, match=r"still running.*\n.*: sleep 600"), nothing_is_left(patience=0):
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        while not Path(f"/proc/{process.pid}/environ").read_bytes():  # it has none for a moment while it is begun
            pass
    assert process.wait() == -9


def test_what_has_ended_or_is_somebody_elses_is_not_found() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        with nothing_is_left(patience=0):
            subprocess.run(["true"], check=True)
        assert other.poll() is None
