"""Law fits: truth comes back, an independent optimiser agrees, bounds and too little data are handled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import lmfit
import numpy as np
import pytest
from iminuit import Minuit
from scipy.optimize import least_squares
from scipy.stats import multivariate_normal, norm

from surge_sweeps.errors import NotEnoughDataError, UnknownNameError
from surge_sweeps.fitting.laws.fit_laws import fit_laws, validation_grids
from surge_sweeps.fitting.laws.law_validation import LawResiduals
from surge_sweeps.fitting.laws.likelihood import Observations, fit_levels, log_likelihood, observe
from surge_sweeps.fitting.laws.noise import moderated_variance
from surge_sweeps.fitting.laws.profile import deviance_threshold
from surge_sweeps.fitting.optimum.optima import Optima
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


def with_common_errors(simulated: Any, truth: str, sd: float, rng: np.random.Generator) -> Optima:
    """Optima with independent errors of `sd` and one of 3 sd that all batch sizes share; the draws show both."""
    noise = sd * rng.standard_normal((1001, 12)) + 3 * sd * rng.standard_normal((1001, 1))
    log_lr = simulated.log_curve(truth, simulated.TWELVE) + noise[0]
    return simulated.make(simulated.TWELVE, log_lr, log_lr + noise[1:])


@pytest.mark.parametrize("scatter_sd", [0.0, 0.07, 1.0])
def test_the_likelihood_is_that_of_a_multivariate_normal(simulated: Any, scatter_sd: float) -> None:
    observed = observe(with_common_errors(simulated, "plateau_9", 0.05, np.random.default_rng(3)))
    correlation = observed.correlation
    assert correlation is not None
    assert correlation[0, 1:].mean() == pytest.approx(0.9, abs=0.02)
    sd = np.sqrt(observed.variance)
    covariance = correlation * np.outer(sd, sd) + scatter_sd**2 * np.eye(12)
    curves = np.stack([simulated.log_curve(truth, simulated.TWELVE) for truth in ("sqrt", "surge", "linear")])
    found = fit_levels(observed, curves, np.array([scatter_sd]))
    weights = np.linalg.solve(covariance, np.ones(12))
    for index, curve in enumerate(curves):
        level = weights @ (observed.log_lr - curve) / weights.sum()
        expected = multivariate_normal(curve + level, covariance).logpdf(observed.log_lr)
        assert found.level[index, 0] == pytest.approx(level, abs=1e-9)
        assert found.log_likelihood[index, 0] == pytest.approx(expected, rel=1e-9)
        assert log_likelihood(observed, curve + level, scatter_sd) == pytest.approx(expected, rel=1e-9)


def test_an_error_that_all_batch_sizes_share_does_not_hide_the_shape(simulated: Any) -> None:
    optima = with_common_errors(simulated, "plateau_9", 0.05, np.random.default_rng(3))
    fits = fit_laws(optima)
    alone = fit_laws(replace(optima, draws=np.random.default_rng(0).permuted(optima.draws, axis=0)))
    assert fits.b_peak.status == "identified"
    assert fits.b_peak.low < 64 < fits.b_peak.high
    width, width_alone = (math.log(found.b_peak.high / found.b_peak.low) for found in (fits, alone))
    assert width < 0.65 * width_alone


def test_the_spread_of_a_few_seeds_is_drawn_to_the_trend_over_batch_sizes() -> None:
    rng, b = np.random.default_rng(0), 4.0 * 2.0 ** np.arange(11)
    true = 0.01 * b**-0.5
    raw = true * rng.chisquare(4, (200, 11)) / 4
    moderated = np.array([moderated_variance(row, b) for row in raw])
    error, before = (np.std(np.log(found / true)) for found in (moderated, raw))
    assert error < 0.55 * before
    assert moderated_variance(true, b) == pytest.approx(true)


KNOWN_SCATTER = ["sqrt", "power", "adam_saturation", "sgd_saturation", "surge", "surge_plateau"]
TRUTH_OF = {"surge_plateau": "plateau_9"}


def noisier_than_it_looks(simulated: Any, name: str) -> Optima:
    """Optima that scatter less than their draws say, so that the extra scatter is zero: a plain chi-squared fit."""
    truth = TRUTH_OF.get(name, name)
    rng = np.random.default_rng(8)
    log_lr = simulated.log_curve(truth, simulated.TWELVE) + 0.02 * rng.standard_normal(12)
    draws = log_lr + 0.04 * rng.standard_normal((1000, 12)) + 0.04 * rng.standard_normal((1000, 1))
    return simulated.make(simulated.TWELVE, log_lr, draws)


def whitened_residuals(name: str, observed: Observations) -> Callable[[Mapping[str, float]], Any]:
    """Residuals of unit noise under parameters in logs (the exponent as it is)."""
    root = np.linalg.inv(np.linalg.cholesky(observed.covariance()))

    def residuals(parameters: Mapping[str, float]) -> Any:
        values = {key: x if key == "alpha" else math.exp(x) for key, x in parameters.items()}
        curve = np.log(
            np.broadcast_to(LAWS[name].evaluate(observed.batch_sizes, **values), observed.log_lr.shape)
        )
        return root @ (observed.log_lr - curve)

    return residuals


def free_coordinate(name: str, value: float) -> float:
    return value if name == "alpha" else math.log(value)


@pytest.mark.parametrize("name", KNOWN_SCATTER)
def test_lmfit_and_iminuit_find_the_same_parameters(name: str, simulated: Any) -> None:
    fits = fit_laws(noisier_than_it_looks(simulated, name))
    assert fits.scatter_sd[name] == 0.0
    residuals = whitened_residuals(name, fits.observed)
    names, ours = LAWS[name].parameters, fits.fit(name).parameters
    start = {
        key: free_coordinate(key, simulated.TRUTHS[TRUTH_OF.get(name, name)][1][key]) + 0.1 for key in names
    }

    parameters = lmfit.create_params(**start)
    tight = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
    by_lmfit = lmfit.minimize(lambda p: residuals(p.valuesdict()), parameters, **tight).params.valuesdict()

    minuit = Minuit(lambda *x: float((residuals(dict(zip(names, x, strict=True))) ** 2).sum()),
                    *start.values(), name=names)  # fmt: skip
    minuit.errordef, minuit.strategy, minuit.tol = Minuit.LEAST_SQUARES, 2, 1e-9
    minuit.migrad()
    for key in names:
        exact = free_coordinate(key, ours[key])
        assert exact == pytest.approx(by_lmfit[key], rel=1e-6, abs=1e-6)
        assert exact == pytest.approx(minuit.values[key], rel=1e-6, abs=1e-6)
    chi2 = float((residuals({key: free_coordinate(key, ours[key]) for key in names}) ** 2).sum())
    assert chi2 <= minuit.fval + 1e-9


@pytest.mark.parametrize(
    ("name", "quantity"),
    [("power", "alpha"), ("adam_saturation", "b_s"), ("sgd_saturation", "b_noise"), ("surge", "b_noise"),
     ("surge_plateau", "b_peak"), ("surge_plateau", "kappa")],
)  # fmt: skip
def test_lmfit_and_iminuit_find_the_same_profile_intervals(name: str, quantity: str, simulated: Any) -> None:
    """At the same fall of chi-squared: lmfit's F criterion is replaced by it, and it is iminuit's `errordef`."""
    fits = fit_laws(noisier_than_it_looks(simulated, name))
    residuals = whitened_residuals(name, fits.observed)
    found = {
        "alpha": fits.exponent, "b_peak": lambda: fits.b_peak, "kappa": lambda: fits.kappa,
    }.get(quantity, lambda: fits.b_noise(name))()  # fmt: skip
    ours = [free_coordinate(quantity, end) for end in (found.low, found.high)]
    fall = deviance_threshold(12, len(LAWS[name].parameters), 0.0)

    def turned(p: Mapping[str, float]) -> Any:
        if name != "surge_plateau":
            return residuals(p)
        # In coordinates of which B_peak and kappa are two: b_s = B_peak (kappa - 1).
        excess = math.exp(p["kappa"]) - 1
        return residuals({"a": p["a"], "b_s": p["b_peak"] + math.log(excess), "kappa": p["kappa"]})

    best = dict(fits.fit(name).parameters)
    if name == "surge_plateau":
        best = {"a": best["a"], "b_peak": best["b_s"] / (best["kappa"] - 1), "kappa": best["kappa"]}
    start = {key: free_coordinate(key, value) for key, value in best.items()}

    minuit = Minuit(lambda *x: float((turned(dict(zip(start, x, strict=True))) ** 2).sum()),
                    *start.values(), name=tuple(start))  # fmt: skip
    minuit.errordef, minuit.strategy, minuit.tol = fall, 2, 1e-6
    minuit.migrad()
    minuit.minos(quantity)
    error = minuit.merrors[quantity]
    by_minos = [minuit.values[quantity] + error.lower, minuit.values[quantity] + error.upper]

    fitter = lmfit.Minimizer(lambda p: turned(p.valuesdict()), lmfit.create_params(**start))
    result = fitter.minimize()

    def share_of_fall(best_fit: Any, fit: Any) -> float:
        return float(min(1.0, 0.9 * (fit.chisqr - best_fit.chisqr) / fall))

    interval = lmfit.conf_interval(
        fitter, result, [quantity], sigmas=[0.9], maxiter=500, prob_func=share_of_fall
    )
    by_lmfit = [interval[quantity][0][1], interval[quantity][-1][1]]
    assert by_lmfit == pytest.approx(by_minos, abs=0.01)
    if name == "surge":
        # B_noise of this law allows for a plateau as well, so its interval may only be wider.
        assert ours[0] <= by_minos[0] + 0.01
        assert ours[1] >= by_minos[1] - 0.01
        return
    assert ours == pytest.approx(by_minos, abs=0.01)


def test_the_left_out_error_is_that_of_refits_without_each_value(simulated: Any) -> None:
    fits = fit_laws(simulated.exact_spread("plateau_9", 0.1, np.random.default_rng(4)))
    observed = replace(fits.observed, correlation=None)
    for name in ("sqrt", "surge", "surge_plateau"):
        residuals = LawResiduals(observed, validation_grids(fits._grids[name]), fits.scatter_sd[name])
        errors = []
        for index in range(12):
            rest = observed.without(index)
            keys = LAWS[name].parameters
            start = [math.log(fits.fit(name).parameters[key]) for key in keys]
            noise = np.sqrt(rest.variance + fits.scatter_sd[name] ** 2)

            def log_curve(x: Any, sizes: Any, name: str = name, keys: Any = keys) -> Any:
                return np.log(LAWS[name].evaluate(sizes, **dict(zip(keys, np.exp(x), strict=True))))

            refit = least_squares(
                lambda x, rest=rest, noise=noise: (log_curve(x, rest.batch_sizes) - rest.log_lr) / noise,
                start,
            )
            errors.append(observed.log_lr[index] - log_curve(refit.x, simulated.TWELVE[index]))
        assert residuals.left_out_error() == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.03)


def test_the_true_law_predicts_best_and_is_chosen_most_often(simulated: Any) -> None:
    optima = simulated.simulate("plateau_9", 0.05, np.random.default_rng(4))
    fits = fit_laws(optima)
    by_error = {fit.name: fit.left_out_error for fit in fits.fits}
    shares = {fit.name: fit.selection_frequency for fit in fits.fits}
    assert min(by_error, key=by_error.__getitem__) == max(shares, key=shares.__getitem__) == "surge_plateau"
    assert sum(shares.values()) == pytest.approx(1.0)
    without = fit_laws(replace(optima, draws=np.empty((0, 12))))
    assert {fit.selection_frequency for fit in without.fits} == {None}
    assert all(fit.left_out_error is not None for fit in without.fits)


def test_on_the_exact_quadratic_the_algebraic_law_is_within_five_percent_and_the_exact_one_right(
    simulated: Any,
) -> None:
    fits = fit_laws(simulated.exact_quadratic(8.988, 0.02))
    assert fits.b_peak.estimate == pytest.approx(74.32, rel=0.05)
    assert fits.b_peak_erf() == pytest.approx(74.32, rel=0.002)
    assert fits.b_peak.low < 74.32 < fits.b_peak.high


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


def test_optima_without_an_interval_are_named_as_what_keeps_the_laws_from_being_fitted() -> None:
    batch_sizes = 8.0 * 2 ** np.arange(5)
    # More than a sixth of the draws beyond the grid on either side.
    draws = np.repeat([[-np.inf], [-3.0], [np.inf]], 20, axis=0) * np.ones(5)
    nothing = np.full(5, np.nan)
    optima = Optima(
        batch_sizes, np.full(5, -3.0), ("ok",) * 5, draws, nothing, np.full_like(draws, np.nan), (3,) * 5
    )
    reason = fit_laws(optima).reason
    assert reason.startswith("The optimum at batch sizes 8, 16, 32, 64, 128 was found without an interval")
    assert "here 0 have one" in reason


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
