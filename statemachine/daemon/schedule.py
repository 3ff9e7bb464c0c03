"""When a run is looked at next. Pure: the time is given, so that every schedule is tested without a clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

# A workflow whose last pod sends the hint is still `Running` for the seconds that this pod takes to end.
GAPS = (0.2, *[0.5] * 30)
SPACING = GAPS[1]  # a flood of hints costs two looks a second
PATIENCE = 600.0  # the longest wait after errors


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run's looks; times and delays in seconds.

    Parameters
    ----------
    interval
        Between two looks when nothing special happens.
    due
        When to look next.
    last
        When the last look ended.
    backoff
        The wait that errors have led to; 0 without errors.
    gaps
        The remaining delays between looks after a hint.
    """

    interval: float
    due: float
    last: float = float("-inf")
    backoff: float = 0.0
    gaps: tuple[float, ...] = ()

    def hinted(self, now: float) -> Schedule:
        """After a hint: look now, and again after each gap until something has changed. The backoff is reset.

        >>> Schedule(interval=60, due=42).hinted(now=10).due
        10
        """
        soon = min(self.due, max(now, self.last + SPACING))
        return replace(self, due=soon, backoff=0.0, gaps=GAPS[1:] if self.gaps else GAPS)

    def looked(self, now: float, *, changed: bool = False, failed: bool = False, ended: bool = False) -> Schedule:
        """After a look: the short gaps after a hint end when the state changed; errors double the wait.

        >>> Schedule(interval=60, due=0).looked(now=1, failed=True).due
        121
        """
        gaps = () if changed or ended else self.gaps
        if gaps:
            return replace(self, due=now + min(gaps[0], self.interval), last=now, gaps=gaps[1:])
        longest = max(self.interval, PATIENCE)
        backoff = min(longest, 2 * (self.backoff or self.interval)) if failed else 0.0
        wait = backoff or (longest if ended else self.interval)
        return replace(self, due=now + wait, last=now, backoff=backoff, gaps=())
