"""The formulas against numbers found in other ways: simulation, minimisation of the loss itself, limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from surge_sweeps import theory

D, MEAN, B_S = 40, 0.05, 628.3185
SIGNS = np.where(np.arange(D) % 3 == 0, -1.0, 1.0)


def hessian(kappa: float, trace: float = 52.0) -> NDArray[np.float64]:
    """Diagonal of unequal entries plus a multiple of s s^T, with a given trace and sign-curvature ratio."""
    off = kappa * trace / (D * (D - 1))
    spread = np.linspace(0.5, 1.5, D)
    return np.diag(spread * (trace - D * off) / spread.sum()) + off * np.outer(SIGNS, SIGNS)


def exact(batch_size: object, kappa: float) -> theory.OptimalStep:
    return theory.sign_optimal_step(np.asarray(batch_size, float), MEAN * SIGNS, np.ones(D), hessian(kappa))


def half_decrease_batch(kappa: float) -> float:
    largest = float(exact(1e9, kappa).decrease)
    return float(brentq(lambda b: float(exact(b, kappa).decrease) - largest / 2, 1, 1e5))


def test_the_strong_surge_of_the_sign_law_has_its_known_peak_plateau_and_half_gain_batch() -> None:
    kappa = 8.988
    found = minimize_scalar(lambda x: -float(exact(np.exp(x), kappa).lr), bounds=(0, 10), method="bounded")
    plateau = theory.plateau_lr(MEAN * SIGNS, hessian(kappa))

    assert theory.mean_field_scales(MEAN * SIGNS, hessian(kappa), MEAN)["kappa"] == pytest.approx(kappa)
    assert theory.mean_field_scales(MEAN * SIGNS, hessian(kappa), MEAN)["b_s"] == pytest.approx(B_S)
    assert theory.sign_scales(MEAN * SIGNS, np.ones(D), hessian(kappa)).b_noise == pytest.approx(
        69.91, rel=0.01
    )
    assert np.exp(found.x) == pytest.approx(74.34, rel=0.01)
    assert theory.mean_field_peak(B_S, kappa, exact=True) == pytest.approx(74.32, rel=0.01)
    assert theory.mean_field_peak(B_S, kappa) == pytest.approx(78.66, rel=0.01)
    assert -found.fun / plateau == pytest.approx(1.6657, rel=0.01)
    assert theory.peak_to_plateau(kappa) == pytest.approx(1.6657, rel=0.01)
    assert half_decrease_batch(kappa) == pytest.approx(60.08, rel=0.01)
    assert theory.mean_field_critical_batch(B_S, kappa) == pytest.approx(62.91, rel=0.01)


@pytest.mark.parametrize(
    ("kappa", "b_noise", "half", "mean_field"),
    [(0.728, 863.0, 290.0, 364.0), (-0.227, None, 532.0, 813.0), (0.0, None, 443.0, 628.0)],
)
def test_without_strong_alignment_the_sign_law_never_falls(
    kappa: float, b_noise: float | None, half: float, mean_field: float
) -> None:
    assert np.all(np.diff(exact(np.geomspace(1, 1e6, 200), kappa).lr) > -1e-12)
    assert half_decrease_batch(kappa) == pytest.approx(half, rel=0.01)
    assert theory.mean_field_critical_batch(B_S, kappa) == pytest.approx(mean_field, rel=0.01)
    assert theory.mean_field_peak(B_S, kappa) is None
    if b_noise is None:
        with pytest.raises(ValueError, match="no B_noise"):
            theory.sign_scales(MEAN * SIGNS, np.ones(D), hessian(kappa))
    else:
        assert theory.sign_scales(MEAN * SIGNS, np.ones(D), hessian(kappa)).b_noise == pytest.approx(
            b_noise, rel=0.01
        )


@pytest.mark.parametrize("batch_size", [1, 64, 1024])
def test_the_exact_sign_law_agrees_with_sampled_sign_vectors_and_with_minimising_the_loss(
    batch_size: int,
) -> None:
    rng, h, mean = np.random.default_rng(5), hessian(8.988), MEAN * SIGNS
    updates = np.sign(mean + rng.standard_normal((40_000, D)) / np.sqrt(batch_size))
    slope = updates @ mean
    curvature = np.einsum("ki,ij,kj->k", updates, h, updates)
    sampled = slope.mean() / curvature.mean()
    error = slope.std() / np.sqrt(40_000) / curvature.mean()
    step = exact(batch_size, 8.988)
    assert abs(float(step.lr) - sampled) < 4 * error + 0.005 * sampled

    grid = np.linspace(0, 4 * sampled, 20_001)
    losses = -grid * slope.mean() + 0.5 * grid**2 * curvature.mean()
    assert grid[np.argmin(losses)] == pytest.approx(sampled, rel=1e-3)
    assert float(step.decrease) == pytest.approx(-losses.min(), rel=0.05)


def test_the_law_for_small_batches_loses_the_plateau() -> None:
    scales = theory.sign_scales(MEAN * SIGNS, np.ones(D), hessian(8.988))
    ratio = (
        theory.surge_lr([1.0, 1024.0, 8192.0], scales.eps_max, scales.b_noise)
        / exact([1, 1024, 8192], 8.988).lr
    )
    assert ratio == pytest.approx([1.0, 0.74, 0.31], abs=0.01)


def test_lemma_one_and_the_sign_law_are_the_same_thing() -> None:
    e = theory.sign_mean([64.0], MEAN * SIGNS, np.ones(D))[0]
    lemma = theory.optimal_step(MEAN * SIGNS, hessian(3.0), e, np.diag(1 - e**2))
    assert lemma.lr == pytest.approx(exact(64, 3.0).lr)
    assert lemma.decrease == pytest.approx(exact(64, 3.0).decrease)


def test_small_and_large_batches_have_the_stated_limits() -> None:
    b = np.array([1e-6, 2e-6])
    scales = theory.sign_scales(MEAN * SIGNS, np.ones(D), hessian(4.0))
    small = 2 * scales.eps_max * np.sqrt(b / scales.b_noise)
    assert exact(b, 4.0).lr == pytest.approx(small, rel=1e-3)
    assert theory.surge_lr(b, scales.eps_max, scales.b_noise) == pytest.approx(small, rel=1e-3)
    assert exact(1e9, 4.0).lr == pytest.approx(theory.plateau_lr(MEAN * SIGNS, hessian(4.0)))
    assert theory.sgd_lr(b, 0.1, 100.0) == pytest.approx(0.1 * b / 100, rel=1e-6)
    assert theory.mean_field_lr(1e12, 2.0, 100.0, 4.0) == pytest.approx(0.4)
    assert theory.mean_field_lr(50.0, 2.0, 100.0, 0.0) == pytest.approx(theory.sgd_lr(50.0, 2.0, 100.0, 0.5))
    assert theory.decrease_per_step(1.0, scales.decrease_max, scales.b_noise) == pytest.approx(
        float(exact(1.0, 4.0).decrease), rel=0.01
    )


def test_sgd_scales_are_the_optimum_of_lemma_one() -> None:
    rng = np.random.default_rng(2)
    root = rng.standard_normal((6, 6))
    h, sigma, g = root @ root.T + np.eye(6), np.diag(rng.uniform(1, 5, 6)), rng.standard_normal(6)
    scales = theory.sgd_scales(g, h, sigma)
    for b in (1.0, 30.0, 1e4):
        assert theory.sgd_lr(b, *scales) == pytest.approx(theory.optimal_step(g, h, g, sigma / b).lr)


def test_steps_and_examples_lie_on_the_hyperbola() -> None:
    steps = theory.steps_to_target([10.0, 100.0, 1000.0], 50.0, 100.0)
    assert theory.examples_to_target(steps, 50.0, 5000.0) == pytest.approx(steps * [10.0, 100.0, 1000.0])


@pytest.mark.parametrize("law", ["surge", "sgd"])
@pytest.mark.parametrize("geometric", [False, True])
def test_eps_max_comes_back_from_its_own_curve(law: str, geometric: bool) -> None:
    b = np.array([4.0, 64.0, 512.0])
    lr = theory.surge_lr(b, 0.02, 80.0) if law == "surge" else theory.sgd_lr(b, 0.02, 80.0)
    assert theory.eps_max_estimate(b, lr, 80.0, law=law, geometric=geometric) == pytest.approx(0.02)


positive = st.floats(1e-3, 1e3)


@given(a=positive, b_s=st.floats(1.0, 1e5), kappa=st.floats(-0.9, 100.0), exact_form=st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_peak_dominates_every_batch_size(a: float, b_s: float, kappa: float, exact_form: bool) -> None:
    b = np.geomspace(b_s * 1e-5, b_s * 1e5, 301)
    lr = theory.mean_field_lr(b, a, b_s, kappa, exact=exact_form)
    peak = theory.mean_field_peak(b_s, kappa, exact=exact_form)
    if peak is None:
        assert np.all(np.diff(lr) >= -1e-12 * a)
    else:
        top = float(theory.mean_field_lr(peak, a, b_s, kappa, exact=exact_form))
        assert lr.max() <= top * (1 + 1e-9)
        assert top == pytest.approx(a / (2 * kappa**0.5), rel=1e-6)
        assert top / (a / (1 + kappa)) == pytest.approx(float(theory.peak_to_plateau(kappa)), rel=1e-6)


@given(seed=st.integers(0, 10_000), d=st.integers(1, 8), factor=st.floats(0.0, 3.0))
@settings(max_examples=80, deadline=None)
def test_no_learning_rate_beats_the_optimal_step(seed: int, d: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    root, g, mean = rng.standard_normal((d, d)), rng.standard_normal(d), rng.standard_normal(d)
    h, cov = root @ root.T + 0.1 * np.eye(d), np.diag(rng.uniform(0, 2, d))
    best = theory.optimal_step(g, h, mean, cov)
    lr = factor * float(best.lr)
    by_hand = lr * g @ mean - 0.5 * lr**2 * (np.trace(h @ cov) + mean @ h @ mean)
    assert float(theory.loss_decrease(lr, best)) == pytest.approx(by_hand, rel=1e-6, abs=1e-9)
    assert by_hand <= float(best.decrease) + 1e-9


@given(
    name=st.sampled_from(sorted(theory.LAWS)),
    level=positive,
    scale=st.floats(1.0, 1e4),
    kappa=st.floats(-0.9, 50.0),
)
@settings(max_examples=80, deadline=None)
def test_every_law_is_its_level_times_a_positive_curve_with_its_peak_where_it_says(
    name: str, level: float, scale: float, kappa: float
) -> None:
    law = theory.LAWS[name]
    values = {"alpha": kappa / 50, "kappa": kappa}
    parameters = {p: (level if i == 0 else values.get(p, scale)) for i, p in enumerate(law.parameters)}
    b = np.geomspace(1e-3, 1e8, 400)
    lr = np.broadcast_to(law.evaluate(b, **parameters), b.shape)
    doubled = law.evaluate(b, **{**parameters, law.parameters[0]: 2 * level})
    assert np.all(lr > 0)
    assert np.broadcast_to(doubled, b.shape) == pytest.approx(2 * lr)
    peak = theory.peak_batch_size(name, parameters)
    if peak is not None:
        assert float(law.evaluate(peak, **parameters)) >= lr.max() * (1 - 1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.optimal_step([1.0], [[-1.0]], [1.0], [[0.0]]),
        lambda: theory.sgd_scales([1.0], [[-1.0]], [[1.0]]),
        lambda: theory.plateau_lr([0.0, 1.0], np.eye(2)),
        lambda: theory.mean_field_scales([1.0], [[-1.0]], 1.0),
    ],
)
def test_a_surface_without_an_optimum_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"positive|non-zero"):
        call()


@given(b_crit=positive, base=st.floats(0.0, 1e4), overhead=st.floats(0.0, 2.0))
@settings(max_examples=80, deadline=None)
def test_the_overhead_batch_takes_that_share_more_examples_than_its_base(
    b_crit: float, base: float, overhead: float
) -> None:
    b = theory.overhead_batch(b_crit, overhead, base)
    assert 1 + b / b_crit == pytest.approx((1 + overhead) * (1 + base / b_crit))


@pytest.mark.parametrize(("a", "b", "expected"), [(1293.8, 2.834e6, 745), (2095.3, 1.1383e7, 1394)])
def test_the_overhead_batch_is_the_published_critical_batch_size(a: float, b: float, expected: float) -> None:
    # H. Zhang et al. 2024 (arXiv 2410.21676), 85M and 302M models: S = a + b/B, base 256 sequences.
    assert theory.overhead_batch(b / a, 0.2, base=256.0) == pytest.approx(expected, abs=1)


def test_half_the_largest_gain_is_had_at_the_half_gain_batch() -> None:
    assert theory.decrease_per_step(theory.half_gain_batch(60.0), 3.0, 60.0) == pytest.approx(1.5)


def test_the_papers_linear_fit_is_exact_without_noise_and_refuses_a_rising_line() -> None:
    b = np.array([4.0, 32.0, 256.0])
    assert theory.paper_critical_batch(b, theory.steps_to_target(b, 20.0, 50.0)) == pytest.approx(50.0)
    assert theory.paper_critical_batch(b, [10.0, 9.0, 100.0]) is None
    assert theory.paper_critical_batch([8.0], [10.0]) is None
