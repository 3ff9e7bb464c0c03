"""The thread that sends: nobody waits for it, and nothing that goes wrong in it reaches a run.

Each event has a marker in the run's prefix, which is taken by a create-only write before the message is sent: of
several processes one sends it, and none after a restart. If that one dies in between, the message is lost, not doubled.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from conventions.errors import Dpgen2Error, NotFound, StoreError
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import State
from statemachine.logs import Redactor, known
from statemachine.run.history import versions
from statemachine.store import Store, open_store

from .messages import DAY, USUAL, Message, age, messages, needs_person, plain, trouble
from .senders import PAUSES, Sender

WAITING = 1000  # looks that may wait to be told of
BACK = 8  # versions that are looked back at the start, about an iteration, and at most a day
GAP = 200  # versions of others that are looked through
AN_HOUR = 20  # messages of a prefix: whoever writes to it cannot flood a chat
GRACE = 5.0  # seconds to send what waits, at the end
_SPACE = DataSpace({})

log = logging.getLogger("dpgen2-sm")


@dataclass(frozen=True)
class _Look:
    """What was seen at a prefix: a state after another one (None: at the start), or that a person is needed."""

    prefix: str
    before: State | None
    after: State | None
    trouble: str = ""


class Notifier:
    """Sends what is worth telling, in a thread of its own; without senders it does nothing.

    Parameters
    ----------
    senders
        The ways to send, each used once for a message.
    kinds
        Which events are told.
    redactor
        Keeps secrets out of what is sent and logged.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self,
        senders: Sequence[Sender] = (),
        kinds: frozenset[str] = USUAL,
        redactor: Redactor = known,
        clock: Callable[[], float] = time.time,
        opened: Callable[[str], Store] = open_store,
    ) -> None:
        self.senders, self.kinds, self.redactor, self.clock, self.opened = senders, kinds, redactor, clock, opened
        self.counts = {"sent": 0, "failed": 0, "dropped": 0}
        self.over = threading.Event()  # nothing more is begun
        self._waiting: deque[_Look] = deque()
        self._changed = threading.Condition()  # guards `_waiting`, `_closing` and `counts`
        self._closing = False
        self._lately: dict[str, deque[float]] = {}
        self._writer = f"{socket.gethostname().partition('.')[0]}:{os.getpid()}"
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
        if senders:
            self._thread.start()

    def changed(self, prefix: str, before: State | None, after: State) -> None:
        """A run was seen at another version; at the start `before` is None. Returns at once."""
        if not self.senders:
            return
        if before is None:
            worth = age(after, self.clock()) < DAY
        else:
            told = messages(before, after, prefix) if after.version == before.version + 1 else None
            worth = after.version > before.version if told is None else any(each.kind in self.kinds for each in told)
        if worth:
            self._put(_Look(prefix, before, after))

    def needs_person(self, prefix: str, state: State | None, reason: str) -> None:
        """A run does not go on by itself. Returns at once."""
        if self.senders and "needs_person" in self.kinds:
            self._put(_Look(prefix, None, state, reason))

    def close(self, seconds: float = GRACE) -> None:
        """Send what waits, for that long at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self.senders:
            self._thread.join(seconds)
        self.over.set()

    def _put(self, look: _Look) -> None:
        with self._changed:
            full = self._closing or len(self._waiting) >= WAITING
            if not full:
                self._waiting.append(look)
                self._changed.notify_all()
        if full:
            self._dropped(look.prefix, "too much waits to be sent")

    def _work(self) -> None:
        while not self.over.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                look = self._waiting.popleft()
            try:
                self._tell_of(look)
            except Exception as error:
                self._count("failed")
                said = str(error) if isinstance(error, Dpgen2Error) else f"{type(error).__name__}: {error}"
                self._log(logging.WARNING, look.prefix, f"nothing is told of it: {plain(said)}")

    def _tell_of(self, look: _Look) -> None:
        store = self.opened(look.prefix)
        self.redactor.hide(store.secrets())
        if look.trouble:
            found = [trouble(look.prefix, look.after, _digest(store), look.trouble)]
        else:
            pairs = self._pairs(store, look)
            found = [each for before, after in pairs for each in messages(before, after, look.prefix)]
        for message in found:
            if message.kind in self.kinds and not self.over.is_set():
                self._tell(store, message)

    def _pairs(self, store: Store, look: _Look) -> list[tuple[State, State]]:
        """Each version that is new, with the one before it: two processes that missed others see the same events."""
        after, before = look.after, look.before
        assert after is not None
        if before is not None and after.version == before.version + 1:
            return [(before, after)]
        least = max(before.version, after.version - GAP) if before else after.version - BACK
        pairs: list[tuple[State, State]] = []
        newer = after
        for older in versions(store, after):
            if older.run_uid != after.run_uid or (before is None and age(newer, self.clock()) >= DAY):
                break  # what the first run of a copy did is not this one's news
            pairs.append((older, newer))
            newer = older
            if older.version <= least:
                break
        return pairs[::-1]

    def _tell(self, store: Store, message: Message) -> None:
        lately, now = self._lately.setdefault(message.prefix, deque(maxlen=AN_HOUR)), self.clock()
        if len(lately) == AN_HOUR and now - lately[0] < 3600:
            self._dropped(message.prefix, f"{AN_HOUR} messages an hour are enough")
            return
        if not self._claim(store, message.event):
            return
        lately.append(now)
        clean = _redacted(message, self.redactor)
        for sender in self.senders:
            try:
                wrong = sender.send(clean, self.over.wait)
            except Exception as error:  # of a plugin: whatever it is
                wrong = f"{type(error).__name__}: {error}"
            self._count("failed" if wrong else "sent")
            if wrong:
                self._log(logging.WARNING, message.prefix, f"{message.kind}: not sent by {sender.name}: {plain(wrong)}")
            else:
                self._log(logging.INFO, message.prefix, f"{message.kind}: sent by {sender.name}")

    def _claim(self, store: Store, event: str) -> bool:
        """Take the marker of an event; False when another has it. An answer that was lost is read back."""
        key, data = _SPACE.told(event), f"{self._writer} {secrets.token_hex(8)}\n".encode()
        for seconds in (*PAUSES, None):
            try:
                store.put(key, data, if_absent=True)
                return True
            except StoreError as error:
                with contextlib.suppress(StoreError):
                    return store.get(key).data == data
                if seconds is None:
                    raise error
            self.over.wait(seconds)
            if self.over.is_set():
                return False
        raise AssertionError("the last try returns")

    def _dropped(self, prefix: str, why: str) -> None:
        self._count("dropped")
        self._log(logging.WARNING, prefix, f"a notification was dropped: {why}")

    def _count(self, result: str) -> None:
        with self._changed:
            self.counts[result] += 1

    def _log(self, level: int, prefix: str, text: str) -> None:
        log.log(level, "%s: %s", prefix, self.redactor.redact(text), extra={"event": "notify", "prefix": prefix})


class Watch:
    """What was last seen of one run, so that each change of it is looked at once."""

    def __init__(self, notifier: Notifier, prefix: str) -> None:
        self.notifier, self.prefix = notifier, prefix
        self._last: State | None = None
        self._trouble = ""

    def saw(self, state: State) -> None:
        """A good state was read or committed."""
        last, self._last = self._last, state
        if last is not None and (last.run_uid, last.version) == (state.run_uid, state.version):
            return
        self._trouble = ""
        if last is None or last.run_uid != state.run_uid:
            self.notifier.changed(self.prefix, None, state)
        else:
            self.notifier.changed(self.prefix, last, state)

    def failed(self, error: BaseException) -> bool:
        """An error ended a step; is a person needed? That is told once, without what lines below show of the run."""
        if not needs_person(error):
            return False
        self._tell(str(error).partition("\n")[0])
        return True

    def waits(self, state: State, where: str) -> bool:
        """A run works elsewhere; is a person needed? So it is when nothing has come of it for a day."""
        if age(state, self.notifier.clock()) < DAY:
            return False
        self._tell(f"nothing has come of it for a day: {where}")
        return True

    def _tell(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            self.notifier.needs_person(self.prefix, self._last, text)


def _digest(store: Store) -> str:
    """Of the bytes in the state's place."""
    try:
        return sha256(store.get(_SPACE.state).data)[:32]
    except NotFound:
        return sha256(b"")[:32]


def _redacted(message: Message, redactor: Redactor) -> Message:
    clean = redactor.redact
    return replace(message, run=clean(message.run), prefix=clean(message.prefix), reason=clean(message.reason))
