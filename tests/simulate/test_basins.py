"""Basins of every skew have their optimum at 1, the curvature they promise, and the steep side they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate import Basin, Kinked, LogSkew, Parabola, Truth

SKEWS = st.floats(-6.0, 6.0)


@given(skew=SKEWS, x=st.floats(-3.0, 3.0))
def test_no_progress_exceeds_that_at_the_optimum(skew: float, x: float) -> None:
    for basin in (Parabola(), LogSkew(skew), Kinked(1.0, 0.3)):
        assert 0 <= float(basin.progress(np.exp(x))) <= 1 + 1e-12
        assert float(basin.progress(1.0)) == pytest.approx(1.0)


@given(skew=SKEWS)
def test_all_smooth_basins_are_equally_wide_near_the_optimum_and_differ_by_their_skew(skew: float) -> None:
    x = 0.01
    low, high = np.log(LogSkew(skew).progress(np.exp([-x, x])))
    assert (low + high) / 2 == pytest.approx(-(x**2), rel=0.01)
    assert (high - low) / 2 == pytest.approx(-skew * x**3 / 3, abs=1e-8)


def test_the_skew_says_which_side_is_steep() -> None:
    half, double = 0.5, 2.0
    for skew in (-3.0, -1.0, -1e-5, 0.0, 1e-5, 1.0, 3.0):
        low, high = LogSkew(skew).progress([half, double])
        assert np.sign(np.round(low - high, 9)) == (np.sign(skew) if abs(skew) > 1e-6 else 0)
        assert LogSkew(-skew).progress([double, half]) == pytest.approx([low, high])


def test_the_parabola_is_skewed_like_three_to_third_order() -> None:
    x = np.array([-0.05, 0.05])
    assert np.log(Parabola().progress(np.exp(x))) == pytest.approx(
        np.log(LogSkew(3.0).progress(np.exp(x))), abs=1e-5
    )
    assert np.log(Parabola().progress(np.exp(x))) != pytest.approx(
        np.log(LogSkew(1.0).progress(np.exp(x))), abs=5e-5
    )


def test_no_jump_where_the_form_for_small_skews_takes_over() -> None:
    u = np.exp(np.linspace(-3, 3, 50))
    assert np.log(LogSkew(1e-12).progress(u)) == pytest.approx(np.log(LogSkew(0.0).progress(u)), abs=1e-10)
    assert np.log(LogSkew(0.1 - 1e-9).progress(u)) == pytest.approx(
        np.log(LogSkew(0.1).progress(u)), abs=1e-4
    )


def test_skewed_by_name_is_skew_one() -> None:
    named = Truth("constant", {"a": 1.0}, basin="skewed")
    u = np.array([0.2, 1.0, 3.0])
    assert named.progress(u).tolist() == LogSkew(1.0).progress(u).tolist()
    assert Truth("constant", {"a": 1.0}, basin=LogSkew(-2.0)).progress(u)[0] < named.progress(u)[0]


@pytest.mark.parametrize("basin", [Parabola(), LogSkew(-2.0), Kinked(0.5, 3.0)])
def test_gain_and_progress_agree_where_there_is_progress(basin: Basin) -> None:
    u = np.array([0.3, 0.9, 1.0, 1.4])
    assert [basin.gain(ratio) for ratio in u.tolist()] == pytest.approx(basin.progress(u).tolist())
    assert Parabola().gain(2.5) < 0 == float(Parabola().progress(2.5))


def test_impossible_basins_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="parabola, skewed"):
        Truth("constant", {"a": 1.0}, basin="parabolic")  # type: ignore[arg-type]
    with pytest.raises(SurgeError, match="finite"):
        LogSkew(float("nan"))
    with pytest.raises(SurgeError, match="must be positive"):
        Kinked(low=0.0)
