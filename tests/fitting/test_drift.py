"""How batch sizes move with the loss: truth back, coverage, level of the tests, levelling growth, open cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.drift.drift_data import DriftTarget, peak_data
from surge_sweeps.fitting.drift.joint_drift import KAPLAN_EXPONENT, drift_of_b_crit, drift_of_peak
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.theory import mean_field_lr, steps_to_target

FloatArray = NDArray[np.float64]
TWELVE = np.geomspace(4, 4096, 12)
FIVE_LOSSES = np.geomspace(1.0, 0.25, 5)
Curve = Callable[[FloatArray, float], FloatArray]


def surge(b: FloatArray, place: float, kappa: float = 9.0) -> FloatArray:
    """The plateau law with its peak at `place`."""
    return np.log(mean_field_lr(b, 0.01, place * (kappa - 1), kappa))


def saturating(b: FloatArray, place: float) -> FloatArray:
    return np.log(mean_field_lr(b, 0.01, place, 0.5))


def steps(b: FloatArray, place: float) -> FloatArray:
    return np.log(steps_to_target(b, 50.0, place))


def targets(
    curve: Curve,
    places: FloatArray,
    rng: np.random.Generator,
    *,
    losses: FloatArray = FIVE_LOSSES,
    b: FloatArray = TWELVE,
    sd: float = 0.1,
    shared: float = 0.5,
    n_draws: int = 300,
    seeds: int = 5,
) -> list[DriftTarget]:
    """Optima of five seeds a batch size; `shared` of the noise's variance is common to all targets, as for one set of
    runs, and the draws resample the seeds once for all targets."""
    common, own = rng.standard_normal((seeds, 1, b.size)), rng.standard_normal((seeds, losses.size, b.size))
    noise = math.sqrt(seeds) * sd * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)
    picks = rng.integers(0, seeds, (n_draws, seeds, b.size))
    drawn = np.moveaxis(noise[picks, :, np.arange(b.size)].mean(axis=1), 2, 1)
    nothing, n = np.full(b.size, np.nan), b.size
    found = []
    for index, loss in enumerate(losses):
        log_curve = curve(b, float(places[index]))
        value, draws = log_curve + noise.mean(axis=0)[index], log_curve + drawn[:, index]
        no_draws = np.full_like(draws, np.nan)
        if curve is steps:
            optima = Optima(b, nothing, ("ok",) * n, no_draws, value, draws, (20,) * n)
        else:
            optima = Optima(b, value, ("ok",) * n, draws, nothing, no_draws, (20,) * n)
        found.append(DriftTarget(float(loss), optima))
    return found


def power(exponent: float, losses: FloatArray = FIVE_LOSSES, middle: float = 64.0) -> FloatArray:
    return middle * (losses / 0.5) ** -exponent


@pytest.mark.parametrize(("curve", "drift"), [(surge, drift_of_peak), (steps, drift_of_b_crit)])
def test_the_interval_of_the_exponent_holds_the_truth_as_often_as_it_says(
    curve: Curve, drift: Callable
) -> None:
    rng, hits, found = np.random.default_rng(0), 0, []
    for _ in range(80):
        slope = drift(targets(curve, power(1.0), rng))
        assert slope.status == "identified"
        hits += slope.low <= 1 <= slope.high
        found.append(slope.exponent)
        assert slope.p_value < 0.05
        assert slope.p_value_kaplan < 0.05
    assert np.median(found) == pytest.approx(1, abs=0.06)
    assert hits >= 70


@pytest.mark.parametrize(("curve", "drift"), [(surge, drift_of_peak), (steps, drift_of_b_crit)])
def test_without_drift_the_test_keeps_its_level(curve: Curve, drift: Callable) -> None:
    rng = np.random.default_rng(1)
    p_values = [drift(targets(curve, power(0.0), rng, shared=0.9)).p_value for _ in range(120)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.1


def test_the_exponent_of_kaplan_is_not_rejected_where_it_is_true() -> None:
    rng, losses = np.random.default_rng(2), np.geomspace(0.7, 0.4, 5)
    slopes = [
        drift_of_b_crit(targets(steps, power(KAPLAN_EXPONENT, losses), rng, losses=losses)) for _ in range(60)
    ]
    assert np.mean([slope.p_value_kaplan < 0.05 for slope in slopes]) <= 0.12
    assert np.mean([slope.p_value < 0.05 for slope in slopes]) == 1.0


def test_noise_that_all_targets_share_hardly_blurs_the_drift() -> None:
    rng = np.random.default_rng(3)
    widths = {}
    for shared in (0.0, 0.99):
        found = [drift_of_b_crit(targets(steps, power(0.5), rng, shared=shared)) for _ in range(15)]
        widths[shared] = np.median([slope.high - slope.low for slope in found])
    assert widths[0.99] < 0.5 * widths[0.0]


def test_the_fit_is_the_joint_least_squares_fit() -> None:
    group = targets(surge, power(1.0), np.random.default_rng(4))
    data = peak_data(group)

    def residual(x: FloatArray) -> FloatArray:
        a, b, log_kappa, *levels = x
        kappa = math.exp(log_kappa)
        fitted = [
            level + np.log(mean_field_lr(TWELVE, 1.0, math.exp(a - b * shift) * (kappa - 1), kappa))
            for level, shift in zip(levels, data.log_loss, strict=True)
        ]
        return ((data.values[:, :, 0].T - fitted) * np.sqrt(data.weights[:, :, 0].T)).ravel()

    expected = least_squares(residual, [4.0, 0.5, 2.0, *[-2.5] * 5], xtol=1e-12, ftol=1e-12)
    assert drift_of_peak(group).exponent == pytest.approx(expected.x[1], abs=1e-4)


def test_a_target_whose_own_peak_lies_beyond_the_batch_sizes_still_helps() -> None:
    rng = np.random.default_rng(5)
    losses = np.array([1.0, 0.5, 0.25, 0.125])
    found = []
    for _ in range(10):
        group = targets(surge, 300.0 / losses**1.5, rng, losses=losses, sd=0.05)
        both, inside = drift_of_peak(group), drift_of_peak(group[:2])
        assert both.status == "identified"
        found.append((both.high - both.low, inside.high - inside.low))
    assert np.median(found, axis=0)[0] < 0.8 * np.median(found, axis=0)[1]


def test_curves_without_a_peak_have_no_drift_of_it() -> None:
    rng = np.random.default_rng(6)
    found = [drift_of_peak(targets(saturating, power(1.0), rng)) for _ in range(20)]
    assert sum(slope.status == "identified" for slope in found) <= 1
    assert all((slope.exponent is None) == (slope.status != "identified") for slope in found)


def test_batch_sizes_all_far_below_the_critical_one_have_no_drift_of_it() -> None:
    slope = drift_of_b_crit(targets(steps, power(1.0, middle=1e6), np.random.default_rng(7)))
    assert (slope.status, slope.exponent, slope.p_value) == ("not_identified", None, None)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_targets_have_no_slope(count: int) -> None:
    rng = np.random.default_rng(8)
    for curve, drift in ((surge, drift_of_peak), (steps, drift_of_b_crit)):
        slope = drift(targets(curve, power(1.0), rng)[:count])
        assert (slope.status, slope.exponent, slope.p_value) == ("not_identified", None, None)


def test_two_targets_at_one_loss_have_no_slope() -> None:
    group = targets(surge, np.array([64.0, 64.0]), np.random.default_rng(8), losses=np.array([0.3, 0.3]))
    assert drift_of_peak(group).status == "not_identified"


@pytest.mark.parametrize(("curve", "drift"), [(surge, drift_of_peak), (steps, drift_of_b_crit)])
def test_growth_that_levels_off_is_told_from_a_power_law(curve: Curve, drift: Callable) -> None:
    rng, losses = np.random.default_rng(9), np.geomspace(2.0, 0.1, 8)
    level = 200.0 / (1 + (losses / 0.5) ** 2)
    weights = [drift(targets(curve, level, rng, losses=losses)).saturating_weight for _ in range(8)]
    assert min(weights) > 0.9
    straight = [
        drift(targets(curve, power(0.7, losses), rng, losses=losses)).saturating_weight for _ in range(25)
    ]
    assert np.mean(np.array(straight) > 0.9) <= 0.08
    assert np.median(straight) < 0.4


def test_three_losses_cannot_tell_levelling_growth() -> None:
    group = targets(steps, power(1.0), np.random.default_rng(10))
    assert drift_of_b_crit(group[:3]).saturating_weight is None
    assert drift_of_b_crit(group[:4]).saturating_weight is not None


def test_the_drift_with_the_loss_above_a_floor() -> None:
    rng = np.random.default_rng(11)
    losses = 2.0 + np.array([1.0, 0.5, 0.25, 0.125])
    group = targets(steps, power(1.0, losses - 2.0), rng, losses=losses, sd=0.02)
    assert drift_of_b_crit(group, loss_floor=2.0).exponent == pytest.approx(1.0, abs=0.05)
    assert drift_of_b_crit(group).exponent > 2
    with pytest.raises(SurgeError, match="floor"):
        drift_of_b_crit(group, loss_floor=2.125)


def test_optima_at_an_edge_and_holes_in_the_draws_are_lived_with() -> None:
    group = targets(surge, power(1.0), np.random.default_rng(12), sd=0.03)
    whole = drift_of_peak(group)
    optima = group[2].optima
    draws, log_lr = optima.draws.copy(), optima.log_lr.copy()
    draws[:40, 3], draws[40:60, 5], draws[:, 11] = np.nan, np.inf, np.inf
    log_lr[7] = np.nan
    status = tuple("edge_high" if i == 11 else "diverged" if i == 7 else "ok" for i in range(12))
    holed = replace(group[2], optima=replace(optima, draws=draws, log_lr=log_lr, status=status))
    slope = drift_of_peak([*group[:2], holed, *group[3:]])
    assert slope.status == "identified"
    assert slope.exponent == pytest.approx(whole.exponent, abs=0.05)
    few = ("ok", "ok", "ok", *["edge_high"] * 9)
    thin = replace(group[2], optima=replace(optima, status=few))
    assert drift_of_peak([*group[:2], thin, *group[3:]]) == drift_of_peak([*group[:2], *group[3:]])


def test_targets_of_different_batch_sizes_are_fitted_together() -> None:
    rng = np.random.default_rng(13)
    one = targets(steps, power(1.0), rng, sd=0.02)
    other = targets(steps, power(1.0), rng, sd=0.02, b=2.0 * TWELVE[2:9])
    mixed = [*one[:3], *other[3:]]
    assert drift_of_b_crit(mixed).exponent == pytest.approx(1.0, abs=0.1)


def test_without_draws_leaving_out_batch_sizes_gives_the_interval() -> None:
    rng, hits = np.random.default_rng(14), 0
    for _ in range(60):
        bare = [_without_draws(one) for one in targets(steps, power(1.0), rng, n_draws=1)]
        slope = drift_of_b_crit(bare)
        hits += slope.low <= 1 <= slope.high
    assert hits >= 52
    four = [replace(one, optima=_first(one.optima, 4)) for one in bare]
    assert drift_of_b_crit(four).status == "not_identified"


def _without_draws(target: DriftTarget) -> DriftTarget:
    optima = target.optima
    bare = replace(optima, draws=optima.draws[:0], log_steps_draws=optima.log_steps_draws[:0])
    return replace(target, optima=bare)


def _first(optima: Optima, n: int) -> Optima:
    return Optima(
        optima.batch_sizes[:n], optima.log_lr[:n], optima.status[:n], optima.draws[:, :n],
        optima.log_steps[:n], optima.log_steps_draws[:, :n], optima.runs[:n],
    )  # fmt: skip


def test_the_same_targets_give_the_same_bits() -> None:
    group = targets(surge, power(1.0), np.random.default_rng(15))
    assert drift_of_peak(group) == drift_of_peak(group)


def test_draws_that_do_not_belong_together_are_refused() -> None:
    rng = np.random.default_rng(16)
    one, other = targets(steps, power(1.0), rng), targets(steps, power(1.0), rng, n_draws=50)
    with pytest.raises(ValueError, match="same number of draws"):
        drift_of_b_crit([one[0], other[1]])


@given(seed=st.integers(0, 10**6), n_draws=st.sampled_from([0, 1, 20]))
@settings(max_examples=60, deadline=None)
def test_whatever_the_optima_the_slope_is_made_of_finite_numbers(seed: int, n_draws: int) -> None:
    rng = np.random.default_rng(seed)
    group = []
    for _ in range(rng.integers(1, 5)):
        n = int(rng.integers(1, 9))
        log_lr, log_steps = rng.choice([0.0, 0.1, 3.0]) * rng.standard_normal((2, n)) + rng.choice(
            [-9.0, 0.0, 9.0]
        )
        draws, steps_draws = (
            value + rng.choice([0.0, 1.0]) * rng.standard_normal((n_draws, n))
            for value in (log_lr, log_steps)
        )
        draws[rng.random((n_draws, n)) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
        log_steps[rng.random(n) < 0.2] = np.nan
        status = tuple(rng.choice(["ok", "ok", "ok", "edge_high"], n))
        b = np.sort(rng.choice(2.0 ** np.arange(16), n, replace=False))
        group.append(
            DriftTarget(
                float(rng.choice([0.5, 1.0, 1.0001])),
                Optima(b, log_lr, status, draws, log_steps, steps_draws, (3,) * n),
            )
        )
    for slope in (drift_of_peak(group), drift_of_b_crit(group)):
        numbers = slope.model_dump(exclude={"status"}).values()
        assert all(number is None or math.isfinite(number) for number in numbers)
        if slope.status == "identified":
            assert slope.low <= slope.exponent <= slope.high
