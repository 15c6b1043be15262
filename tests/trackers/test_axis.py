"""Where steps come from, row by row: what contradicts itself is refused, and what was logged twice counts once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from stored_rows import Store, steps_of, what

from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.naming.names import AmbiguousNameError
from surge_sweeps.trackers.trial_outcomes import trial_outcomes

CONFIG = {"lr": 0.1, "batch_size": 8}
STEPS = range(1, 11)


def of_each(rows: Sequence[dict[str, float]], runs: int = 2, **config: object) -> Store:
    store = Store()
    for index in range(runs):
        store.log(CONFIG | {"lr": 0.1 * (index + 1)} | config, rows)
    return store


@pytest.mark.parametrize(("batch", "seen", "ratio"), [(8, 64, "8"), (64, 8, "0.125")])
def test_a_counter_at_odds_with_the_step_is_refused_with_both_readings(
    batch: int, seen: int, ratio: str
) -> None:
    rows = [{"_step": step, "examples": seen * step, "val_loss": 3 / step} for step in STEPS]
    store = of_each(rows, batch_size=batch)
    with pytest.raises(AmbiguousNameError, match=f"examples is _step times {seen} throughout") as caught:
        store.read()
    assert f"--batch-column 'batch_size * {ratio}'" in str(caught.value)
    assert "--step-column _step" in str(caught.value)
    assert steps_of(store.read(step="_step")) == list(STEPS)
    curves = store.read(batch_size=f"batch_size * {ratio}")
    assert steps_of(curves) == list(STEPS)
    assert curves.read_as["step"] == "_step, which examples confirms"


def test_a_few_runs_at_odds_are_left_out() -> None:
    store = Store()
    for index in range(3):
        rows = [{"samples": 16.0 * (step + 1), "val_loss": 1.0} for step in range(4)]
        store.log(CONFIG | {"lr": 0.1 * (index + 1)}, rows)
    odd = store.log(CONFIG, [{"_step": step, "samples": 64 * step, "val_loss": 1.0} for step in STEPS])
    curves = store.read()
    assert steps_of(curves) == [2, 4, 6, 8]
    assert odd not in set(curves.runs["run"])
    assert what(curves, odd) == "left out: samples is _step times 64 throughout, which is not batch_size"
    # Rows two steps apart are what logging every other step gives, but another batch size would too.
    assert "rows are 2 steps of batch_size apart by samples" in what(curves)


def test_batches_of_tokens_are_whole_sequences() -> None:
    rows = [{"_step": step, "tokens": 8192 * step, "val_loss": 3 / step} for step in STEPS]
    store = of_each(rows, seq_len=1024)
    with pytest.raises(AmbiguousNameError, match="batch_size is 8 where a sequence has 1024") as caught:
        store.read(batch_unit="tokens")
    assert caught.value.candidates == ("batch_size * seq_len", "batch_size")
    curves = store.read(batch_unit="tokens", batch_size="batch_size * seq_len")
    assert (steps_of(curves), curves.points["examples"].iloc[-1]) == (list(STEPS), 81920)
    assert steps_of(store.read()) == list(STEPS)
    whole = of_each(rows, seq_len=1024, batch_size=8192)
    assert steps_of(whole.read(batch_unit="tokens")) == list(STEPS)


def test_what_an_abandoned_branch_logged_is_left_out() -> None:
    steps = [*range(10, 151, 10), *range(105, 131, 5)]
    store = of_each([{"global_step": step, "val_loss": float(n)} for n, step in enumerate(steps)])
    curves = store.read()
    assert steps_of(curves) == [*range(10, 101, 10), *range(105, 131, 5)]
    assert curves.points["loss"].iloc[-1] == len(steps) - 1
    assert what(curves, "run0") == (
        "3 points of 'val_loss' left out: a newer one stands at the same step; "
        "2 points of 'val_loss' left out: the run was resumed at an earlier step and took another way"
    )


def test_of_several_calls_at_one_step_the_later_counts() -> None:
    rows = [
        {"global_step": step, "val_loss": 10.0 * step + call, "lr": 0.1} for step in STEPS for call in (0, 1)
    ]
    curves = of_each(rows).read()
    assert curves.points["loss"].tolist()[:10] == [10.0 * step + 1 for step in STEPS]
    assert "earlier step" not in what(curves, "run0")


@pytest.mark.parametrize("counter", ["step", "samples"])
def test_an_axis_that_begins_again_is_refused(counter: str) -> None:
    size = 8 if counter == "samples" else 1
    rows = [{counter: size * step, "val_loss": 1 / (epoch + step)} for epoch in range(3) for step in STEPS]
    store = of_each(rows)
    with pytest.raises(SurgeError, match=f"'{counter}' begins again within a run.*--step-column") as caught:
        store.read()
    assert "2 of 2 runs" in caught.value.what
    if counter == "step":
        assert steps_of(store.read(step="step")) == list(STEPS)
    # One run of several that was started anew is left out alone.
    for lr in (0.5, 0.6, 0.7):
        store.log(CONFIG | {"lr": lr}, rows[:10])
    store.runs.pop(0)
    curves = store.read()
    assert curves.runs["run"].tolist() == ["run2", "run3", "run4"]
    assert what(curves, "run1") == f"left out: '{counter}' begins again within a run"


def test_a_framework_whose_run_was_resumed_at_its_start_is_read() -> None:
    rows = [
        {"train/global_step": step, "eval/loss": float(n)} for n, step in enumerate((1, 2, 3, 1, 2, 3, 4))
    ]
    store = of_each(
        rows, learning_rate=0.1, per_device_train_batch_size=8, gradient_accumulation_steps=1, world_size=1
    )
    assert store.read(lr="learning_rate").points["loss"].tolist()[:4] == [3, 4, 5, 6]


def test_examples_that_begin_again_while_the_step_goes_on() -> None:
    rows = [
        {"_step": step, "examples": 8 * (step if step <= 5 else step - 5), "val_loss": 1.0} for step in STEPS
    ]
    with pytest.raises(SurgeError, match=r"'examples' begins again within a run.*--step-column _step"):
        of_each(rows).read()
    # Where other runs confirm the step, this one alone is left out.
    store = of_each([{"_step": step, "examples": 8 * step, "val_loss": 1.0} for step in (2, 4, 5, 6)], runs=3)
    odd = store.log(CONFIG, rows)
    curves = store.read()
    assert steps_of(curves) == [2, 4, 5, 6]
    assert what(curves, odd).startswith("left out: _step times batch_size is not examples there")


def late(store: Store, run: int, step: int) -> None:
    """As W&B lists it: the run's last step alone, which a row without the metric may have."""
    metrics = {name: point._replace(step=step) for name, point in store.runs[run].metrics.items()}
    store.runs[run] = replace(store.runs[run], metrics=metrics)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("every", [1, 2])
def test_one_last_log_call_that_agrees_confirms_nothing(own: bool, every: int) -> None:
    store = Store()
    for lr in (0.1, 0.2):
        # The first row is W&B's step 0; another one at the end brings its last step to that of the counter.
        steps = range(every, 11, every)
        rows = [
            {"_step": every * n, "examples": 8.0 * s, "eval/loss": 3.0 / s, "train/loss": 3.0 / s}
            for n, s in enumerate(steps)
        ]
        store.log(CONFIG | {"lr": lr} | ({"trial_id": f"t{lr}"} if own else {}), rows)
        late(store, -1, 10)
    curves = store.read()
    assert steps_of(curves) == list(range(every, 11, every))
    assert curves.read_as["step"] == "examples / batch_size"


def test_every_run_is_looked_at_and_each_series_read_once() -> None:
    store = Store()
    for index in range(8):
        rows = [{"_step": step, "examples": 8.0 * step, "val_loss": 3 / step} for step in STEPS]
        if index == 7:
            rows = [{"examples": 8.0 * step, "val_loss": 3 / step} for step in range(10, 101, 10)]
        store.log(CONFIG | {"lr": 0.1 * (index + 1)}, rows)
        late(store, index, 11)
    curves = store.read()
    assert len(curves.runs) == 7
    assert what(curves, "run7").startswith("left out: _step times batch_size is not examples there")
    assert store.fetched == [("examples", None), ("val_loss", None)]


def test_points_between_steps_go_to_the_nearest_where_that_keeps_them_apart() -> None:
    # Epochs of 1000 examples in batches of 64: the last one of each has 40.
    seen = [1000 * (step // 16) + 64 * (step % 16) for step in range(8, 200, 8)]
    store = of_each([{"samples": count, "val_loss": 1.0} for count in seen])
    curves = store.read(batch_size="batch_size * 8")
    assert steps_of(curves) == [round(count / 64) for count in seen]
    assert "placed on the nearest step: 'samples' / batch_size * 8 is no whole number" in what(curves, "run0")


def test_steps_that_mostly_fall_between_are_refused() -> None:
    seen = [1000 * epoch + min(64 * batch, 1000) for epoch in range(3) for batch in range(1, 17)]
    store = of_each([{"samples": count, "val_loss": 1.0} for count in seen], batch_size=64)
    with pytest.raises(SurgeError, match="is no whole number at 33 of 48 points"):
        store.read()


FAILURES: list[tuple[dict[str, float], str]] = [
    ({"val_loss": 1.0, "best_val_loss": math.inf}, "crashed"),
    ({"val_loss": 1.0, "kl_loss": math.nan}, "crashed"),
    ({"val_loss": 1.0, "lowest_train_loss": math.nan}, "crashed"),
    ({"val_loss": 1.0, "train/loss": math.nan}, "diverged"),
    ({"val_loss": math.nan, "train/loss": 1.0}, "diverged"),
]


@pytest.mark.parametrize(("newest", "status"), FAILURES)
def test_a_run_that_failed_has_diverged_by_its_losses_alone(newest: dict[str, float], status: str) -> None:
    store = Store()
    rows = [{"global_step": step, "val_loss": 1.0} for step in STEPS]
    store.log(CONFIG | {"lr": 0.2, "trial_id": "t2"}, rows)
    store.log(CONFIG | {"trial_id": "t1"}, [*rows, {"global_step": 11, **newest}], "crashed")
    store.runs[1] = replace(store.runs[1], failed=True)
    outcome = trial_outcomes(store.runs, {"t1": "val_loss"})["t1"]
    assert outcome.status == status
    if "train/loss" not in newest:
        read = store.read(loss="val_loss", step="global_step").runs.set_index("run")["status"]
        assert read["run1"] == status


def test_the_result_after_a_crash_is_the_one_that_counts() -> None:
    store = Store()
    rows = [
        {"_step": step, "examples": 8.0 * step, "eval/loss": 3 / step, "best_val_loss": math.inf}
        for step in STEPS
    ]
    crashed = store.log(CONFIG | {"trial_id": "t1"}, rows[:4], "crashed")
    store.runs[0] = replace(store.runs[0], failed=True)
    again = store.log(CONFIG | {"trial_id": "t1"}, rows)
    assert store.read().results().runs["run"].tolist() == [again]
    assert store.read().runs["run"].tolist() == [crashed, again]
