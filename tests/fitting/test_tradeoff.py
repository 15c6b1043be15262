"""The critical batch size: truth back, coverage, one-sided where the range does not straddle it, checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from surge_sweeps.fitting.tradeoff import analyse_tradeoff, fit_tradeoff
from surge_sweeps.theory import steps_to_target

FloatArray = NDArray[np.float64]
WIDE = 4.0 * 2 ** np.arange(11)


def noisy(
    b: FloatArray, sd: float, rng: np.random.Generator, n_draws: int = 200
) -> tuple[FloatArray, FloatArray]:
    """Log steps with S_min 50, B_crit 100 from four seeds, and bootstrap draws over them."""
    seeds = np.log(steps_to_target(b, 50.0, 100.0)) + 2 * sd * rng.standard_normal((4, b.size))
    picks = rng.integers(0, 4, (n_draws, 4, b.size))
    return seeds.mean(axis=0), np.take_along_axis(seeds[None], picks, axis=1).mean(axis=1)


def test_the_estimate_is_centred_on_the_truth_under_noise() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        details = analyse_tradeoff(WIDE, noisy(WIDE, 0.2, rng, 2)[0], np.empty((0, 11)), "examples")
        found.append(details.fit.b_crit.estimate)
    assert np.median(found) == pytest.approx(100, rel=0.04)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, hits = np.random.default_rng(1), np.zeros(3)
    for _ in range(100):
        fit = fit_tradeoff(WIDE, *noisy(WIDE, 0.1, rng), "examples")
        hits += [
            fit.b_crit.low <= 100 <= fit.b_crit.high,
            fit.s_min_low <= 50 <= fit.s_min_high,
            fit.e_min_low <= 5000 <= fit.e_min_high,
        ]
    assert hits.min() >= 90


def test_the_fit_is_the_least_squares_fit_in_log_steps() -> None:
    y, _ = noisy(WIDE, 0.2, np.random.default_rng(3))
    fit = fit_tradeoff(WIDE, y, np.empty((0, 11)), "examples")
    expected = least_squares(lambda x: y - x[0] - np.log1p(np.exp(x[1]) / WIDE), [4.0, 4.0], xtol=1e-12)
    assert np.log([fit.s_min, fit.b_crit.estimate]) == pytest.approx(expected.x, abs=1e-5)
    assert fit.e_min == pytest.approx(fit.s_min * fit.b_crit.estimate)


def test_the_draws_are_each_fitted_like_the_estimate() -> None:
    y, draws = noisy(WIDE, 0.05, np.random.default_rng(3), 50)
    details = analyse_tradeoff(WIDE, y, draws, "examples")
    estimate = np.log(details.fit.b_crit.estimate)
    alone = [np.log(fit_tradeoff(WIDE, row, np.empty((0, 11)), "examples").b_crit.estimate) for row in draws]
    # The draws are spread out about the estimate by one common factor, to the width of the interval.
    factor = (details.log_b_crit_draws - estimate) / (np.array(alone) - estimate)
    assert factor.min() >= 1 - 1e-3
    assert (
        np.ptp(details.log_b_crit_draws - estimate - np.median(factor) * (np.array(alone) - estimate)) < 2e-3
    )


@pytest.mark.parametrize(
    ("batch_sizes", "status"),
    [
        (4.0 * 2 ** np.arange(5), "lower_bound"),
        (128.0 * 2 ** np.arange(6), "upper_bound"),
        (np.array([60.0, 100.0, 150.0]), "not_identified"),
        (WIDE, "identified"),
    ],
)
def test_batch_sizes_that_do_not_straddle_the_critical_one_bound_it_on_one_side(
    batch_sizes: FloatArray, status: str
) -> None:
    y, draws = noisy(batch_sizes, 0.03, np.random.default_rng(2))
    fit = fit_tradeoff(batch_sizes, y, draws, "tokens")
    assert fit.b_crit.status == status
    assert "tokens" in fit.b_crit.definition
    assert (fit.b_crit.estimate is None) == (status != "identified")
    if status == "lower_bound":
        assert fit.b_crit.low < 100
        assert fit.s_min is None
        assert fit.s_min_high > 50
        assert fit.e_min_low < 5000 < fit.e_min_high
    if status == "upper_bound":
        assert fit.b_crit.high > 100
        assert fit.e_min is None
        assert fit.s_min_low < 50 < fit.s_min_high


def test_a_misfit_widens_the_interval_beyond_the_seeds() -> None:
    y, draws = noisy(WIDE, 0.01, np.random.default_rng(5))
    bent = y + 0.2 * np.cos(np.arange(11))
    narrow = fit_tradeoff(WIDE, y, draws, "examples").b_crit
    wide = fit_tradeoff(WIDE, bent, draws - y + bent, "examples").b_crit
    assert np.log(wide.high / wide.low) > 4 * np.log(narrow.high / narrow.low)


def test_steps_that_do_not_follow_the_hyperbola_are_reported() -> None:
    rng = np.random.default_rng(0)
    y = np.log(50 * (1 + (100 / WIDE) ** 0.6)) + 0.02 * rng.standard_normal(11)
    details = analyse_tradeoff(WIDE, y, np.empty((0, 11)), "examples")
    assert details.exponent.low < 0.6 < details.exponent.high
    assert "more slowly than the hyperbola" in details.warning
    warned = sum(
        bool(analyse_tradeoff(WIDE, noisy(WIDE, 0.1, rng, 2)[0], np.empty((0, 11)), "examples").warning)
        for _ in range(60)
    )
    assert warned <= 8


def test_unknown_steps_are_left_out_and_two_batch_sizes_are_too_few() -> None:
    y, draws = noisy(WIDE, 0.05, np.random.default_rng(4))
    y[3], draws[:, 3] = np.nan, np.nan
    draws[::7, 5] = np.nan
    details = analyse_tradeoff(WIDE, y, draws, "examples")
    assert np.isfinite(details.log_b_crit_draws).all()
    keep = np.arange(11) != 3
    assert details.fit == fit_tradeoff(WIDE[keep], y[keep], draws[:, keep], "examples")
    assert fit_tradeoff(WIDE, np.where(np.arange(11) < 2, y, np.nan), draws, "examples") is None


@given(
    s_min=st.floats(1.0, 1e4),
    b_crit=st.floats(40.0, 400.0),
    scale=st.floats(1e-3, 1e3),
)
@settings(max_examples=25, deadline=None)
def test_a_change_of_unit_changes_b_crit_and_e_min_alone(s_min: float, b_crit: float, scale: float) -> None:
    y = np.log(steps_to_target(WIDE, s_min, b_crit))
    one, other = (fit_tradeoff(b, y, np.empty((0, 11)), "examples") for b in (WIDE, WIDE * scale))
    assert one.b_crit.estimate == pytest.approx(b_crit, rel=1e-3)
    assert other.b_crit.estimate == pytest.approx(b_crit * scale, rel=1e-3)
    assert other.s_min == pytest.approx(one.s_min, rel=1e-3)
    assert other.e_min == pytest.approx(one.e_min * scale, rel=1e-3)
