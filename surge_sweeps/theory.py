"""Formulas of the optimal learning rate (LR) against the batch size B, with their equation numbers and limits.

"eq n" is equation n of Li et al. 2024, "Surge Phenomenon in Optimal Learning Rate and Batch Size Scaling"
(arXiv 2405.14578); the SGD forms are those of McCandlish et al. 2018 (arXiv 1812.06162); the mean-field family with a
plateau follows J. Su (kexue.fm 10542, 11280). Notation: per-example gradient coordinate i ~ Normal(mean_i, sd_i**2),
H the Hessian, T = tr H, B in the unit of the runs. All formulas are second order in the LR, for one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, erfinv

FloatArray = NDArray[np.float64]


class OptimalStep(NamedTuple):
    """The best LR of one step and the loss decrease it brings; arrays over B where B is an array."""

    lr: FloatArray
    decrease: FloatArray


class SgdScales(NamedTuple):
    """The two numbers of the SGD law: `eps_max` (LR at infinite batch size) and `b_noise`."""

    eps_max: float
    b_noise: float


class SignScales(NamedTuple):
    """The numbers of the sign law at small B: peak LR, B_noise = B_peak and the largest loss decrease."""

    eps_max: float
    b_noise: float
    decrease_max: float


def optimal_step(
    gradient: ArrayLike, hessian: ArrayLike, update_mean: ArrayLike, update_covariance: ArrayLike
) -> OptimalStep:
    """Best LR for any random update direction V (eq 6, 7, 30, 31).

    eps = G.E[V] / (tr[H cov V] + E[V].H E[V]), decrease = eps G.E[V] / 2. Valid where the quadratic expansion of the
    loss is. Shapes: (d,), (d, d), (d,), (d, d).

    Raises:
        ValueError: the denominator is not positive, so that the expansion has no minimum.

    >>> optimal_step([2.0], [[4.0]], [2.0], [[0.0]])
    OptimalStep(lr=array(0.25), decrease=array(0.5))
    """
    h, mean = np.asarray(hessian, float), np.asarray(update_mean, float)
    slope = np.asarray(gradient, float) @ mean
    curvature = np.sum(h * np.asarray(update_covariance, float)) + mean @ h @ mean
    return _vertex(np.asarray(slope), np.asarray(curvature))


def loss_decrease(lr: ArrayLike, optimum: OptimalStep) -> FloatArray:
    """Loss decrease of one step at any LR: a parabola in the LR itself, zero at twice the optimum (from eq 30).

    >>> loss_decrease([0.5, 1.0, 2.0], OptimalStep(np.array(1.0), np.array(4.0)))
    array([3., 4., 0.])
    """
    ratio = np.asarray(lr, float) / optimum.lr
    return np.asarray(optimum.decrease * ratio * (2 - ratio))


def _vertex(slope: FloatArray, curvature: FloatArray) -> OptimalStep:
    if np.any(curvature <= 0):
        raise ValueError("the expected curvature along the update is not positive: no optimal learning rate")
    return OptimalStep(np.asarray(slope / curvature), np.asarray(slope**2 / curvature / 2))


# --- SGD -----------------------------------------------------------------------------------------------------------


def sgd_scales(gradient: ArrayLike, hessian: ArrayLike, covariance: ArrayLike) -> SgdScales:
    """SGD: eps_max = |G|^2 / G.H G and B_noise = tr(H Sigma) / G.H G (eq 1, 3); needs G.H G > 0.

    >>> sgd_scales([1.0, 0.0], np.eye(2), 3 * np.eye(2))
    SgdScales(eps_max=1.0, b_noise=6.0)
    """
    g, h = np.asarray(gradient, float), np.asarray(hessian, float)
    curvature = float(g @ h @ g)
    if curvature <= 0:
        raise ValueError("the curvature along the gradient is not positive: no optimal learning rate")
    return SgdScales(float(g @ g) / curvature, float(np.sum(h * np.asarray(covariance, float))) / curvature)


def sgd_lr(batch_size: ArrayLike, eps_max: ArrayLike, b_noise: ArrayLike, alpha: float = 1.0) -> FloatArray:
    """eps_max / (1 + B_noise/B)**alpha (eq 1, 12): alpha 1 for SGD; 0.5 is the usual form for Adam. All B.

    >>> sgd_lr([10.0, 1e9], 1.0, 10.0).round(3)
    array([0.5, 1. ])
    """
    return np.asarray(eps_max / (1 + np.asarray(b_noise, float) / np.asarray(batch_size, float)) ** alpha)


def decrease_per_step(batch_size: ArrayLike, decrease_max: ArrayLike, scale: ArrayLike) -> FloatArray:
    """Loss decrease of one step at the optimal LR, decrease_max / (1 + scale/B): it never falls with B.

    SGD: scale = B_noise (eq 3), all B. Sign update: scale = B_noise of eq 14, small B (eq 18). Mean field:
    scale = B_crit = B_s / (1 + kappa), all B.

    >>> decrease_per_step([5.0, 15.0], 1.0, 5.0)
    array([0.5 , 0.75])
    """
    return np.asarray(decrease_max / (1 + np.asarray(scale, float) / np.asarray(batch_size, float)))


# --- Sign update ---------------------------------------------------------------------------------------------------


def sign_mean(batch_size: ArrayLike, mean: ArrayLike, sd: ArrayLike, *, exact: bool = True) -> FloatArray:
    """E[sign of the batch gradient], (..., d): erf(sqrt(B/2) mean/sd) (eq 33), or its algebraic stand-in.

    The algebraic form r / sqrt(pi/(2B) + r^2), r = mean/sd, has the right slope at 0 and limit, and lies below erf
    in between: half-decrease batch sizes computed with it come out up to 1.5 times too large.

    >>> sign_mean([1.0], [1.0], [1.0]).round(4), sign_mean([1.0], [1.0], [1.0], exact=False).round(4)
    (array([[0.6827]]), array([[0.6237]]))
    """
    b = np.asarray(batch_size, float)[..., None]
    ratio = np.asarray(mean, float) / np.asarray(sd, float)
    if exact:
        return np.asarray(erf(np.sqrt(b / 2) * ratio))
    return np.asarray(ratio / np.sqrt(np.pi / (2 * b) + ratio**2))


def sign_optimal_step(
    batch_size: ArrayLike, mean: ArrayLike, sd: ArrayLike, hessian: ArrayLike, *, exact: bool = True
) -> OptimalStep:
    """Best LR of the update sign(batch gradient) (eq 9, 10).

    With E = `sign_mean`, eps = E.G / (T + sum over i != j of E_i E_j H_ij); the diagonal terms cancel exactly.
    Assumes that the coordinates of the batch gradient are independent, which real networks break: there the formula
    predicts surges that a single step does not show. Shapes: B (...), (d,), (d,), (d, d).

    Raises:
        ValueError: the denominator is not positive at some B.

    >>> sign_optimal_step([1e9], [1.0, -1.0], [1.0, 1.0], np.eye(2)).lr
    array([1.])
    """
    h, e = np.asarray(hessian, float), sign_mean(batch_size, mean, sd, exact=exact)
    off_diagonal = h - np.diag(np.diag(h))
    curvature = np.trace(h) + np.einsum("...i,ij,...j->...", e, off_diagonal, e)
    return _vertex(e @ np.asarray(mean, float), np.asarray(curvature))


def sign_scales(mean: ArrayLike, sd: ArrayLike, hessian: ArrayLike) -> SignScales:
    """Peak LR (eq 16), B_noise = B_peak (eq 14, 15) and largest decrease (eq 19) of the sign law at small B.

    Valid for B << pi sd_i^2 / (2 mean_i^2) for every i. With Q = sum over i != j of mean_i mean_j H_ij/(sd_i sd_j)
    and M = sum of mean_i^2/sd_i: B_noise = pi T/(2 Q), eps_max = M / (2 sqrt(Q T)), decrease_max = M^2/(2 Q).

    Raises:
        ValueError: T or Q is not positive; then this regime has no B_noise and no surge.

    >>> [round(value, 4) for value in sign_scales([0.1, 0.1], [1.0, 1.0], [[1.0, 0.5], [0.5, 1.0]])]
    [0.0707, 314.1593, 0.02]
    """
    mu, sigma, h = np.asarray(mean, float), np.asarray(sd, float), np.asarray(hessian, float)
    ratio, trace = mu / sigma, float(np.trace(h))
    q = float(ratio @ (h - np.diag(np.diag(h))) @ ratio)
    if trace <= 0 or q <= 0:
        raise ValueError("tr H and the off-diagonal sum Q must be positive: there is no B_noise otherwise")
    m = float(np.sum(mu * ratio))
    return SignScales(m / (2 * math.sqrt(q * trace)), math.pi * trace / (2 * q), m**2 / (2 * q))


def surge_lr(batch_size: ArrayLike, eps_max: ArrayLike, b_noise: ArrayLike) -> FloatArray:
    """eps_max / (sqrt(B_noise/B)/2 + sqrt(B/B_noise)/2) (eq 13): rises as sqrt(B), peaks at B_noise, then falls.

    Valid for small B only; at large B the true curve levels off (eq 17) where this one goes to zero.

    >>> surge_lr([16.0, 64.0, 256.0], 1.0, 64.0)
    array([0.8, 1. , 0.8])
    """
    root = np.sqrt(np.asarray(batch_size, float) / np.asarray(b_noise, float))
    return np.asarray(2 * np.asarray(eps_max, float) / (1 / root + root))


def plateau_lr(mean: ArrayLike, hessian: ArrayLike) -> float:
    """Best LR of the sign update as B goes to infinity, |G|_1 / (s.H s) with s = sign(G) (eq 17, 42).

    Needs every mean_i != 0 and s.H s > 0.

    >>> plateau_lr([1.0, -2.0], np.eye(2))
    1.5
    """
    mu, s = np.asarray(mean, float), np.sign(np.asarray(mean, float))
    curvature = float(s @ np.asarray(hessian, float) @ s)
    if curvature <= 0 or not np.all(s):
        raise ValueError("the plateau needs non-zero mean gradients and positive curvature along their signs")
    return float(np.sum(np.abs(mu))) / curvature


# --- Mean field: one signal-to-noise ratio for all coordinates -----------------------------------------------------


def mean_field_scales(mean: ArrayLike, hessian: ArrayLike, ratio: float) -> dict[str, float]:
    """Parameters of `mean_field_lr` when every |mean_i|/sd_i equals `ratio`.

    a = |G|_1/T, b_s = pi/(2 ratio^2), kappa = sum over i != j of s_i s_j H_ij / T (above -1 for positive H).

    >>> mean_field_scales([1.0, 1.0], [[1.0, 0.5], [0.5, 1.0]], 1.0)["kappa"]
    0.5
    """
    mu, h = np.asarray(mean, float), np.asarray(hessian, float)
    trace, s = float(np.trace(h)), np.sign(mu)
    if trace <= 0:
        raise ValueError("tr H must be positive")
    kappa = (float(s @ h @ s) - float(np.sum(np.diag(h) * s**2))) / trace
    return {"a": float(np.sum(np.abs(mu))) / trace, "b_s": math.pi / (2 * ratio**2), "kappa": kappa}


def mean_field_lr(
    batch_size: ArrayLike, a: ArrayLike, b_s: ArrayLike, kappa: ArrayLike, *, exact: bool = False
) -> FloatArray:
    """a f / (1 + kappa f^2) with f^2 = B/(B + b_s), or f = erf(sqrt(pi B/(4 b_s))) when `exact`. All B, kappa > -1.

    kappa > 1: rises, peaks, falls to the plateau a/(1 + kappa). kappa <= 1: rises and saturates; kappa = 0 is
    a / sqrt(1 + b_s/B). Exact for equal signal-to-noise ratios; unequal ones can also fall, then rise.

    >>> mean_field_lr([1.0, 8.0, 1e12], 1.0, 64.0, 9.0).round(4)
    array([0.1089, 0.1667, 0.1   ])
    """
    b, scale = np.asarray(batch_size, float), np.asarray(b_s, float)
    f = erf(np.sqrt(np.pi * b / (4 * scale))) if exact else np.sqrt(b / (b + scale))
    return np.asarray(a * f / (1 + np.asarray(kappa, float) * f**2))


def mean_field_peak(b_s: float, kappa: float, *, exact: bool = False) -> float | None:
    """B_peak: b_s/(kappa - 1), or (4 b_s/pi) erfinv(1/sqrt(kappa))^2 when `exact`; None for kappa <= 1 (no surge).

    >>> mean_field_peak(64.0, 9.0), mean_field_peak(64.0, 1.0)
    (8.0, None)
    """
    if kappa <= 1:
        return None
    return float(4 * b_s / np.pi * erfinv(kappa**-0.5) ** 2) if exact else b_s / (kappa - 1)


def peak_to_plateau(kappa: ArrayLike) -> FloatArray:
    """eps_peak / eps_inf = (1 + kappa) / (2 sqrt(kappa)) for kappa > 1, else 1.

    >>> peak_to_plateau([0.5, 1.0, 9.0]).round(3)
    array([1.   , 1.   , 1.667])
    """
    k = np.maximum(np.asarray(kappa, float), 1.0)
    return np.asarray((1 + k) / (2 * np.sqrt(k)))


def mean_field_critical_batch(b_s: float, kappa: float) -> float:
    """B_crit = b_s / (1 + kappa), where the decrease per step is half its largest; always below B_peak.

    >>> mean_field_critical_batch(100.0, 9.0)
    10.0
    """
    return b_s / (1 + kappa)


# --- Steps, examples and the level of the curve --------------------------------------------------------------------


def steps_to_target(batch_size: ArrayLike, s_min: ArrayLike, b_crit: ArrayLike) -> FloatArray:
    """S = S_min (1 + B_crit/B): eq 20 at constant B, where E = B S and B_crit = E_min/S_min.

    >>> steps_to_target([100.0], 50.0, 100.0)
    array([100.])
    """
    return np.asarray(s_min * (1 + np.asarray(b_crit, float) / np.asarray(batch_size, float)))


def examples_to_target(steps: ArrayLike, s_min: float, e_min: float) -> FloatArray:
    """E on the hyperbola (S/S_min - 1)(E/E_min - 1) = 1 (eq 20), infinite for S <= S_min.

    >>> examples_to_target([100.0, 50.0], 50.0, 5000.0)
    array([10000.,    inf])
    """
    s = np.asarray(steps, float)
    excess = s / s_min - 1
    return np.where(excess > 0, e_min * (1 + 1 / np.where(excess > 0, excess, 1.0)), np.inf)


def paper_critical_batch(batch_size: ArrayLike, steps: ArrayLike) -> float | None:
    """B_crit as the paper fits it: minus the slope of 1/S against 1/E, E = B S, by ordinary least squares (eq 22).

    For comparison only. 1/E holds the noise of 1/S, errors in both variables, which biases B_crit low: about -11% at
    20% noise in S. None where the slope is not negative or there are fewer than two batch sizes.

    >>> round(paper_critical_batch([10.0, 100.0, 1000.0], [550.0, 100.0, 55.0]), 6)
    100.0
    """
    # The slope does not depend on the scale of S, which is taken out so that its inverse squares are numbers.
    log_s = np.log(np.asarray(steps, float))
    s = np.exp(np.clip(log_s - log_s.mean(), -100.0, 100.0))
    x, y = 1 / (s * np.asarray(batch_size, float)), 1 / s
    spread = float(np.sum((x - x.mean()) ** 2))
    if spread <= 0:
        return None
    slope = float(np.sum((x - x.mean()) * y)) / spread
    return -slope if slope < 0 else None


def overhead_batch(b_crit: float, overhead: float, base: float = 0.0) -> float:
    """Batch size that takes a share `overhead` more examples than the batch size `base` does, on the hyperbola.

    From E = E_min (1 + B/B_crit) (eq 20): B = (1 + overhead) base + overhead B_crit. Equally, its steps exceed linear
    scaling from `base` by that share; H. Zhang et al. 2024 (arXiv 2410.21676) take 0.2 and a base of 256 sequences.
    `base` 0 is the limit of small batch sizes. All in the same batch unit; any B_crit >= 0.

    >>> round(overhead_batch(100.0, 0.2), 1), round(overhead_batch(100.0, 0.2, base=10.0), 1)
    (20.0, 32.0)
    """
    return (1 + overhead) * base + overhead * b_crit


def half_gain_batch(b_crit: float) -> float:
    """Batch size at which the loss decrease per optimal step is half its largest: B_crit itself under the hyperbola.

    From decrease = decrease_max / (1 + B_crit/B) (eq 18). Off the hyperbola the two part: with the exact erf of
    `sign_mean` the half-gain batch lies up to 1.5 times below B_s / (1 + kappa).

    >>> half_gain_batch(100.0), float(decrease_per_step(half_gain_batch(100.0), 1.0, 100.0))
    (100.0, 0.5)
    """
    return b_crit


def eps_max_estimate(
    batch_size: ArrayLike,
    lr: ArrayLike,
    b_noise: float,
    *,
    law: Literal["surge", "sgd"],
    alpha: float = 1.0,
    geometric: bool = False,
) -> float:
    """eps_max from optimal LRs when B_noise is known: the mean over B of eq 23 (`surge`) or eq 24 (`sgd`).

    `geometric` takes the mean of the logs, least squares in log LR; the arithmetic mean of the paper leans towards
    the large values.

    >>> eps_max_estimate([16.0, 64.0], [0.8, 1.0], 64.0, law="surge")
    1.0
    """
    shape = surge_lr(batch_size, 1.0, b_noise) if law == "surge" else sgd_lr(batch_size, 1.0, b_noise, alpha)
    values = np.asarray(lr, float) / shape
    return float(np.exp(np.mean(np.log(values))) if geometric else np.mean(values))


# --- The candidate laws --------------------------------------------------------------------------------------------

LawVerdict = Literal["surge", "saturation", "power", "sqrt", "linear", "constant"]


@dataclass(frozen=True)
class Law:
    """One candidate law of the optimal LR against B.

    Attributes:
        name: its key in `LAWS`. parameters: their names; the first multiplies the curve, the others shape it.
        verdict: the class it speaks for. evaluate: LR at `batch_size`, given the parameters by name; broadcasts.
        equation: the formula in words of one line, with its source.
    """

    name: str
    parameters: tuple[str, ...]
    verdict: LawVerdict
    evaluate: Callable[..., FloatArray]
    equation: str


def _power(batch_size: ArrayLike, a: ArrayLike, alpha: ArrayLike) -> FloatArray:
    return np.asarray(np.asarray(a, float) * np.asarray(batch_size, float) ** np.asarray(alpha, float))


def _constant(batch_size: ArrayLike, a: ArrayLike) -> FloatArray:
    return _power(batch_size, a, 0.0)


def _sqrt(batch_size: ArrayLike, a: ArrayLike) -> FloatArray:
    return _power(batch_size, a, 0.5)


def _linear(batch_size: ArrayLike, a: ArrayLike) -> FloatArray:
    return _power(batch_size, a, 1.0)


def _adam_saturation(batch_size: ArrayLike, a: ArrayLike, b_s: ArrayLike) -> FloatArray:
    return sgd_lr(batch_size, a, b_s, 0.5)


#: The candidate laws by name, the simplest first.
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law("constant", ("a",), "constant", _constant, "a"),
        Law("sqrt", ("a",), "sqrt", _sqrt, "a sqrt(B); eq 4, B << B_noise"),
        Law("linear", ("a",), "linear", _linear, "a B; eq 1, B << B_noise"),
        Law("power", ("a", "alpha"), "power", _power, "a B^alpha; empirical"),
        Law("sgd_saturation", ("eps_max", "b_noise"), "saturation", sgd_lr, "eps_max / (1 + b_noise/B); eq 1"),
        Law("adam_saturation", ("a", "b_s"), "saturation", _adam_saturation, "a / sqrt(1 + b_s/B); eq 12"),
        Law("surge", ("eps_max", "b_noise"), "surge", surge_lr,
            "2 eps_max / (sqrt(b_noise/B) + sqrt(B/b_noise)); eq 13"),
        Law("surge_plateau", ("a", "b_s", "kappa"), "surge", mean_field_lr,
            "a f / (1 + kappa f^2), f^2 = B/(B + b_s); eq 9 in mean field, a surge for kappa > 1"),
    )
}  # fmt: skip


def peak_batch_size(name: str, parameters: Mapping[str, float]) -> float | None:
    """B_peak of a fitted law: where its LR is largest, or None for a law that never falls.

    >>> peak_batch_size("surge", {"eps_max": 0.1, "b_noise": 64.0}), peak_batch_size("sqrt", {"a": 0.1})
    (64.0, None)
    """
    if name == "surge":
        return parameters["b_noise"]
    if name == "surge_plateau":
        return mean_field_peak(parameters["b_s"], parameters["kappa"])
    return None
