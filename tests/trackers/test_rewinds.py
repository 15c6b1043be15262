"""Points whose times alone tell their order: each kind of program against what it really did.

A program is what it logged, call by call: step, value and the stamp it got. Values count the calls, so that the newest
is the greatest, and a store gives the points in any order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from stored_rows import Store, steps_of, what

from surge_sweeps.curve_cache import Series
from surge_sweeps.trackers.naming.names import ReadNames
from surge_sweeps.trackers.placing import Findings, Placing

Call = tuple[int, int]  # step, stamp in ms

seeds = st.integers(0, 2**32 - 1)
gaps = st.sampled_from([1, 10, 500])


def trained(*stretches: Sequence[int], every_ms: int = 1000) -> list[Call]:
    """One call after the other, by one clock."""
    steps = [step for stretch in stretches for step in stretch]
    return [(step, every_ms * number) for number, step in enumerate(steps)]


def read(calls: Sequence[Call], seed: int = 0) -> tuple[dict[int, int], str]:
    """Step -> the number of the call that was taken, and what was said."""
    shuffled = list(enumerate(calls))
    random.Random(seed).shuffle(shuffled)
    step = np.array([float(step) for _, (step, _) in shuffled])
    stamp = np.array([stamp for _, (_, stamp) in shuffled], dtype=np.int64)
    value = np.array([float(number) for number, _ in shuffled])
    series = Series(("run",), np.array([len(calls)]), step, value, stamp)
    findings = Findings()
    placed = Placing(ReadNames(loss="loss"), in_order=False).place(series, "loss", findings)["run"]
    said = "; ".join(problem.what for problem in findings.problems(["run"]))
    return dict(zip(placed.step.tolist(), map(int, placed.value), strict=True)), said


def newest(calls: Sequence[Call]) -> dict[int, int]:
    """Step -> the last call that logged it."""
    return {step: number for number, (step, _) in enumerate(calls)}


@given(st.integers(1, 60), gaps, st.sampled_from([0, 1, 1000]), seeds)
def test_a_plain_run_is_read_as_it_is(count: int, gap: int, every_ms: int, seed: int) -> None:
    calls = trained(range(0, gap * count, gap), every_ms=every_ms)
    assert read(calls, seed) == (newest(calls), "")


@given(st.integers(5, 60), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 30)), max_size=3), gaps, seeds)
def test_a_resumed_run_has_the_newest_value_of_every_step(
    count: int, resumes: list[tuple[float, int]], gap: int, seed: int
) -> None:
    stretches = [range(0, gap * count, gap)]
    for share, further in resumes:
        begin = gap * int(share * (stretches[-1][-1] // gap))
        stretches.append(range(begin, begin + gap * further, gap))
    calls = trained(*stretches)
    found, said = read(calls, seed)
    assert found == newest(calls)
    assert "was resumed" not in said  # nothing was left out but what a newer point replaced
    covered = stretches[-1][-1] >= max(step for step, _ in calls)
    assert ("do not tell its order" in said) <= (not covered)


@given(st.integers(12, 60), st.data(), st.integers(1, 20), seeds)
def test_what_a_resumed_run_does_not_log_again_is_left_out(
    count: int, data: st.DataObject, further: int, seed: int
) -> None:
    """It was resumed with every second step as before."""
    begin = data.draw(st.integers(1, count - 7), "begin")
    then = range(begin, count + 2 * further, 2)
    calls = trained(range(count), then)
    found, said = read(calls, seed)
    assert found == {step: call for step, call in newest(calls).items() if step < begin or step in then}
    assert "the run was resumed at an earlier step and took another way" in said
    assert "do not tell" not in said


@given(st.integers(3, 60), st.data(), seeds)
def test_checkpoints_evaluated_again_after_training_replace_their_own_points_alone(
    count: int, data: st.DataObject, seed: int
) -> None:
    best = data.draw(st.lists(st.integers(0, 10 * count), min_size=1, max_size=4), "evaluated again")
    calls = trained(range(0, 10 * count, 10), best)
    calls = [call for call in calls if call[0] <= 10 * (count - 1)]
    found, said = read(calls, seed)
    assert found == newest(calls)
    assert "was resumed" not in said


@given(st.integers(3, 60), st.data(), seeds)
def test_an_older_checkpoint_evaluated_again_during_training_takes_nothing_with_it(
    count: int, data: st.DataObject, seed: int
) -> None:
    best = data.draw(st.integers(max(0, count - 5), count - 1), "evaluated again")
    calls = trained(range(count), [best], range(count, 2 * count))
    found, said = read(calls, seed)
    assert found == newest(calls)
    assert "was resumed" not in said


@given(st.integers(2, 60), seeds, st.sampled_from([1, 10, 100]))
def test_jobs_that_end_in_any_order_lose_nothing(count: int, seed: int, gap: int) -> None:
    order = list(range(0, gap * count, gap))
    random.Random(seed).shuffle(order)
    calls = trained(order)
    found, said = read(calls, seed)
    assert found == newest(calls)
    assert "was resumed" not in said
    assert ("do not tell its order" in said) == (order != sorted(order))


@given(st.integers(2, 200), seeds, st.floats(0, 0.5), st.sampled_from([1, 15, 25, 3000]))
def test_points_stamped_late_lose_nothing(count: int, seed: int, share: float, late_ms: int) -> None:
    draw = random.Random(seed)
    calls = [
        (step, stamp + late_ms * (draw.random() < share))
        for step, stamp in trained(range(count), every_ms=10)
    ]
    found, said = read(calls, seed)
    assert found == newest(calls)
    assert "was resumed" not in said


@given(st.integers(2, 100), st.integers(1, 100), st.integers(-200_000, 200_000), seeds)
def test_a_clock_that_is_set_or_another_machine_loses_nothing(
    first: int, further: int, shift_ms: int, seed: int
) -> None:
    calls = trained(range(first + further))
    calls = [(step, stamp + shift_ms * (step >= first)) for step, stamp in calls]
    found, said = read(calls, seed)
    assert found == newest(calls)
    assert "was resumed" not in said


@given(st.integers(2, 100), st.data(), st.integers(-200_000, 0), seeds)
def test_a_run_resumed_where_the_clock_is_behind_keeps_every_step(
    first: int, data: st.DataObject, shift_ms: int, seed: int
) -> None:
    """Which of two points of a step is the newer one cannot be told then."""
    begin = data.draw(st.integers(0, first - 1), "begin")
    again = [
        (step, stamp + shift_ms) for step, stamp in trained(range(first), range(begin, first + 50))[first:]
    ]
    calls = [*trained(range(first)), *again]
    found, said = read(calls, seed)
    assert set(found) == set(newest(calls))
    assert all(calls[number][0] == step for step, number in found.items())
    assert "was resumed" not in said


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), min_size=1, max_size=60), seeds, seeds)
def test_the_order_in_which_a_store_gives_points_says_nothing(
    calls: list[Call], one: int, other: int
) -> None:
    assert read(calls, one) == read(calls, other)


def test_a_best_checkpoint_evaluated_last_leaves_the_run_its_end() -> None:
    store = Store()
    for lr, late in ((0.1, 100), (0.2, 105)):
        rows = [{"_step": step, "eval/loss": 3 / (1 + step)} for step in (*range(0, 501, 10), late)]
        store.log({"lr": lr, "batch_size": 8, "max_steps": 500}, rows)
    curves = store.read(own_step=True)
    assert steps_of(curves, "run0") == list(range(0, 501, 10))
    assert steps_of(curves, "run1") == sorted([*range(0, 501, 10), 105])
    for run in ("run0", "run1"):
        assert "the times of 'eval/loss' do not tell its order (the step falls once)" in what(curves, run)


def test_many_falls_of_a_long_run_are_looked_at_together() -> None:
    calls = [(step, 10 * step + 25 * (step % 7 == 0)) for step in range(200_000) for _ in range(2)]
    assert len(read(calls)[0]) == 200_000
