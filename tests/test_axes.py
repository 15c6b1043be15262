"""Axes from text: what a user types is what the sweep holds."""

from __future__ import annotations

import numpy as np
import pytest

from surge_sweeps import axes
from surge_sweeps.errors import SurgeError


def test_learning_rates_are_log_spaced_with_both_ends() -> None:
    values = axes.learning_rates("1e-4:1e-1:7")
    assert values[0] == 1e-4
    assert values[-1] == 1e-1
    assert np.allclose(np.diff(np.log(values)), np.log(10) / 2, atol=1e-5)


def test_batch_sizes_by_factor_end_at_the_stop() -> None:
    assert axes.batch_sizes("4:512:2") == (4, 8, 16, 32, 64, 128, 256, 512)
    assert axes.batch_sizes("4:512:1.41421356")[-1] == 512
    assert axes.batch_sizes("4:500:2")[-1] == 256


@pytest.mark.parametrize(
    "text", ["", "1:2", "0:1:3", "1e-1:1e-3:5", "1e-3:1e-1:1", "x", "0.1,0.1", "nan", "-1,2"]
)
def test_bad_learning_rates_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(SurgeError):
        axes.learning_rates(text)


@pytest.mark.parametrize("text", ["", "4:2:2", "4:512:1", "0:8:2", "2.5", "8,8", "0", "4:inf:2"])
def test_bad_batch_sizes_are_refused(text: str) -> None:
    with pytest.raises(SurgeError):
        axes.batch_sizes(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1,1"])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(SurgeError):
        axes.seeds(text)
