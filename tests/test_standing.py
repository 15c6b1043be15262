"""What became of planned trials, counted and estimated: pure values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from surge_sweeps.curves import Status
from surge_sweeps.standing import STATES, project_standing, state_of
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.trial_outcomes import TrialOutcome

SWEEP = Sweep(lr=(0.1, 0.3), batch_size=(8, 32), seed=(0, 1), constants={"max_examples": 6400})
SMALL, LARGE = SWEEP.trials()[:4], SWEEP.trials()[4:]


def took(seconds: float | None, status: Status = "finished", start_s: float = 0) -> TrialOutcome:
    end_ms = None if seconds is None else round(1000 * (start_s + seconds))
    return TrialOutcome(status, "r", start_ms=round(1000 * start_s), end_ms=end_ms)


def by_id(*pairs: tuple[Trial, TrialOutcome]) -> dict[str, TrialOutcome]:
    return {trial.trial_id: outcome for trial, outcome in pairs}


def test_every_trial_is_counted_in_exactly_one_state() -> None:
    statuses: list[Status] = ["finished", "diverged", "capped", "running", "crashed", "stale"]
    outcomes = by_id(
        *((trial, took(1, status)) for trial, status in zip(SWEEP.trials(), statuses, strict=False))
    )
    total = project_standing([SWEEP], outcomes, 0).total
    assert {state: total.counts[state] for state in STATES} == {
        state: 2 if state == "missing" else 1 for state in STATES
    }
    assert (total.planned, total.results, total.left, total.is_over) == (8, 3, 4, False)
    assert sum(total.to_dict()[state] for state in STATES) == total.planned  # type: ignore[misc]
    preempted = TrialOutcome("crashed", "r", is_preempted=True)
    assert (state_of(None), state_of(preempted)) == ("missing", "crashed")


def test_a_trial_of_two_sweeps_counts_once_in_the_whole_and_in_each() -> None:
    other = replace(SWEEP, lr=(0.3, 0.9), name="more")
    found = project_standing([SWEEP, other], by_id((SMALL[2], took(1))), 0)
    assert found.total.planned == 12
    assert [each.planned for _, each in found.sweeps] == [8, 8]
    assert [each.results for _, each in found.sweeps] == [1, 1]
    assert {batch: each.planned for batch, each in found.batch_sizes.items()} == {8: 6, 32: 6}


def test_time_is_the_median_of_the_batch_size_and_shared_by_what_runs() -> None:
    # One that stopped early is a result like the others.
    done = [(SMALL[0], took(100)), (SMALL[1], took(90)), (SMALL[2], took(2, "diverged"))]
    running = [
        (LARGE[0], took(None, "running", start_s=1000)),
        (LARGE[1], took(None, "running", start_s=1000)),
    ]
    found = project_standing([SWEEP], by_id(*done, (LARGE[2], took(30)), *running), now_ms=1_010_000)
    assert dict(found.seconds_per_trial) == {8: 90, 32: 30}
    # One small one, one large one, and 20 s of each of the two at work; the small one alone takes longer than half.
    assert (found.total.work_seconds_left, found.total.seconds_left) == (160, 90)
    assert found.total.running_now == 2


def test_a_batch_size_without_a_result_borrows_by_examples_or_stays_unknown() -> None:
    found = project_standing([SWEEP], by_id(*((trial, took(64)) for trial in SMALL)), 0)
    assert found.batch_sizes[32].work_seconds_left == 4 * 64
    assert found.total.seconds_left is None  # nothing runs: nobody knows how many will at once
    # An epoch of 100 steps is four times the examples.
    steps = replace(SWEEP, constants={"max_steps": 100})
    small = [trial for trial in steps.trials() if trial.batch_size == 8]
    found = project_standing([steps], by_id(*((trial, took(64)) for trial in small)), 0)
    assert found.batch_sizes[32].work_seconds_left == 4 * 256
    open_ended = replace(SWEEP, constants={})
    small = [trial for trial in open_ended.trials() if trial.batch_size == 8]
    found = project_standing([open_ended], by_id(*((trial, took(64)) for trial in small)), 0)
    assert (found.total.work_seconds_left, found.total.examples_left) == (None, None)
    assert found.batch_sizes[8].work_seconds_left == 0


@pytest.mark.parametrize(
    "outcome", [TrialOutcome("finished", "r"), took(0), took(-5), TrialOutcome("finished", "r", end_ms=5)]
)
def test_a_result_without_a_time_tells_none(outcome: TrialOutcome) -> None:
    found = project_standing([SWEEP], by_id((SMALL[0], outcome)), 0)
    assert (found.total.work_seconds_left, dict(found.seconds_per_trial)) == (None, {})


def test_examples_left_are_those_not_yet_seen() -> None:
    running = took(None, "running")._replace(examples=6000.0)
    outcomes = by_id(
        (SMALL[0], took(1)), (SMALL[1], running), (SMALL[2], took(1, "crashed")._replace(examples=9))
    )
    assert project_standing([SWEEP], outcomes, 0).total.examples_left == 400 + 6 * 6400
    unknown = by_id(
        (SMALL[1], running._replace(examples=math.nan)), (SMALL[2], running._replace(examples=1e9))
    )
    assert project_standing([SWEEP], unknown, 0).total.examples_left == 7 * 6400


def test_what_waits_in_a_queue_is_told_of_what_is_left() -> None:
    waiting = {SMALL[0].trial_id, SMALL[1].trial_id, "of another launch"}
    total = project_standing([SWEEP], by_id((SMALL[0], took(1))), 0, waiting).total
    assert (total.left, total.waiting) == (7, 1)


def test_a_whole_project_is_over() -> None:
    total = project_standing([SWEEP], by_id(*((trial, took(1)) for trial in SWEEP.trials())), 0).total
    assert (total.is_over, total.seconds_left, total.work_seconds_left, total.examples_left) == (
        True,
        0,
        0,
        0,
    )
