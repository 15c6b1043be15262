"""The drift of a batch size with the loss, and the peak of every bootstrap draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surge_sweeps.fitting.drift import b_peak_draws, fit_drift
from surge_sweeps.fitting.laws import fit_laws
from surge_sweeps.fitting.result import Interval
from surge_sweeps.theory import peak_batch_size

LOSSES = np.array([0.8, 0.4, 0.2, 0.1])


def closed(b: float) -> Interval:
    return Interval(estimate=b, low=b / 2, high=b * 2, status="identified", definition="B")


OPEN = Interval(low=3.0, status="lower_bound", definition="B")


def drifted(
    exponent: float, rng: np.random.Generator, common: float = 0.3, own: float = 0.1
) -> tuple[Any, Any]:
    """Estimates and draws whose errors are mostly shared by the targets, as for one set of runs."""
    truth = 3.0 - exponent * np.log(LOSSES)
    center = truth + common * rng.standard_normal() + own * rng.standard_normal(4)
    draws = center + common * rng.standard_normal((500, 1)) + own * rng.standard_normal((500, 4))
    return [closed(float(np.exp(y))) for y in center], draws


def test_the_slope_comes_back_and_its_interval_uses_the_shared_runs() -> None:
    rng, hits, widths, significant = np.random.default_rng(0), 0, [], 0
    for _ in range(100):
        slope = fit_drift(LOSSES, *drifted(0.5, rng))
        hits += slope.low <= 0.5 <= slope.high
        widths.append(slope.high - slope.low)
        significant += slope.p_value < 0.05
    assert hits >= 90
    # The spread over the log losses is sqrt(5 ln(2)^2): own noise 0.1 gives sd 0.065, the shared part none.
    assert np.median(widths) == pytest.approx(2 * 1.96 * 0.065, rel=0.3)
    assert significant >= 98


def test_without_drift_the_test_keeps_its_level() -> None:
    rng = np.random.default_rng(1)
    p_values = [fit_drift(LOSSES, *drifted(0.0, rng)).p_value for _ in range(200)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.09


def test_open_targets_are_left_out() -> None:
    found, draws = drifted(0.5, np.random.default_rng(2))
    with_open = fit_drift(
        np.append(LOSSES, 0.05), [*found, OPEN], np.column_stack([draws, np.full(500, np.inf)])
    )
    assert with_open == fit_drift(LOSSES, found, draws)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_targets_have_no_slope(count: int) -> None:
    found, draws = drifted(0.5, np.random.default_rng(2))
    slope = fit_drift(LOSSES, [*found[:count], *[OPEN] * (4 - count)], draws)
    assert (slope.status, slope.exponent, slope.p_value) == ("not_identified", None, None)


def test_two_equal_losses_have_no_slope() -> None:
    found, draws = drifted(0.5, np.random.default_rng(2))
    assert fit_drift(np.array([0.2, 0.2]), found[:2], draws[:, :2]).status == "not_identified"


def test_two_targets_take_their_interval_from_the_draws() -> None:
    found, draws = drifted(0.5, np.random.default_rng(2))
    slope = fit_drift(LOSSES[:2], found[:2], draws[:, :2])
    by_hand = (draws[:, 1] - draws[:, 0]) / np.log(2)
    assert [slope.low, slope.high] == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.02)
    assert fit_drift(LOSSES[:2], found[:2], np.empty((0, 2))).status == "not_identified"


def test_targets_off_the_line_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    y = 3.0 - 0.5 * np.log(LOSSES) + np.array([0.4, -0.4, -0.4, 0.4])
    draws = y + 0.05 * rng.standard_normal((500, 4))
    scattered = fit_drift(LOSSES, [closed(float(np.exp(v))) for v in y], draws)
    straight = y - np.array([0.4, -0.4, -0.4, 0.4])
    tight = fit_drift(LOSSES, [closed(float(np.exp(v))) for v in straight], draws - y + straight)
    assert scattered.exponent == pytest.approx(tight.exponent, abs=0.02)
    assert scattered.high - scattered.low > 5 * (tight.high - tight.low)
    alone = fit_drift(LOSSES, [closed(float(np.exp(v))) for v in y], np.empty((0, 4)))
    assert alone.low < 0.5 < alone.high


def test_draws_beyond_the_batch_sizes_open_the_interval_on_their_side() -> None:
    found, draws = drifted(1.0, np.random.default_rng(4))
    draws[:60, 3] = np.inf  # the peak at the lowest loss lies beyond the largest batch size
    slope = fit_drift(LOSSES, found, draws)
    assert (slope.status, slope.high, slope.exponent) == ("lower_bound", None, None)
    assert slope.low is not None
    assert 0 < slope.p_value < 0.05


def test_the_peak_of_each_draw_is_that_of_a_full_fit_to_it(simulated: Any) -> None:
    optima = simulated.exact_spread("plateau_9", 0.05, np.random.default_rng(0))
    law_fits = fit_laws(optima)
    peaks = b_peak_draws(optima, "surge_plateau", law_fits.scatter_sd["surge_plateau"])
    for row in range(4):
        single = simulated.make(
            optima.batch_sizes, optima.draws[row], optima.draws - optima.log_lr + optima.draws[row]
        )
        parameters = fit_laws(single).fit("surge_plateau").parameters
        # The full fit may also change its extra scatter, which changes nothing where all optima are equally precise.
        assert np.exp(peaks[row]) == pytest.approx(parameters["b_s"] / (parameters["kappa"] - 1), rel=0.06)


@pytest.mark.parametrize(("truth", "law"), [("surge", "surge"), ("plateau_9", "surge_plateau")])
def test_peak_draws_spread_like_fits_to_independent_data(simulated: Any, truth: str, law: str) -> None:
    draws = b_peak_draws(simulated.exact_spread(truth, 0.05, np.random.default_rng(3), noise=0.0), law)
    rng, fitted = np.random.default_rng(4), []
    for _ in range(60):
        fit = fit_laws(simulated.exact_spread(truth, 0.05, rng)).fit(law)
        fitted.append(np.log(peak_batch_size(law, fit.parameters)))
    assert np.median(draws) == pytest.approx(np.log(64), abs=0.02)
    assert np.std(draws) == pytest.approx(np.std(fitted), rel=0.3)


def test_peak_draws_are_infinite_where_a_draw_has_no_peak_in_range(simulated: Any) -> None:
    rng = np.random.default_rng(1)
    rising = b_peak_draws(simulated.exact_spread("sqrt", 0.05, rng), "surge_plateau")
    assert np.mean(np.isposinf(rising)) > 0.95
    falling = b_peak_draws(simulated.exact_spread("falling", 0.05, rng), "surge")
    assert np.mean(np.isneginf(falling) | (falling < np.log(16))) > 0.95
    assert np.isposinf(b_peak_draws(simulated.exact_spread("surge", 0.05, rng), "adam_saturation")).all()


def test_peak_draws_live_with_holes_and_optima_beyond_the_grid(simulated: Any) -> None:
    optima = simulated.exact_spread("surge", 0.05, np.random.default_rng(1))
    whole = b_peak_draws(optima, "surge")
    optima.draws[:100, 2] = np.nan
    optima.draws[100:200, 11] = -np.inf
    holed = b_peak_draws(optima, "surge")
    assert np.isfinite(holed).all()
    assert holed[200:] == pytest.approx(whole[200:], abs=0.02)
    optima.draws[0, :10] = np.nan
    assert np.isnan(b_peak_draws(optima, "surge")[0])
