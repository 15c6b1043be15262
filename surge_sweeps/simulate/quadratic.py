"""The exact one-step theory of the sign update on a quadratic loss, as a truth for whole sweeps.

Optimal LR and one-step decrease are those of Theorem 2 of Li et al. 2024 (arXiv 2405.14578, eq 9, 10) with the exact
error function; no law of `theory.LAWS` is exactly true here. Coordinates may differ in their signal-to-noise ratio, and
then the optimal LR can fall and rise again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate.basins import Basin, BasinName, basin_of
from surge_sweeps.simulate.grid import BoolArray, FloatArray
from surge_sweeps.simulate.turns import TurnFinder, first_maximum, minimum_after_maximum
from surge_sweeps.theory import OptimalStep, loss_decrease, sign_optimal_step

#: Batch size at which every coordinate's sign is certain.
_INFINITE = 1e300

#: The reference cases: kappa, curvature off the diagonal, and whether its direction is that of the gradient's signs.
_REFERENCES: dict[str, tuple[float, float, bool]] = {
    "surge": (8.988, 0.3, True),
    "weak": (0.728, 0.02, True),
    "anti_aligned": (-0.227, 0.3, False),
    "diagonal": (0.0, 0.0, True),
}


@dataclass(frozen=True, eq=False)
class SignQuadratic:
    """Sign descent on a quadratic loss with independent normal gradient noise.

    eps(B) = E.mean / (tr H + sum over i != j of E_i E_j H_ij) with E_i = erf(sqrt(B/2) mean_i / sd_i); the gain of one
    step is an exact parabola in the LR. Training over many steps takes the one-step theory at every loss, with the
    noise growing as the loss falls if `peak_drift` says so. `dataclasses.replace` changes the fields that a constructor
    leaves at their defaults.

    Attributes:
        mean, sd: (d,) mean and standard deviation of the per-example gradient coordinates. hessian: (d, d).
        start_loss: the loss at step 0.
        peak_drift: exponent b; at loss L the variance of the noise is (start_loss / L)**b times `sd`**2, so that
            B_peak and B_crit grow as L**(-b).
        steps_scale, steps_exponent: S_min(L) = steps_scale ((start_loss / L)**steps_exponent - 1).
        basin: the exact `parabola`, or another, as several steps would make it.
        diverge_ratio: a run with LR / optimal LR at or above this diverges.

    Raises:
        SurgeError: shapes do not fit, `sd` is not positive, `mean` is zero throughout, or `hessian` is not positive
            semi-definite with a positive trace.
    """

    mean: FloatArray
    sd: FloatArray
    hessian: FloatArray
    start_loss: float = 2.3
    peak_drift: float = 0.0
    steps_scale: float = 20.0
    steps_exponent: float = 1.0
    basin: BasinName | Basin = "parabola"
    diverge_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("mean", "sd", "hessian"):
            value = np.array(getattr(self, name), dtype=float)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        _check(self.mean, self.sd, self.hessian)
        basin_of(self.basin)

    @classmethod
    def reference(
        cls,
        case: Literal["surge", "weak", "anti_aligned", "diagonal"],
        rng: np.random.Generator | None = None,
    ) -> Self:
        """40 coordinates of mean 0.05 and sd 1 (B_s = 628.3), H = diag(U[0.5, 1.5]) + off v v^T.

        `surge`: off 0.3, v = the signs of the mean, kappa 8.988: B_peak 74.3, B_crit 60.1, peak over plateau 1.666.
        `weak`: off 0.02, kappa 0.728. `anti_aligned`: off 0.3, v orthogonal to the signs, kappa -0.227. `diagonal`:
        off 0. The last three never fall. The diagonal, drawn with `rng` (without it: evenly spaced), is scaled by a few
        percent so that kappa is as stated.

        >>> truth = SignQuadratic.reference("surge")
        >>> round(truth.peak(), 1), round(float(truth.critical_batch(truth.start_loss)), 1)
        (74.3, 60.1)
        """
        if case not in _REFERENCES:
            raise UnknownNameError("reference quadratic", case, _REFERENCES)
        kappa, off, aligned = _REFERENCES[case]
        dimension = 40
        signs = _signs(dimension)
        direction = signs if aligned else signs * np.where(np.arange(dimension) % 2, 1.0, -1.0)
        # kappa = (s.off v v^T.s - off d) / T fixes the trace T; without curvature off the diagonal any T will do.
        excess = off * (float(signs @ direction) ** 2 - dimension)
        diagonal = _diagonal(dimension, rng)
        if kappa != 0:
            diagonal *= (excess / kappa - off * dimension) / diagonal.sum()
        hessian = np.diag(diagonal) + off * np.outer(direction, direction)
        return cls(0.05 * signs, np.ones(dimension), hessian)

    @classmethod
    def aligned(
        cls,
        kappa: float,
        *,
        b_s: float = 628.3,
        dimension: int = 40,
        rng: np.random.Generator | None = None,
    ) -> Self:
        """Coordinates of equal signal-to-noise ratio, all curvature off the diagonal along the gradient's signs.

        B_peak is (4 b_s / pi) erfinv(1 / sqrt(kappa))^2 for kappa > 1; no fall for kappa <= 1.

        Args:
            kappa: sum over i != j of s_i s_j H_ij / tr H, from 0 to below dimension - 1.
            b_s: pi / (2 ratio^2) for the ratio mean / sd, in the batch unit.
            dimension: number of coordinates. rng: draws the diagonal of H; without it, evenly spaced.

        Raises:
            SurgeError: `kappa` or `b_s` is out of range.

        >>> SignQuadratic.aligned(0.5).peak() is None, round(SignQuadratic.aligned(9.0, b_s=100.0).peak(), 1)
        (True, 11.8)
        """
        if not (0 <= kappa < dimension - 1 and 0 < b_s < np.inf):
            raise SurgeError(
                f"no such quadratic with kappa = {kappa} and b_s = {b_s}.",
                f"Give kappa from 0 to below {dimension - 1} and a positive b_s.",
            )
        signs, diagonal = _signs(dimension), _diagonal(dimension, rng)
        off = kappa * diagonal.sum() / (dimension * (dimension - 1 - kappa))
        mean = np.sqrt(np.pi / (2 * b_s)) * signs
        hessian = np.diag(diagonal) + off * np.outer(signs, signs)
        return cls(mean, np.ones(dimension), hessian)

    @classmethod
    def two_groups(cls, *, b_s: float = 628.3, spread: float = 1e4) -> Self:
        """Two groups of 40 coordinates of equal mean gradient, the noise variance of the second `spread` times larger.

        Curvature off the diagonal (kappa 9 within the group) belongs to the first group alone. The optimal LR rises,
        peaks, falls towards a first plateau and rises again to a higher one: with the defaults .0049 at B = 139,
        .0037 at B = 3410, and .0071 at infinite batch size.

        >>> truth = SignQuadratic.two_groups()
        >>> round(truth.peak()), round(truth.second_rise(), -1)
        (139, 3410.0)
        """
        if not (0 < b_s < np.inf and 1 <= spread < np.inf):
            raise SurgeError(
                f"no two groups with b_s = {b_s} and spread = {spread}.", "Give b_s > 0 and spread >= 1."
            )
        first = cls.aligned(9.0, b_s=b_s)
        n = first.mean.size
        hessian = np.zeros((2 * n, 2 * n))
        hessian[:n, :n], hessian[n:, n:] = first.hessian, np.eye(n)
        sd = np.concatenate([first.sd, np.sqrt(spread) * first.sd])
        return cls(np.concatenate([first.mean, first.mean]), sd, hessian)

    def optimal_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The optimal LR of one step at `loss` (default: the start loss)."""
        return self.optimal_step(batch_size, loss).lr

    def decrease(
        self, batch_size: ArrayLike, lr: ArrayLike | None = None, loss: ArrayLike | None = None
    ) -> FloatArray:
        """Mean loss decrease of one step at `lr` (default: the optimal LR), in the units of the quadratic.

        >>> truth = SignQuadratic.reference("surge")
        >>> share = truth.decrease(64, 0.5 * truth.optimal_lr(64)) / truth.decrease(64)
        >>> round(float(share), 6)
        0.75
        """
        step = self.optimal_step(batch_size, loss)
        return step.decrease if lr is None else loss_decrease(lr, step)

    def optimal_step(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> OptimalStep:
        """The best LR and the decrease it brings, at `loss` (default: the start loss); broadcasts."""
        shifted = np.asarray(np.asarray(batch_size, float) * self._shift(loss))
        values, where = np.unique(shifted.ravel(), return_inverse=True)
        step = sign_optimal_step(values, self.mean, self.sd, self.hessian)
        return OptimalStep(step.lr[where].reshape(shifted.shape), step.decrease[where].reshape(shifted.shape))

    def diverging_lr(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """The stability edge, diverge_ratio times the optimal LR."""
        return np.asarray(self.diverge_ratio * self.optimal_lr(batch_size, loss))

    def diverges(self, batch_size: ArrayLike, lr: ArrayLike, loss: ArrayLike | None = None) -> BoolArray:
        """Whether LR / optimal LR is at or above `diverge_ratio`."""
        return np.asarray(np.asarray(lr, float) / self.optimal_lr(batch_size, loss) >= self.diverge_ratio)

    def peak(self, loss: float | None = None) -> float | None:
        """The smallest batch size at which the optimal LR turns from rising to falling; None if it never falls."""
        return self._turn(first_maximum, loss)

    def second_rise(self, loss: float | None = None) -> float | None:
        """The batch size beyond the peak at which the optimal LR turns up again; None if it does not."""
        return self._turn(minimum_after_maximum, loss)

    def plateau_lr(self) -> float:
        """The optimal LR at infinite batch size."""
        return float(self._largest().lr)

    def critical_batch(self, loss: ArrayLike) -> FloatArray:
        """The half-gain batch: where one optimal step decreases the loss half as much as at infinite batch size.

        Where the gain is a hyperbola in B this is E_min / S_min. With one signal-to-noise ratio for all coordinates it
        is near one; with `two_groups` the gain rises twice, and this is where the second rise is half done.
        """
        half, (low, high) = float(self._largest().decrease) / 2, self._log_range()

        def excess(log_batch: float) -> float:
            step = sign_optimal_step(np.exp(log_batch), self.mean, self.sd, self.hessian)
            return float(step.decrease) - half

        return np.asarray(np.exp(brentq(excess, low, high)) / self._shift(loss))

    def overhead(self, batch_size: ArrayLike, loss: ArrayLike | None = None) -> FloatArray:
        """Largest decrease of one step over that at B: steps relative to those at infinite batch size."""
        return np.asarray(self._largest().decrease / self.decrease(batch_size, loss=loss))

    def steps(self, batch_size: ArrayLike, loss: ArrayLike) -> FloatArray:
        """Steps to `loss` at the optimal LR: S_min(L) times the overhead at L."""
        ratio = self.start_loss / np.asarray(loss, float)
        s_min = self.steps_scale * (ratio**self.steps_exponent - 1.0)
        return np.asarray(s_min * self.overhead(batch_size, loss))

    def progress(self, ratio: ArrayLike) -> FloatArray:
        """Progress per step relative to the optimum, at `ratio` = LR / optimal LR; 0 where there is none."""
        return basin_of(self.basin).progress(ratio)

    def _shift(self, loss: ArrayLike | None) -> FloatArray:
        reached = np.asarray(self.start_loss if loss is None else loss, float)
        return np.asarray((reached / self.start_loss) ** self.peak_drift)

    def _largest(self) -> OptimalStep:
        return sign_optimal_step(_INFINITE, self.mean, self.sd, self.hessian)

    def _log_range(self) -> tuple[float, float]:
        """Logs of batch sizes between which every sign goes from a coin toss to certainty."""
        ratio = np.abs(self.mean[self.mean != 0] / self.sd[self.mean != 0])
        return float(-2 * np.log(ratio.max()) - 12), float(-2 * np.log(ratio.min()) + 6)

    def _turn(self, find: TurnFinder, loss: float | None) -> float | None:
        def lr_at(batch_size: FloatArray) -> FloatArray:
            return sign_optimal_step(batch_size, self.mean, self.sd, self.hessian).lr

        turn = find(lr_at, *self._log_range())
        return None if turn is None else turn / float(self._shift(loss))


def _signs(dimension: int) -> FloatArray:
    """Signs of the mean gradient; which they are does not matter, only how the curvature lies to them."""
    return np.where(np.arange(dimension) % 3 == 0, -1.0, 1.0)


def _diagonal(dimension: int, rng: np.random.Generator | None) -> FloatArray:
    return np.linspace(0.5, 1.5, dimension) if rng is None else rng.uniform(0.5, 1.5, dimension)


def _check(mean: FloatArray, sd: FloatArray, hessian: FloatArray) -> None:
    d = mean.size
    if mean.shape != (d,) or sd.shape != (d,) or hessian.shape != (d, d):
        raise SurgeError(f"mean {mean.shape}, sd {sd.shape} and Hessian {hessian.shape} do not fit together.")
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and np.isfinite(hessian).all()):
        raise SurgeError("mean, sd and Hessian must be finite.")
    if (sd <= 0).any() or not mean.any():
        raise SurgeError("every sd must be positive, and some mean gradient must not be zero.")
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    if np.trace(hessian) <= 0 or eigenvalues[0] < -1e-9 * eigenvalues[-1]:
        raise SurgeError("the Hessian must be positive semi-definite, with a positive trace.")
