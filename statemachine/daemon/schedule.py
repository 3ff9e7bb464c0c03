"""When a run is looked at next. Pure: the time is given, so that every schedule is tested without a clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

# A workflow sends its hint before Argo uploads its last outputs, and is `Running` until then: for some ten seconds, or
# as long as large models take.
NAMED = (0.5, 0.5, *[1.0] * 11, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 20.0)
UNNAMED = (2.0, 8.0)  # whose it is, is not known: it costs all runs
SPACING = 0.5  # a flood of hints costs a run two looks a second
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

    def hinted(self, when: float, gaps: tuple[float, ...]) -> Schedule:
        """After a hint: look then, and again after each gap until something has changed. The backoff is reset.

        >>> Schedule(interval=60, due=42).hinted(10, NAMED).due
        10
        """
        return replace(self, due=min(self.due, max(when, self.last + SPACING)), backoff=0.0, gaps=gaps)

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
