"""Notifications of the commands that advance one run, and their test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from conventions.errors import ConfigError, Dpgen2Error
from statemachine.logs import known
from statemachine.notify import Notifier, Watch, take
from statemachine.notify.senders import senders_of, try_out


@contextmanager
def watching(prefix: str) -> Iterator[Watch]:
    """Tells people of a run while it is followed, where the environment says how."""
    targets = take(os.environ)
    known.hide(targets.secrets)
    notifier = Notifier(senders_of(targets), targets.kinds)
    watch = Watch(notifier, prefix)
    try:
        yield watch
    except Dpgen2Error as error:
        watch.failed(error)
        raise
    finally:
        notifier.close()


def test_notify() -> int:
    """Send a test message to each target that the environment names; the exit code."""
    targets, code = take(os.environ), 0
    known.hide(targets.secrets)
    if not (targets.webhook or targets.urls):
        raise ConfigError("nobody would be told: set DPGEN2_NOTIFY_URLS, or DPGEN2_WEBHOOK_URL and DPGEN2_WEBHOOK_KEY")
    for name, wrong in try_out(targets):
        code = 1 if wrong else code
        print(f"{name}: {known.redact(wrong) or 'sent'}")
    return code
