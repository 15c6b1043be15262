"""The exact sign-descent quadratic: its published numbers, and the same numbers from sampled gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surge_sweeps import theory
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate import Grid, SignQuadratic, simulate_training

Case = Literal["surge", "weak", "anti_aligned", "diagonal"]
MANY = np.geomspace(0.1, 1e7, 400)


@pytest.mark.parametrize("drawn", [False, True], ids=["even", "drawn"])
def test_the_reference_surge_has_its_known_numbers(drawn: bool) -> None:
    truth = SignQuadratic.reference("surge", np.random.default_rng(11) if drawn else None)
    peak = truth.peak()
    assert peak == pytest.approx(74.34, rel=0.01)
    assert float(truth.optimal_lr(peak)) == pytest.approx(0.006406, rel=0.01)
    assert truth.plateau_lr() == pytest.approx(0.003846, rel=0.01)
    assert float(truth.optimal_lr(peak)) / truth.plateau_lr() == pytest.approx(1.6657, rel=0.01)
    assert float(truth.critical_batch(truth.start_loss)) == pytest.approx(60.08, rel=0.01)
    assert float(truth.overhead(60.08)) == pytest.approx(2.0, rel=0.01)
    assert truth.second_rise() is None
    assert np.diag(truth.hessian).min() > 0.5


@pytest.mark.parametrize(
    ("case", "kappa", "half"), [("weak", 0.728, 290), ("anti_aligned", -0.227, 532), ("diagonal", 0.0, 443)]
)
def test_the_other_references_never_fall(case: Case, kappa: float, half: float) -> None:
    for rng in (None, np.random.default_rng(5)):
        truth = SignQuadratic.reference(case, rng)
        assert theory.mean_field_scales(truth.mean, truth.hessian, 0.05)["kappa"] == pytest.approx(
            kappa, abs=1e-9
        )
        assert truth.peak() is None
        assert truth.second_rise() is None
        assert np.all(np.diff(truth.optimal_lr(MANY)) >= -1e-15)
        assert float(truth.critical_batch(truth.start_loss)) == pytest.approx(half, rel=0.01)


@pytest.mark.parametrize("case", ["surge", "anti_aligned"])
def test_sampled_sign_vectors_have_the_same_optimum(case: Case) -> None:
    truth, rng, count = SignQuadratic.reference(case), np.random.default_rng(2), 20_000
    for batch_size in (2, 75, 3000):
        gradients = truth.mean + truth.sd * rng.standard_normal((count, 40)) / np.sqrt(batch_size)
        updates = np.sign(gradients)
        slope, curvature = updates @ truth.mean, np.einsum("ki,ij,kj->k", updates, truth.hessian, updates)
        lr, best = slope.mean() / curvature.mean(), truth.optimal_step(batch_size)
        error = np.std(slope / slope.mean() - curvature / curvature.mean()) / np.sqrt(count)
        assert abs(np.log(lr / float(best.lr))) < 4 * error

        # Lemma 1: the mean loss over the same draws is a parabola in the LR itself.
        for ratio in (0.5, 1.0, 1.5, 2.0):
            u = ratio * float(best.lr)
            gains = u * slope - u**2 * curvature / 2
            assert abs(gains.mean() - float(truth.decrease(batch_size, u))) < 4 * gains.std() / np.sqrt(count)


def test_gradients_of_a_batch_averaged_one_by_one_give_the_same_optimum() -> None:
    truth, rng, batch_size, count = SignQuadratic.reference("surge"), np.random.default_rng(4), 64, 2000
    examples = truth.mean + truth.sd * rng.standard_normal((count, batch_size, 40))
    updates = np.sign(examples.mean(axis=1))
    curvature = np.einsum("ki,ij,kj->k", updates, truth.hessian, updates)
    assert (updates @ truth.mean).mean() / curvature.mean() == pytest.approx(
        float(truth.optimal_lr(batch_size)), rel=0.08
    )


@settings(max_examples=25, deadline=None)
@given(kappa=st.floats(1.3, 30.0), log_b_s=st.floats(2.0, 12.0), seed=st.integers(0, 9))
def test_aligned_curvature_peaks_where_the_mean_field_says(kappa: float, log_b_s: float, seed: int) -> None:
    b_s = float(np.exp(log_b_s))
    truth = SignQuadratic.aligned(kappa, b_s=b_s, rng=np.random.default_rng(seed))
    assert truth.peak() == pytest.approx(theory.mean_field_peak(b_s, kappa, exact=True), rel=1e-3)
    ratio = float(truth.optimal_lr(truth.peak() or 0.0)) / truth.plateau_lr()
    assert ratio == pytest.approx(float(theory.peak_to_plateau(kappa)), rel=1e-6)


def test_two_signal_to_noise_ratios_make_a_fall_and_a_second_rise() -> None:
    truth = SignQuadratic.two_groups()
    peak, rise = truth.peak(), truth.second_rise()
    assert peak is not None
    assert rise is not None
    top, bottom = float(truth.optimal_lr(peak)), float(truth.optimal_lr(rise))
    assert peak < 1000 < rise < 10_000
    assert bottom < 0.8 * top < top < truth.plateau_lr()
    turns = np.flatnonzero(np.diff(np.sign(np.diff(truth.optimal_lr(np.geomspace(1, 1e8, 300))))))
    assert turns.size == 2
    assert truth.plateau_lr() == pytest.approx(theory.plateau_lr(truth.mean, truth.hessian))
    assert SignQuadratic.two_groups(spread=1.0).second_rise() is None


def test_noise_that_grows_as_the_loss_falls_moves_peak_and_critical_batch() -> None:
    truth = replace(SignQuadratic.reference("surge"), peak_drift=2.0)
    start = truth.start_loss
    peak = truth.peak()
    assert truth.peak(start / 2) == pytest.approx(4 * (peak or 0.0))
    noisier = SignQuadratic(truth.mean, truth.sd * 2, truth.hessian)
    assert truth.optimal_lr(MANY, start / 2) == pytest.approx(noisier.optimal_lr(MANY))
    assert truth.critical_batch([start, start / 2]) == pytest.approx(
        [float(truth.critical_batch(start)), float(noisier.critical_batch(start))]
    )
    losses = np.array([2.0, 1.0])
    assert truth.optimal_lr(64, losses).shape == (2,)
    assert truth.steps(64, losses)[1] == pytest.approx(20 * 1.3 * float(truth.overhead(64, 1.0)))


def test_a_drifting_quadratic_trains_to_the_steps_it_promises() -> None:
    truth = replace(SignQuadratic.aligned(5.0, b_s=200.0), peak_drift=1.0)
    curves = simulate_training(
        truth, Grid([16], [0.5 * float(truth.optimal_lr(16))], 2), np.random.default_rng(0), max_steps=4000
    )
    assert set(curves.runs["status"]) <= {"finished", "capped"}
    assert curves.points["loss"].min() < 0.5


def test_impossible_quadratics_are_refused() -> None:
    one, two = np.ones(1), np.eye(2)
    with pytest.raises(UnknownNameError, match="anti_aligned"):
        SignQuadratic.reference("srge")  # type: ignore[arg-type]
    for mean, sd, hessian, why in (
        (one, one, two, "do not fit"),
        (one, -one, np.eye(1), "must be positive"),
        (0 * one, one, np.eye(1), "must not be zero"),
        (np.ones(2), np.ones(2), np.diag([1.0, -1.0]), "semi-definite"),
        (np.array([np.nan]), one, np.eye(1), "finite"),
    ):
        with pytest.raises(SurgeError, match=why):
            SignQuadratic(mean, sd, hessian)
    for kappa, b_s in ((-0.5, 100.0), (39.0, 100.0), (2.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(SurgeError, match="no such quadratic"):
            SignQuadratic.aligned(kappa, b_s=b_s)
    with pytest.raises(SurgeError, match="no two groups"):
        SignQuadratic.two_groups(spread=0.5)
