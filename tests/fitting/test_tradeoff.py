"""The critical batch size: truth back, coverage, one-sided where the range does not straddle it, checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from surge_sweeps.fitting.tradeoff.fit_tradeoff import analyse_tradeoff, fit_tradeoff
from surge_sweeps.fitting.tradeoff.hyperbola import fit_hyperbola_draws, hyperbola_grid
from surge_sweeps.fitting.tradeoff.tradeoff_checks import find_u_shape
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


def test_the_estimate_is_centred_where_the_papers_linear_fit_is_biased_low() -> None:
    rng, found, paper = np.random.default_rng(0), [], []
    for _ in range(300):
        fit = fit_tradeoff(WIDE, noisy(WIDE, 0.2, rng, 2)[0], np.empty((0, 11)), "examples")
        found.append(fit.b_crit.estimate)
        paper.append(fit.paper_b_crit)
    assert np.median(found) == pytest.approx(100, rel=0.03)
    assert np.median(paper) == pytest.approx(89, rel=0.05)


@pytest.mark.parametrize(("sd", "n_draws"), [(0.05, 0), (0.1, 200), (0.2, 0)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(sd: float, n_draws: int) -> None:
    rng, hits = np.random.default_rng(1), np.zeros(3)
    for _ in range(120):
        y, draws = noisy(WIDE, sd, rng, max(n_draws, 1))
        fit = fit_tradeoff(WIDE, y, draws[:n_draws], "examples")
        hits += [
            fit.b_crit.low <= 100 <= fit.b_crit.high,
            fit.s_min_low <= 50 <= fit.s_min_high,
            fit.e_min_low <= 5000 <= fit.e_min_high,
        ]
    assert hits.min() / 120 >= 0.90
    assert hits[0] / 120 <= 0.995


def test_the_fit_is_the_least_squares_fit_in_log_steps() -> None:
    y, _ = noisy(WIDE, 0.2, np.random.default_rng(3))
    fit = fit_tradeoff(WIDE, y, np.empty((0, 11)), "examples")
    expected = least_squares(lambda x: y - x[0] - np.log1p(np.exp(x[1]) / WIDE), [4.0, 4.0], xtol=1e-12)
    assert np.log([fit.s_min, fit.b_crit.estimate]) == pytest.approx(expected.x, abs=1e-5)
    assert fit.e_min == pytest.approx(fit.s_min * fit.b_crit.estimate)


def test_the_draws_are_each_fitted_like_the_estimate() -> None:
    draws = noisy(WIDE, 0.05, np.random.default_rng(3), 50)[1]
    draws[::7, 5] = np.nan
    draws[0, 2:] = np.nan
    log_b_crit, log_s_min = fit_hyperbola_draws(draws, hyperbola_grid(WIDE))
    assert np.isnan(log_b_crit[0])
    alone = [fit_tradeoff(WIDE, row, np.empty((0, 11)), "examples") for row in draws[1:]]
    assert log_b_crit[1:] == pytest.approx(np.log([fit.b_crit.estimate for fit in alone]), abs=2e-3)
    assert log_s_min[1:] == pytest.approx(np.log([fit.s_min for fit in alone]), abs=2e-3)


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
    assert details.fit.exponent.low < 0.6 < details.fit.exponent.high
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
    keep = np.arange(11) != 3
    assert fit_tradeoff(WIDE, y, draws, "examples") == fit_tradeoff(
        WIDE[keep], y[keep], draws[:, keep], "examples"
    )
    assert fit_tradeoff(WIDE, np.where(np.arange(11) < 2, y, np.nan), draws, "examples") is None


@pytest.mark.parametrize(
    ("a", "b", "ratio", "from_256"), [(1293.8, 2.834e6, 2191, 745), (2095.3, 1.1383e7, 5433, 1394)]
)
def test_published_critical_batch_sizes_come_back_under_their_own_definition(
    a: float, b: float, ratio: float, from_256: float
) -> None:
    # H. Zhang et al. 2024 (arXiv 2410.21676): S = a + b/B fitted to 85M and 302M models.
    sizes = 256.0 * 2 ** np.arange(9)
    fit = fit_tradeoff(sizes, np.log(a + b / sizes), np.empty((0, 9)), "sequences")
    assert fit.b_crit.estimate == pytest.approx(ratio, rel=1e-3)
    overhead, zhang, half_gain = fit.definitions
    assert zhang.estimate == pytest.approx(from_256, abs=1)
    assert overhead.estimate == pytest.approx(0.2 * ratio, rel=1e-3)
    assert half_gain.estimate == fit.b_crit.estimate
    for found in fit.definitions:
        assert found.status == fit.b_crit.status
        assert "sequences" in found.definition
    assert "2410.21676" in zhang.definition
    assert "B0 = 256" in zhang.definition
    assert zhang.low == pytest.approx(1.2 * 256 + 0.2 * fit.b_crit.low)


def test_a_bound_on_the_critical_batch_size_stays_a_bound_under_other_definitions() -> None:
    narrow = 4.0 * 2 ** np.arange(5)
    fit = fit_tradeoff(narrow, *noisy(narrow, 0.03, np.random.default_rng(2)), "tokens")
    for found in fit.definitions:
        assert (found.status, found.estimate, found.high) == ("lower_bound", None, None)
        assert found.low > 0


def with_upturn(b: FloatArray, turn: float, sd: float, rng: np.random.Generator) -> FloatArray:
    """Steps whose examples have their minimum at `turn`."""
    return np.log(50 * (1 + 100 / b + (turn / b) ** 2)) + sd * rng.standard_normal(b.size)


def test_examples_that_rise_again_at_small_batch_sizes_are_said_with_the_trimmed_fit_beside() -> None:
    y = with_upturn(WIDE, 32.0, 0.02, np.random.default_rng(0))
    details = analyse_tradeoff(WIDE, y, np.empty((0, 11)), "examples")
    u_shape = details.fit.u_shape
    assert u_shape.p_value < 0.01
    assert u_shape.from_batch_size == 32
    keep = WIDE >= 32
    trimmed = fit_tradeoff(WIDE[keep], y[keep], np.empty((0, keep.sum())), "examples")
    assert u_shape.b_crit.estimate == trimmed.b_crit.estimate
    # The fit over all batch sizes is reported as ever: the trimmed one stands beside it.
    plain = least_squares(lambda x: y - x[0] - np.log1p(np.exp(x[1]) / WIDE), [4.0, 4.0], xtol=1e-12)
    assert np.log(details.fit.b_crit.estimate) == pytest.approx(plain.x[1], abs=1e-5)
    assert details.warning.startswith("Below batch size 32 the examples to the target rise again")


def test_an_upturn_is_found_often_and_a_hyperbola_hardly_ever_called_one() -> None:
    rng = np.random.default_rng(1)
    found = [find_u_shape(WIDE, with_upturn(WIDE, 20.0, 0.05, rng)) is not None for _ in range(40)]
    assert np.mean(found) >= 0.95
    for sd in (0.05, 0.2):
        assert (
            np.mean([find_u_shape(WIDE, with_upturn(WIDE, 0.0, sd, rng)) is not None for _ in range(300)])
            <= 0.02
        )


def test_too_few_batch_sizes_say_nothing_about_an_upturn() -> None:
    y = with_upturn(WIDE, 32.0, 0.0, np.random.default_rng(0))
    assert find_u_shape(WIDE[:4], y[:4]) is None
    details = analyse_tradeoff(WIDE[:4], y[:4], np.empty((0, 4)), "examples")
    assert (details.fit.u_shape, details.fit.exponent.status) == (None, "not_identified")


def test_a_trimmed_fit_to_two_batch_sizes_is_not_identified() -> None:
    # E(B) falls up to the last but one batch size.
    b = 4.0 * 2 ** np.arange(6)
    y = np.log(1 + 1 / b + (64 / b) ** 2)
    u_shape = fit_tradeoff(b, y, np.empty((0, 6)), "examples").u_shape
    assert u_shape.from_batch_size == 64
    assert u_shape.b_crit.status == "not_identified"


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
