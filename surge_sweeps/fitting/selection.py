"""Weighing the estimators of `basin` against each other, and taking the optimum from them all.

The weight of an estimator is (its squared leave-one-learning-rate-out error / the smallest one) ** -m over the n cells
near the minima of all batch sizes, m = n / 6 and at most 4. With independent normal errors of unknown size the exponent
would be n / 2; but none of the shapes is the true one, and the sharp weights of a large m make intervals about the
wrong one: before a cliff in the response they cover far too seldom.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from surge_sweeps.fitting.basin import (
    FAMILIES,
    WINDOWS,
    Basins,
    Candidate,
    Minima,
    candidates,
    curve_deficit,
    find_minima,
    find_window,
    fit_curves,
    left_out_errors,
)
from surge_sweeps.fitting.observables import BoolArray, FloatArray

#: Errors of prediction below this deficit count as nothing: one percent in steps.
_DEFICIT_FLOOR = 0.01
#: The error that all batch sizes have in common, of a wrong shape, does not average out over them.
_MOST_EVIDENCE = 4.0
#: Below this many usable learning rates cross-validation cannot tell shapes apart.
_LEAST_FOR_VALIDATION = 5


def candidate_weights(basins: Basins) -> FloatArray:
    """Weights of the candidates by leave-one-learning-rate-out errors near the minimum, over all batch sizes."""
    core = find_window(basins, WINDOWS[0], 3)
    usable = np.isfinite(basins.deficit[:, 0]).sum(axis=1)
    ends = np.isfinite(basins.x).sum(axis=1) - 1
    inner = (core.best[:, 0] > 0) & (core.best[:, 0] < ends)
    told = (usable >= _LEAST_FOR_VALIDATION) & (inner | ~inner.any())
    if not told.any():
        small = [len(candidate.family.powers) <= 3 for candidate in candidates(basins.log_deficit)]
        return np.asarray(small, dtype=float) / sum(small)
    cells = core.inside[:, 0] & told[:, None]
    scores = np.array(
        [_validation_error(basins, candidate, cells) for candidate in candidates(basins.log_deficit)]
    )
    log_weight = -min(cells.sum() / 6, _MOST_EVIDENCE) * np.log(
        np.maximum(scores, 1e-300) / max(scores.min(), 1e-300)
    )
    weights = np.exp(np.maximum(log_weight, -700.0))
    return np.asarray(weights / weights.sum())


def likeliest(basins: Basins, weights: FloatArray) -> Candidate:
    """The estimator of the largest weight."""
    return candidates(basins.log_deficit)[int(weights.argmax())]


def _validation_error(basins: Basins, candidate: Candidate, cells: BoolArray) -> float:
    window = find_window(basins, candidate.least_progress, len(candidate.family.powers) + 1)
    errors = left_out_errors(basins, candidate.family, window)[:, 0]
    variance = 1.0 / np.where(cells, basins.weights, 1.0) + _DEFICIT_FLOOR**2
    return float((errors[cells] ** 2 / variance[cells]).sum())


def candidate_minima(basins: Basins, candidate: Candidate, places: FloatArray | None = None) -> Minima:
    """Minima of one candidate; a batch size with too few learning rates for its shape takes a plain quadratic.

    `places` as in `basin.find_minima`.
    """
    n_coef = len(candidate.family.powers)
    window = find_window(basins, candidate.least_progress, n_coef + 1)
    found = find_minima(basins, candidate.family, window, places)
    short = window.inside.sum(axis=2) < n_coef
    if not short.any():
        return found
    plain = find_minima(basins, FAMILIES[0], find_window(basins, candidate.least_progress, 4), places)
    return Minima(np.where(short, plain.x, found.x), np.where(short, plain.deficit, found.deficit))


def combine_minima(minima: list[Minima], weights: FloatArray) -> Minima:
    """Weighted mean over candidates; beyond the grid where candidates of half the weight or more say so."""
    x = np.stack([found.x[:, 0] for found in minima])
    deficit = np.stack([found.deficit[:, 0] for found in minima])
    share = np.where(np.isfinite(x), weights[:, None], 0.0)
    inside = share.sum(axis=0)
    above = np.where(x == np.inf, weights[:, None], 0.0).sum(axis=0)
    below = np.where(x == -np.inf, weights[:, None], 0.0).sum(axis=0)
    known = np.maximum(inside, 1e-300)
    mean_x = (share * np.where(np.isfinite(x), x, 0.0)).sum(axis=0) / known
    mean_deficit = (share * np.where(np.isfinite(x), deficit, 0.0)).sum(axis=0) / known
    edge = np.where(above >= below, np.inf, -np.inf)
    result = np.where(inside > 0.5, mean_x, np.where(above + below > 0, edge, np.nan))
    return Minima(result, np.where(inside > 0.5, mean_deficit, np.nan))


def draw_minima(basins: Basins, weights: FloatArray, choices: FloatArray, places: FloatArray) -> Minima:
    """One candidate a draw, picked by weight.

    Args:
        basins: with the deficits of every draw.
        weights: of the candidates.
        choices: (n_draws,) uniform on [0, 1), picks the candidate.
        places: (n_batch, n_draws) uniform on [0, 1), as in `basin.find_minima`.
    """
    picked = np.searchsorted(np.cumsum(weights), choices, side="right").clip(max=weights.size - 1)
    x = np.full(basins.deficit.shape[:2], np.nan)
    deficit = np.full_like(x, np.nan)
    for index, candidate in enumerate(candidates(basins.log_deficit)):
        draws = np.nonzero(picked == index)[0]
        if draws.size:
            found = candidate_minima(basins.take(draws), candidate, places[:, draws])
            x[:, draws], deficit[:, draws] = found.x, found.deficit
    return Minima(x, deficit)


def misfit(basins: Basins, candidate: Candidate) -> tuple[float, int]:
    """Weighted squared residuals of a candidate's fits over all batch sizes, and their degrees of freedom."""
    n_coef = len(candidate.family.powers)
    window = find_window(basins, candidate.least_progress, n_coef + 1)
    coefficients, _ = fit_curves(basins, candidate.family, window)
    fitted = curve_deficit(
        coefficients[:, :, None, :], candidate.family, basins.x[:, None, :], basins.log_deficit
    )
    counts = window.inside.sum(axis=2)
    inside = (window.inside & (counts > n_coef)[..., None])[:, 0]
    squares = np.where(inside, basins.weights * (basins.deficit - fitted)[:, 0] ** 2, 0.0).sum()
    return float(squares), int(np.maximum(counts - n_coef, 0).sum())


def shape_doubt(basins: Basins, weights: FloatArray) -> float:
    """The share, 0 to 1, of the misfit of the likeliest shape that is not the scatter of the runs.

    Zero unless the misfit is larger than scatter explains at 5%; one percent in steps counts as nothing.
    """
    floored = basins.weights / (1.0 + _DEFICIT_FLOOR**2 * basins.weights)
    floored_basins = Basins(basins.x, floored, basins.deficit, basins.log_deficit)
    squares, freedom = misfit(floored_basins, likeliest(basins, weights))
    if not freedom:
        return 0.0
    return float(np.sqrt(max(0.0, 1.0 - chi2.ppf(0.95, freedom) / max(squares, 1e-300))))


def residual_sd(basins: Basins, weights: FloatArray) -> float:
    """Scatter about the most likely shape, over all batch sizes: the sd of one run where no cell has two."""
    squares, freedom = misfit(basins, likeliest(basins, weights))
    return float(np.sqrt(squares / max(freedom, 1)))
