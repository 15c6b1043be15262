"""Verdicts: a surge is found where there is one, hardly ever where there is none, and never on a deciding edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from surge_sweeps.fitting.laws.fit_laws import fit_laws
from surge_sweeps.fitting.laws.law_class import class_weights
from surge_sweeps.fitting.laws.likelihood import Observations
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.verdict.advice import _seed_factor
from surge_sweeps.fitting.verdict.decide import Verdict, decide
from surge_sweeps.fitting.verdict.detectable import DETECTABLE_MARGIN, minimum_detectable_kappa
from surge_sweeps.fitting.verdict.monotonicity import isotonic_fits, monotonicity_test, prefix_squares
from surge_sweeps.fitting.verdict.surge_gates import surge_candidate, weigh_surge


def judge(optima: Optima, seed: int = 0, stability_edge: Mapping[float, float] | None = None) -> Verdict:
    return decide(optima, fit_laws(optima), np.random.default_rng(seed), stability_edge)


def verdicts(simulated: Any, truth: str, sd: float, count: int) -> Counter[str]:
    rng = np.random.default_rng(11)
    return Counter(judge(simulated.simulate(truth, sd, rng)).name for _ in range(count))


@pytest.mark.parametrize("sd", [0.1, 0.2])
def test_a_monotone_truth_is_hardly_ever_called_a_surge(simulated: Any, sd: float) -> None:
    truths = [
        "sqrt",
        "adam_saturation",
        "sgd_saturation",
        "power",
        "plateau_0.7",
        "plateau_1",
        "constant",
        "falling",
    ]
    found = sum((verdicts(simulated, truth, sd, 6) for truth in truths), Counter())
    assert found["surge"] <= 1, found


def test_a_clear_surge_is_found_nearly_always(simulated: Any) -> None:
    assert verdicts(simulated, "surge", 0.2, 20)["surge"] >= 18
    assert verdicts(simulated, "plateau_9", 0.1, 20)["surge"] >= 18


def test_a_surge_with_a_small_lead_needs_the_bootstrap_against_monotone_laws(simulated: Any) -> None:
    rng = np.random.default_rng(3)
    weak = [simulated.simulate("plateau_9", 0.15, rng) for _ in range(12)]
    found = [(weigh_surge(fit_laws(optima), np.random.default_rng(0)), judge(optima)) for optima in weak]
    by_bootstrap = [
        verdict for evidence, verdict in found if evidence.surge and evidence.candidate.margin <= 6
    ]
    assert by_bootstrap
    assert all(
        verdict.name == "surge" and "equal by chance" in verdict.reasons[1] for verdict in by_bootstrap
    )


@pytest.mark.parametrize("truth", ["sqrt", "adam_saturation", "plateau_1", "falling"])
def test_heavy_tails_and_one_outlier_make_no_surge(simulated: Any, truth: str) -> None:
    rng, found = np.random.default_rng(5), 0
    for index in range(12):
        errors = rng.standard_t(3, 12) / np.sqrt(3)
        if index % 2:
            errors[rng.integers(12)] += 5 * rng.choice([-1, 1])
        log_lr = simulated.log_curve(truth, simulated.TWELVE) + 0.1 * errors
        draws = log_lr + 0.1 * rng.standard_normal((400, 12))
        found += judge(simulated.make(simulated.TWELVE, log_lr, draws)).name == "surge"
    assert found == 0


@pytest.mark.parametrize("kappa", [0.728, 0.0, -0.227])
def test_the_exact_quadratic_without_a_surge_is_not_called_one(simulated: Any, kappa: float) -> None:
    assert judge(simulated.exact_quadratic(kappa, 0.02)).name == "saturation"


def test_a_surge_says_how_far_the_exact_form_of_the_law_would_move_the_peak(simulated: Any) -> None:
    verdict = judge(simulated.exact_quadratic(8.988, 0.02))
    assert verdict.name == "surge"
    assert "exact (error-function) form of the surge law B_peak would be 74.3 instead of 7" in " ".join(
        verdict.reasons
    )


def test_a_second_rise_beyond_the_peak_is_reported(simulated: Any) -> None:
    assert not any("rises again" in reason for reason in judge(simulated.exact_spread(
        "plateau_9", 0.05, np.random.default_rng(5))).reasons)  # fmt: skip
    twice = simulated.log_curve("surge", simulated.TWELVE)
    twice[9:] = twice[8] + np.array([0.1, 0.3, 0.5])
    draws = twice + 0.05 * np.random.default_rng(0).standard_normal((400, 12))
    verdict = judge(simulated.make(simulated.TWELVE, twice, draws))
    assert any("falls and then rises again" in reason for reason in verdict.reasons)


def test_a_fall_along_the_edge_of_stability_is_not_called_a_surge(simulated: Any) -> None:
    b = simulated.TWELVE
    edge = np.log(2e-3) - 0.5 * np.log(b / 64)
    rng = np.random.default_rng(7)
    log_lr = np.minimum(simulated.log_curve("sqrt", b), edge - 0.05) + 0.05 * rng.standard_normal(12)
    optima = simulated.make(b, log_lr, log_lr + 0.05 * rng.standard_normal((400, 12)))
    assert judge(optima).name == "surge"
    verdict = judge(optima, stability_edge=dict(zip(b.tolist(), edge, strict=True)))
    assert verdict.name == "inconclusive"
    assert "may be the edge of stability and not a surge" in verdict.reasons[0]
    assert verdict.b_peak.status == "not_identified"


def test_a_surge_far_below_the_edge_or_under_a_level_edge_stays_one(simulated: Any) -> None:
    optima = simulated.exact_spread("surge", 0.05, np.random.default_rng(5))
    b = simulated.TWELVE
    falling = simulated.log_curve("surge", b) + np.log(2.5)
    level = np.full(12, float(optima.log_lr.max()) + 0.1)
    for edge in (falling, level):
        assert judge(optima, stability_edge=dict(zip(b.tolist(), edge, strict=True))).name == "surge"


@pytest.mark.parametrize(
    ("truth", "name", "law"),
    [
        ("sqrt", "sqrt", "sqrt"),
        ("linear", "linear", "linear"),
        ("constant", "constant", "constant"),
        ("power", "power", "power"),
        ("falling", "power", "power"),
        ("adam_saturation", "saturation", "adam_saturation"),
        ("sgd_saturation", "saturation", "sgd_saturation"),
        ("surge", "surge", "surge"),
        ("plateau_9", "surge", "surge_plateau"),
    ],
)
def test_precise_optima_get_the_verdict_and_the_law_of_their_truth(
    simulated: Any, truth: str, name: str, law: str
) -> None:
    verdict = judge(simulated.exact_spread(truth, 0.04, np.random.default_rng(5)))
    assert (verdict.name, verdict.law) == (name, law)
    assert verdict.minimum_detectable_kappa is not None
    assert "standard deviation of 0.04" in " ".join(verdict.reasons)


def test_each_verdict_carries_the_batch_sizes_that_belong_to_it(simulated: Any) -> None:
    found = {
        truth: judge(simulated.exact_spread(truth, 0.04, np.random.default_rng(5)))
        for truth in (
            "surge",
            "plateau_9",
            "sgd_saturation",
            "adam_saturation",
            "sqrt",
            "falling",
            "constant",
        )
    }
    for truth, b_peak, b_noise in [("surge", 64, 64), ("plateau_9", 64, 512 / 9)]:
        assert found[truth].b_peak.low < b_peak < found[truth].b_peak.high
        assert found[truth].b_noise.low < b_noise < found[truth].b_noise.high
    for truth in ("sgd_saturation", "adam_saturation"):
        assert found[truth].b_noise.low < 128 < found[truth].b_noise.high
        assert (found[truth].b_peak.status, found[truth].b_peak.high) == ("lower_bound", None)
    assert found["sqrt"].b_peak.low == 4096
    assert found["sqrt"].b_noise.status == "not_identified"
    assert found["falling"].b_peak.status == "upper_bound"
    assert found["constant"].b_peak.status == "not_identified"


def test_a_falling_power_is_said_to_fall_with_the_interval_of_its_exponent(simulated: Any) -> None:
    falling = judge(simulated.exact_spread("falling", 0.04, np.random.default_rng(5))).reasons[0]
    assert "falls with the batch size as a power, exponent -0." in falling
    assert "(95% interval -0." in falling
    rising = judge(simulated.exact_spread("power", 0.04, np.random.default_rng(5))).reasons[0]
    assert "rises with the batch size as a power, exponent 0." in rising


def test_a_closed_peak_interval_without_a_surge_is_no_bound(simulated: Any) -> None:
    optima = simulated.exact_spread("surge", 0.04, np.random.default_rng(5))
    assert fit_laws(optima).b_peak.status == "identified"
    # An edge at the largest batch size withholds the surge; the profile stays closed.
    verdict = judge(simulated.at_edge(optima, 10, "edge_high", float(optima.log_lr[10] - 0.02)))
    assert verdict.name == "inconclusive"
    assert (verdict.b_peak.status, verdict.b_peak.estimate) == ("not_identified", None)
    assert verdict.b_peak.low < 64 < verdict.b_peak.high
    assert "that there is one is not established" in " ".join(verdict.reasons)


def test_seeds_are_asked_for_only_where_they_can_help(simulated: Any) -> None:
    rng = np.random.default_rng(4)
    log_lr = simulated.log_curve("plateau_9", simulated.TWELVE) + 0.3 * rng.standard_normal(12)
    optima = simulated.make(simulated.TWELVE, log_lr, log_lr + 0.02 * rng.standard_normal((100, 12)))
    verdict = judge(optima)
    assert verdict.name == "inconclusive"
    text = " ".join(verdict.reasons)
    assert "More seeds alone are unlikely to settle it: the optima scatter by 0." in text
    assert "Add seeds" not in text


@pytest.mark.parametrize(("scatter", "factor"), [(0.0, 4), (0.3, 6), (0.5, 16), (0.6, None)])
def test_the_factor_of_seeds_counts_the_scatter_that_seeds_leave(scatter: float, factor: int | None) -> None:
    assert _seed_factor(1.0, scatter, 4.0) == factor


def test_an_edge_that_could_undo_a_surge_withholds_it_and_names_the_runs(simulated: Any) -> None:
    optima = simulated.exact_spread("surge", 0.04, np.random.default_rng(5))
    assert judge(optima).name == "surge"
    capped = simulated.at_edge(optima, 10, "edge_high", float(optima.log_lr[10] - 0.02))
    verdict = judge(capped)
    assert verdict.name == "inconclusive"
    size = capped.batch_sizes[10]
    assert f"Add learning rates above those run at batch size {size:g}" in " ".join(verdict.reasons)
    # An optimum below the grid beyond the peak only makes the fall deeper.
    assert judge(simulated.at_edge(optima, 11, "edge_low", float(optima.log_lr[11] + 0.05))).name == "surge"


def test_an_edge_at_the_largest_batch_sizes_withholds_a_saturation(simulated: Any) -> None:
    optima = simulated.exact_spread("adam_saturation", 0.03, np.random.default_rng(5))
    assert judge(optima).name == "saturation"
    verdict = judge(simulated.at_edge(optima, 11, "edge_high", float(optima.log_lr[11] - 0.1)))
    assert verdict.name == "inconclusive"
    assert "batch size 4096 lies at an edge" in verdict.reasons[0]


def test_a_peak_too_near_the_end_of_the_range_is_not_a_surge(simulated: Any) -> None:
    sizes = 4.0 * 2 ** np.linspace(0, 4.5, 12)
    verdict = judge(simulated.exact_spread("surge", 0.04, np.random.default_rng(5), batch_sizes=sizes))
    assert verdict.name != "surge"
    assert verdict.b_peak.status == "lower_bound"


def test_with_too_little_data_the_verdict_says_what_is_missing(simulated: Any) -> None:
    sizes = 4.0 * 2 ** np.arange(4)
    optima = simulated.simulate("sqrt", 0.05, np.random.default_rng(0), batch_sizes=sizes)
    four = judge(optima)
    assert four.name == "inconclusive"
    assert "5 or more are needed" in four.reasons[0]
    five = simulated.simulate("sqrt", 0.02, np.random.default_rng(0), batch_sizes=4.0 * 2 ** np.arange(5))
    assert judge(five).name == "sqrt"

    log_lr = np.where(np.arange(4) < 2, optima.log_lr, np.nan)
    holes = replace(optima, log_lr=log_lr, status=("ok", "ok", "too_few", "diverged"))
    two = judge(holes)
    assert two.b_peak.status == two.b_noise.status == "not_identified"
    text = " ".join(two.reasons)
    assert "Batch size 16 has too few usable learning rates" in text
    assert "Batch size 32 diverged" in text


def test_noise_too_large_for_a_verdict_asks_for_seeds(simulated: Any) -> None:
    sizes = 4.0 * 4 ** np.arange(6)
    verdict = judge(
        simulated.exact_spread("adam_saturation", 0.5, np.random.default_rng(3), batch_sizes=sizes)
    )
    assert verdict.name == "inconclusive"
    assert verdict.minimum_detectable_kappa is None
    assert "Add seeds" in " ".join(verdict.reasons)


def test_the_same_seed_gives_the_same_verdict(simulated: Any) -> None:
    optima = simulated.simulate("plateau_9", 0.1, np.random.default_rng(2))
    assert judge(optima, 7) == judge(optima, 7)


def test_class_weights_count_a_law_for_the_simplest_shape_it_takes(simulated: Any) -> None:
    weights = class_weights(fit_laws(simulated.exact_spread("sqrt", 0.03, np.random.default_rng(1))))
    assert weights["sqrt"] > 0.95
    assert sum(weights.values()) == pytest.approx(1.0)


def test_the_minimum_detectable_kappa_is_where_the_margin_is_reached_on_average(simulated: Any) -> None:
    b, sd, margins = simulated.TWELVE, 0.1, []
    nothing = np.zeros(12, np.int8)
    kappa = minimum_detectable_kappa(Observations(b, np.zeros(12), np.full(12, sd**2), nothing), 0.0)
    assert kappa is not None
    rng = np.random.default_rng(0)
    simulated.TRUTHS["threshold"] = (
        "surge_plateau",
        {"a": 0.01, "b_s": 128 * (kappa - 1), "kappa": kappa},
    )
    for _ in range(40):
        margins.append(surge_candidate(fit_laws(simulated.exact_spread("threshold", sd, rng))).margin)
    del simulated.TRUTHS["threshold"]
    assert np.mean(margins) == pytest.approx(DETECTABLE_MARGIN, abs=2.5)
    finer = minimum_detectable_kappa(Observations(b, np.zeros(12), np.full(12, 0.05**2), nothing), 0.0)
    assert finer is not None
    assert finer < kappa


def test_prefix_squares_are_those_of_scipys_isotonic_fits() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.standard_normal((15, 9)), rng.uniform(0.2, 3, (15, 9))
    found = prefix_squares(values, weights)
    for row, mass, squares in zip(values, weights, found, strict=True):
        for n in range(1, 10):
            fitted = isotonic_regression(row[:n], weights=mass[:n]).x
            assert squares[n - 1] == pytest.approx(mass[:n] @ (row[:n] - fitted) ** 2, abs=1e-12)


def test_isotonic_fits_equal_scipys_row_by_row() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.standard_normal((30, 9)), rng.uniform(0.2, 3, 9)
    expected = [isotonic_regression(row, weights=weights).x for row in values]
    assert isotonic_fits(values, weights) == pytest.approx(np.array(expected))


def test_the_monotonicity_test_keeps_its_level_and_sees_a_fall() -> None:
    rng, rising = np.random.default_rng(1), np.linspace(0, 0.5, 10)
    p_values = [monotonicity_test(rising + 0.1 * rng.standard_normal(10), np.full(10, 0.01), rng).p_rising
                for _ in range(60)]  # fmt: skip
    assert np.mean(np.array(p_values) < 0.05) <= 0.1
    peaked = monotonicity_test(0.5 - np.abs(np.linspace(-0.5, 0.5, 10)), np.full(10, 0.01), rng)
    assert max(peaked) < 0.05
