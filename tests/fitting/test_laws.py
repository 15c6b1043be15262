"""Law fits: truth comes back, an independent optimiser agrees, bounds and too little data are handled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from iminuit import Minuit
from scipy.stats import norm

from surge_sweeps.errors import NotEnoughDataError, UnknownNameError
from surge_sweeps.fitting.laws import fit_laws
from surge_sweeps.fitting.likelihood import observe
from surge_sweeps.theory import LAWS, peak_batch_size


@pytest.mark.parametrize(
    "truth",
    ["surge", "plateau_9", "sqrt", "linear", "constant", "power", "adam_saturation", "sgd_saturation"],
)
def test_each_law_comes_back_from_its_own_curve(truth: str, simulated: Any) -> None:
    name, parameters = simulated.TRUTHS[truth]
    fits = fit_laws(simulated.exact_spread(truth, 0.02, np.random.default_rng(1), noise=0.0))
    assert fits.fit(name).parameters == pytest.approx(parameters, rel=0.01)
    assert fits.scatter_sd[name] < 1e-3
    weights = {fit.name: fit.weight for fit in fits.fits}
    assert sum(w for w in weights.values() if w) == pytest.approx(1.0)
    assert max(weights, key=lambda law: weights[law] or 0.0) == name


@pytest.mark.parametrize("name", ["surge_plateau", "adam_saturation", "power"])
def test_an_independent_optimiser_finds_the_same_maximum(name: str, simulated: Any) -> None:
    optima = simulated.simulate("plateau_9", 0.1, np.random.default_rng(8))
    fits = fit_laws(optima)
    y, variance = optima.log_lr, optima.log_lr_sd() ** 2
    parameters = LAWS[name].parameters

    def minus_twice(*x: float) -> float:
        total = variance + x[-1] ** 2
        with np.errstate(all="ignore"):
            values = {p: (v if p == "alpha" else np.exp(v)) for p, v in zip(parameters, x[:-1], strict=True)}
            curve = np.log(LAWS[name].evaluate(simulated.TWELVE, **values))
        return float(np.sum((y - curve) ** 2 / total + np.log(total)))

    start = [
        v if p == "alpha" else np.log(v)
        for p, v in simulated.TRUTHS["plateau_9"][1].items()
        if p in parameters
    ]
    start += [0.3] * (len(parameters) - len(start)) + [0.1]
    minuit = Minuit(minus_twice, *start)
    minuit.errordef = Minuit.LEAST_SQUARES
    minuit.strategy = 2
    minuit.migrad(ncall=20_000)
    n, k = simulated.TWELVE.size, len(parameters) + 1
    expected = minuit.fval + n * np.log(2 * np.pi) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert fits.fit(name).aicc == pytest.approx(expected, abs=1e-3)
    assert fits.scatter_sd[name] == pytest.approx(abs(minuit.values[-1]), abs=2e-3)


def test_profile_intervals_hold_the_truth_about_as_often_as_they_say(simulated: Any) -> None:
    rng, hits = np.random.default_rng(4), {"b_peak": 0, "kappa": 0, "b_noise": 0}
    for _ in range(60):
        fits = fit_laws(simulated.simulate("plateau_9", 0.07, rng))
        found = {"b_peak": fits.b_peak, "kappa": fits.kappa, "b_noise": fits.b_noise("surge_plateau")}
        for key, truth in (("b_peak", 64.0), ("kappa", 9.0), ("b_noise", 512 / 9)):
            low, high = found[key].low, found[key].high
            hits[key] += (low is None or low <= truth) and (high is None or truth <= high)
    assert min(hits.values()) >= 52, hits


def test_an_extra_scatter_is_found_where_the_seeds_do_not_explain_the_spread(simulated: Any) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(30):
        log_lr = simulated.log_curve("sqrt", simulated.TWELVE) + 0.2 * rng.standard_normal(12)
        found.append(
            fit_laws(simulated.make(simulated.TWELVE, log_lr, log_lr + 0.02 * rng.standard_normal((100, 12))))
        )
    assert np.median([fits.scatter_sd["sqrt"] for fits in found]) == pytest.approx(0.2, rel=0.15)


def test_a_rising_curve_sets_only_a_lower_bound_on_the_peak(simulated: Any) -> None:
    fits = fit_laws(simulated.simulate("sqrt", 0.05, np.random.default_rng(3)))
    assert fits.b_peak.status == "lower_bound"
    assert fits.b_peak.low == simulated.TWELVE[-1]
    assert fits.b_peak.estimate is None
    assert fits.kappa.status == "not_identified"
    assert fits.b_noise("sqrt").status == "not_identified"


def test_the_plain_surge_leaves_kappa_open_upward(simulated: Any) -> None:
    fits = fit_laws(simulated.simulate("surge", 0.05, np.random.default_rng(3)))
    assert fits.kappa.status == "lower_bound"
    assert fits.b_peak.low < 64 < fits.b_peak.high
    assert fits.b_peak.estimate == pytest.approx(peak_batch_size("surge", fits.fit("surge").parameters))


def test_an_edge_enters_by_its_probability_not_as_a_value(simulated: Any) -> None:
    optima = simulated.exact_spread("sqrt", 0.1, np.random.default_rng(6))
    capped = simulated.at_edge(
        simulated.at_edge(optima, 11, "edge_high", optima.log_lr[9]), 10, "edge_high", optima.log_lr[9]
    )
    fits = fit_laws(capped)
    as_values = fit_laws(replace(capped, status=("ok",) * 12, draws=optima.draws))
    assert fits.fit("power").parameters["alpha"] == pytest.approx(0.5, abs=0.06)
    assert as_values.fit("power").parameters["alpha"] < fits.fit("power").parameters["alpha"] - 0.03

    seen, law = observe(capped), fits.fit("power")
    mean = np.log(LAWS["power"].evaluate(simulated.TWELVE, **law.parameters))
    total = np.sqrt(seen.variance + fits.scatter_sd["power"] ** 2)
    by_hand = (
        norm.logpdf(seen.log_lr, mean, total)[:10].sum() + norm.logsf(seen.log_lr, mean, total)[10:].sum()
    )
    assert law.aicc == pytest.approx(-2 * by_hand + 6 + 2 * 3 * 4 / 8)


def test_a_bound_that_contradicts_the_falling_side_makes_the_peak_open(simulated: Any) -> None:
    optima = simulated.exact_spread(
        "surge", 0.1, np.random.default_rng(6), batch_sizes=4.0 * 2 ** np.arange(6)
    )
    bounded = simulated.at_edge(optima, 5, "edge_high", float(optima.log_lr[4] + 0.3))
    assert fit_laws(bounded).b_peak.high is None


def test_a_value_whose_draws_mostly_leave_the_grid_is_a_bound(simulated: Any) -> None:
    optima = simulated.exact_spread("sqrt", 0.1, np.random.default_rng(6))
    draws = optima.draws.copy()
    draws[:600, 11] = np.inf
    seen = observe(replace(optima, draws=draws))
    assert seen.side.tolist() == [0] * 11 + [1]
    assert seen.log_lr[11] < optima.log_lr[11]


def test_the_interval_of_the_exponent_holds_the_truth_about_as_often_as_it_says(simulated: Any) -> None:
    rng, hits = np.random.default_rng(2), 0
    truth = simulated.TRUTHS["falling"][1]["alpha"]
    for _ in range(60):
        found = fit_laws(simulated.simulate("falling", 0.1, rng)).exponent()
        hits += found.low <= truth <= found.high
    assert 52 <= hits <= 60


def test_too_few_optima_give_no_law_and_say_what_is_needed(simulated: Any) -> None:
    optima = simulated.simulate("sqrt", 0.1, np.random.default_rng(0), batch_sizes=np.array([4.0, 8.0, 16.0]))
    fits = fit_laws(optima)
    assert fits.fits == ()
    assert "4 or more batch sizes" in fits.reason
    with pytest.raises(NotEnoughDataError, match="3 are known"):
        fits.exponent()


def test_laws_with_too_many_parameters_for_the_data_have_no_aicc(simulated: Any) -> None:
    fits = fit_laws(
        simulated.simulate("sqrt", 0.1, np.random.default_rng(0), batch_sizes=4.0 * 2 ** np.arange(5))
    )
    undefined = {fit.name for fit in fits.fits if fit.aicc is None}
    assert undefined == {"surge_plateau"}
    assert fits.fit("surge_plateau").weight is None
    with pytest.raises(UnknownNameError, match="cosine"):
        fits.fit("cosine")


def test_tuned_learning_rates_without_draws_are_fitted_with_scatter_alone(simulated: Any) -> None:
    log_lr = simulated.log_curve("sqrt", simulated.TWELVE) + 0.1 * np.random.default_rng(5).standard_normal(
        12
    )
    fits = fit_laws(simulated.make(simulated.TWELVE, log_lr, np.empty((0, 12)), "given"))
    assert 0.05 < fits.scatter_sd["sqrt"] < 0.15
