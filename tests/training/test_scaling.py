"""beta2 at a constant half-life and weight decay in proportion to the batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.scaling import beta2_of_half_life, effective_hyper_parameters

ADAMW = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def effective(values: dict[str, float] = ADAMW, batch_size: int = 64, **settings: Any) -> dict[str, float]:
    return effective_hyper_parameters(values, batch_size=batch_size, **settings)


@given(st.floats(0.8, 0.9999), st.integers(1, 256), st.integers(1, 256))
def test_the_half_life_gives_mareks_rule_between_batch_sizes(beta2: float, one: int, other: int) -> None:
    half_life = one * math.log(0.5) / math.log(beta2)
    scaled = beta2_of_half_life(half_life, other)
    assert scaled == pytest.approx(beta2 ** (other / one))
    assert scaled ** (half_life / other) == pytest.approx(0.5)


def test_tokens_and_examples_are_two_units_of_one_half_life() -> None:
    tokens = effective(tokens_per_example=128, beta2_half_life_tokens=64_000)
    assert tokens == effective(beta2_half_life_examples=500)
    assert tokens == {**ADAMW, "beta2": pytest.approx(0.5 ** (64 / 500))}


def test_an_average_that_is_updated_seldom_forgets_as_much_in_as_many_examples() -> None:
    every_step, seldom = (
        effective(beta2_half_life_examples=6400, weight_decay_batch_size=256, beta2_every_steps=steps)
        for steps in (1, 10)
    )
    assert seldom == {**every_step, "beta2": pytest.approx(every_step["beta2"] ** 10)}
    tokens = effective(tokens_per_example=128, beta2_half_life_tokens=128 * 6400, beta2_every_steps=10)
    assert tokens["beta2"] == seldom["beta2"]
    assert effective(beta2_every_steps=10) == ADAMW


def test_weight_decay_keeps_the_time_scale_in_examples() -> None:
    lr, examples = 0.01, 1e6
    scales = [
        size / (lr * effective(batch_size=size, weight_decay_batch_size=256)["weight_decay"] * examples)
        for size in (1, 64, 256, 4096)
    ]
    assert scales == pytest.approx([256 / (lr * 0.1 * examples)] * 4)


def test_what_is_not_asked_for_stays() -> None:
    assert effective() == ADAMW
    assert effective() is not ADAMW


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta2_half_life_examples": 9, "beta2_half_life_tokens": 9, "tokens_per_example": 4}, "both given"),
        ({"beta2_half_life_tokens": 9}, "no tokens.*beta2_half_life_examples"),
        ({"values": {"momentum": 0.9}, "beta2_half_life_examples": 9}, "no beta2"),
        ({"beta2_half_life_examples": 0.0}, "half-life of beta2 is 0"),
        ({"beta2_half_life_examples": math.inf}, "half-life of beta2 is inf"),
        ({"beta2_half_life_examples": 1e20}, "leaves beta2 at 1"),
        ({"values": {"eps": 1e-12}, "weight_decay_batch_size": 9}, "no weight_decay"),
        ({"values": {**ADAMW, "weight_decay": 0.0}, "weight_decay_batch_size": 9}, "weight_decay is 0"),
        ({"weight_decay_batch_size": 0}, "weight_decay_batch_size is 0"),
    ],
)
def test_what_cannot_be_scaled_says_so(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        effective(**settings)
