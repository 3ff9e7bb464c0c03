"""When a run is looked at: hints, their coalescing, errors."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from statemachine.daemon.schedule import NAMED, PATIENCE, SPACING, UNNAMED, Schedule


def looks(schedule: Schedule, now: float, until: float, **outcome: bool) -> list[float]:
    """The times of the looks, when each takes no time and ends so."""
    times = []
    while schedule.due <= until:
        now = max(now, schedule.due)
        times.append(round(now, 6))
        schedule = schedule.looked(now, **outcome)
    return times


def test_without_hints_a_run_is_looked_at_at_its_interval() -> None:
    assert looks(Schedule(60, 0), 0, 200) == [0, 60, 120, 180]


@pytest.mark.parametrize("gaps", [NAMED, UNNAMED])
def test_a_hint_is_followed_by_looks_until_a_last_pod_must_have_ended(gaps: tuple[float, ...]) -> None:
    schedule = Schedule(60, 0).looked(0).hinted(10, gaps)
    *times, later = looks(schedule, 10, 10 + sum(gaps) + 60)
    assert times == pytest.approx([10, *(10 + gap for gap in accumulate(gaps))])
    assert later == pytest.approx(times[-1] + 60)


def test_a_workflow_that_ends_some_time_after_its_hint_waits_a_third_of_that_at_most() -> None:
    """A second in the first twelve, when Argo has usually seen the end; longer only after a longer upload."""
    times = [when - 10 for when in looks(Schedule(60, 0).looked(0).hinted(10, NAMED), 10, 130)]
    assert times[0] == 0 and times[-1] > 60, "longer than the usual interval"
    assert all(later - earlier <= max(1.0, later / 3) for earlier, later in pairwise(times))
    assert len(times) <= 21


def test_a_change_ends_what_a_hint_began() -> None:
    schedule = Schedule(60, 0).looked(0).hinted(10, NAMED).looked(10)
    assert schedule.due == 10.5
    assert schedule.looked(10.6, changed=True) == Schedule(60, 70.6, last=10.6)


def test_a_hint_never_makes_a_quick_run_slower() -> None:
    schedule = Schedule(0.1, 0).looked(0).hinted(0.01, NAMED)
    times = looks(schedule, 0, 20)
    assert max(later - earlier for earlier, later in pairwise(times)) <= 0.1001


def test_a_flood_of_hints_costs_two_looks_a_second_and_is_followed_to_its_end() -> None:
    schedule, times = Schedule(60, 0), []
    for tick in range(10_000):  # a hint each millisecond, for ten seconds
        now = tick / 1000
        schedule = schedule.hinted(now, NAMED)
        if schedule.due <= now:
            times.append(now)
            schedule = schedule.looked(now)
    assert 18 <= len(times) <= 22
    # The last hint's own looks follow: at once, and until the gaps are through.
    after = looks(schedule, 10, 10 + sum(NAMED) + SPACING)
    assert after[0] - 10 <= SPACING
    assert len(after) >= len(NAMED)


def test_a_hint_during_the_looks_of_another_is_not_late() -> None:
    schedule = Schedule(60, 0).hinted(0, NAMED)
    for _ in NAMED:
        schedule = schedule.looked(schedule.due)
    schedule = schedule.looked(schedule.due)
    assert schedule.due > sum(NAMED) + 50
    assert schedule.hinted(sum(NAMED) + 10, NAMED).due == sum(NAMED) + 10


def test_errors_double_the_wait_up_to_ten_minutes_and_a_good_look_ends_that() -> None:
    schedule, now, waits = Schedule(60, 0), 0.0, []
    for _ in range(7):
        schedule = schedule.looked(now, failed=True)
        waits.append(schedule.due - now)
        now = schedule.due
    assert waits == [120, 240, 480, 600, 600, 600, 600]
    assert schedule.looked(now).due == now + 60
    hinted = schedule.hinted(now - 300, NAMED)
    assert hinted.due == now - 300
    assert hinted.looked(now - 300, failed=True).due == now - 300 + NAMED[0]
    assert Schedule(3600, 0).looked(0, failed=True).due == 3600


def test_a_hint_survives_an_error() -> None:
    assert looks(Schedule(60, 0).hinted(0, NAMED), 0, sum(NAMED), failed=True) == pytest.approx([0, *accumulate(NAMED)])


def test_a_run_that_has_ended_is_seldom_looked_at() -> None:
    assert Schedule(60, 0).hinted(0, NAMED).looked(0, ended=True).due == PATIENCE
