"""The learning rate over a run: warm-up, schedules, and what cannot be asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.learning_rate import SCHEDULES, multiplier

SETTINGS: dict[str, Any] = {"batch_size": 8, "steps": 100, "warmup_steps": None, "warmup_examples": None}


def curve(schedule: str, **changes: Any) -> list[float]:
    settings = {**SETTINGS, **changes}
    return [multiplier(schedule, step, **settings) for step in range(settings["steps"])]


def test_the_curves_are_the_formulas() -> None:
    assert curve("constant") == [1.0] * 100
    assert curve("constant", warmup_steps=4)[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = [min((step + 1) / 20, (100 - step) / 80) for step in range(100)]
    assert curve("linear", warmup_steps=20) == pytest.approx([min(1.0, value) for value in linear])
    cosine = [(1 + math.cos(math.pi * (step - 20) / 80)) / 2 for step in range(20, 100)]
    assert curve("cosine", warmup_steps=20)[20:] == pytest.approx(cosine)
    vaswani = [min((step + 1) ** -0.5, (step + 1) * 20**-1.5) * 20**0.5 for step in range(100)]
    assert curve("inverse-sqrt", warmup_steps=20) == pytest.approx(vaswani)
    assert curve("inverse-sqrt")[:4] == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 300),
    st.integers(1, 64),
    st.floats(0, 1),
    st.booleans(),
)
def test_every_update_has_a_share_and_the_peak_lies_at_the_warm_ups_end(
    schedule: str, steps: int, batch_size: int, part: float, in_examples: bool
) -> None:
    warmup = {
        "warmup_steps": None if in_examples else int(part * steps),
        "warmup_examples": int(part * steps * batch_size) if in_examples else None,
    }
    rates = curve(schedule, steps=steps, batch_size=batch_size, **warmup)
    assert all(0 < rate <= 1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    length = (warmup["warmup_steps"] or 0) + (warmup["warmup_examples"] or 0) / batch_size
    assert abs(peak + 1 - max(length, 1)) < 1


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("step", [7, 31, 32, 99])
def test_in_examples_the_curve_is_the_same_at_every_batch_size(schedule: str, step: int) -> None:
    small = curve(schedule, batch_size=2, steps=1600, warmup_examples=512)
    large = curve(schedule, batch_size=16, steps=200, warmup_examples=512)
    seen = 16 * (step + 1)
    assert large[step] == pytest.approx(small[seen // 2 - 1], abs=0.01)


def test_a_warm_up_shorter_than_a_batch_is_none() -> None:
    assert curve("constant", batch_size=64, warmup_examples=40) == [1.0] * 100


def test_the_last_update_of_a_long_run_is_not_lost() -> None:
    steps = 10**9
    rate = multiplier("cosine", steps - 1, **{**SETTINGS, "steps": steps})
    assert rate == pytest.approx((math.pi / 2 / steps) ** 2)


def test_what_cannot_be_asked_for_says_so() -> None:
    with pytest.raises(UnknownNameError, match="cosine, inverse-sqrt"):
        curve("cosin")
    with pytest.raises(TrainingError, match="both given"):
        curve("linear", warmup_steps=3, warmup_examples=30)
    with pytest.raises(TrainingError, match="warmup_steps is 101, longer than the whole run of 100"):
        curve("linear", warmup_steps=101)
    with pytest.raises(TrainingError, match="warmup_examples is 801, longer than the whole run of 800"):
        curve("linear", warmup_examples=801)
    with pytest.raises(TrainingError, match="warmup_steps is -1"):
        curve("linear", warmup_steps=-1)
    with pytest.raises(TrainingError, match="step 100"):
        multiplier("linear", 100, **SETTINGS)
    assert curve("linear", warmup_steps=100)[-1] == 1.0
