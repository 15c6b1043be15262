"""Weighing the estimators of `basin` against each other, and taking the optimum from them all.

An estimator is a shape held to be true in a window; what lies outside it is left free. Its score is then an
information criterion over the same runs for all: the squared residuals inside, in units of the runs' scatter, plus a
price for every coefficient and for every learning rate left out. Of the windows in which a shape holds the widest is
the most precise, and one that is too wide is told by its residuals long before it moves the minimum by as much as its
interval. The shape is shared by all batch sizes; weights exp(-score / 2) are averaged over Bayesian-bootstrap weights
of the batch sizes (pseudo-BMA+, Yao et al. 2018, doi 10.1214/17-BA1091), since a wrong shape errs alike at all
learning rates of one. Where no estimator holds, all scores shrink by the smallest misfit, so that more of them count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from surge_sweeps.fitting.observables.responses import FloatArray
from surge_sweeps.fitting.optimum.basin import (
    FAMILIES,
    Basins,
    Candidate,
    Family,
    Minima,
    Window,
    candidates,
    curve_deficit,
    find_minima,
    find_window,
    fit_curves,
    misfits,
)

#: Squared residual that a learning rate left out of the window counts for. At 2, as in Akaike's criterion, windows
#: grow until the bias is as large as the scatter, and intervals about a biased minimum cover too seldom.
_PRICE = 1.5
#: Residuals below this deficit count as nothing: 0.3% in steps.
_DEFICIT_FLOOR = 0.003
#: Estimators of less weight than this share of the largest are left out.
_LEAST_WEIGHT = 0.01
#: Of the spread between candidates, the share that the runs' scatter makes where all of them hold (simulated basins of
#: seven skews); where none holds, as at a kink, the spread is several times what is needed and the share does no harm.
_SCATTER_SHARE = 0.2
#: The misfit of all is taken from windows with this share of the most degrees of freedom.
_ENOUGH_FREEDOM = 0.25


def candidate_weights(basins: Basins, batch_weights: FloatArray, scatter_known: bool) -> FloatArray:
    """Weights of the candidates, over all batch sizes.

    Args:
        basins: one draw, the runs themselves.
        batch_weights: (R, n_batch) random weights of the batch sizes, of mean 1 (`bootstrap.Resampling`).
        scatter_known: whether `basins.weights` hold the scatter of replicates rather than a guess; without it the
            residuals of the shape that fits best are taken for the scatter.
    """
    squares, prices, freedom = _scores(_floored(basins))
    scale = _misfit_scale(squares.sum(axis=1), freedom.sum(axis=1), basins.x.shape[0])
    scale = max(scale, 1.0 if scatter_known else 1e-300)
    scores = batch_weights @ (squares / scale + _PRICE * prices).T
    weights = np.exp(-(scores - scores.min(axis=1, keepdims=True)) / 2)
    mean = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
    mean[mean < _LEAST_WEIGHT * mean.max()] = 0.0
    return np.asarray(mean / mean.sum())


def _floored(basins: Basins) -> Basins:
    weights = basins.weights / (1.0 + _DEFICIT_FLOOR**2 * basins.weights)
    return Basins(basins.x, weights, basins.deficit, basins.scale)


def _misfit_scale(squares: FloatArray, freedom: FloatArray, n_batch: int) -> float:
    """Smallest mean square residual among the candidates that have enough degrees of freedom."""
    enough = freedom >= max(n_batch, _ENOUGH_FREEDOM * freedom.max())
    return float((squares[enough] / freedom[enough]).min()) if enough.any() else 1.0


def _scores(basins: Basins) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Squared residuals, free parameters (left-out learning rates included) and degrees of freedom.

    Each (n_candidates, n_batch), in the order of `candidates`. A batch size with too few learning rates in the window
    for the shape has none of its cells explained.
    """
    usable = np.isfinite(basins.deficit[:, 0]).sum(axis=1)
    parts: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    order: list[Candidate] = []
    for (n_coef, _), group in groupby(candidates(basins.scale), lambda one: _kind(one.family)):
        members = list(group)
        for share in dict.fromkeys(one.least_progress for one in members):
            families = [one.family for one in members if one.least_progress == share]
            window = find_window(basins, share, n_coef + 1)
            parts.append(_scored(basins, families, window, usable))
            order += [Candidate(family, share) for family in families]
    place = {candidate: index for index, candidate in enumerate(order)}
    rows = [place[candidate] for candidate in candidates(basins.scale)]
    squares, prices, freedom = (np.concatenate(column)[rows] for column in zip(*parts, strict=True))
    return squares, prices, freedom


def _kind(family: Family) -> tuple[int, bool]:
    return len(family.powers), family.of_progress


def _scored(
    basins: Basins, families: Sequence[Family], window: Window, usable: np.ndarray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    n_coef, inside = len(families[0].powers), window.inside[:, 0].sum(axis=1)
    held = inside > n_coef
    squares = np.where(held, misfits(basins, families, window), 0.0)
    price = np.where(held, n_coef + usable - inside, usable).astype(float)
    freedom = np.where(held, inside - n_coef, 0).astype(float)
    return squares, np.tile(price, (len(families), 1)), np.tile(freedom, (len(families), 1))


def likeliest(basins: Basins, weights: FloatArray) -> Candidate:
    """The estimator of the largest weight."""
    return candidates(basins.scale)[int(weights.argmax())]


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


def combine_minima(minima: Sequence[Minima], weights: FloatArray) -> Minima:
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


def draw_minima(
    basins: Basins, weights: FloatArray, values: Sequence[Minima], choices: FloatArray, places: FloatArray
) -> Minima:
    """One candidate a draw, picked by weight.

    Candidates differ by their shape and by what the runs' scatter does to each; the latter is in every candidate's own
    draws already, so the draws of a candidate are moved towards the weighted mean by part of its distance.

    Args:
        basins: with the deficits of every draw.
        weights: of the candidates.
        values: minima, without resampling, of those with weight, in order.
        choices: (n_draws,) uniform on [0, 1), picks the candidate.
        places: (n_batch, n_draws) uniform on [0, 1), as in `basin.find_minima`.
    """
    picked = np.searchsorted(np.cumsum(weights), choices, side="right").clip(max=weights.size - 1)
    x = np.full(basins.deficit.shape[:2], np.nan)
    deficit = np.full_like(x, np.nan)
    known = np.flatnonzero(weights > 0)
    mean = combine_minima(values, weights[known])
    for index, value in zip(known, values, strict=True):
        draws = np.nonzero(picked == index)[0]
        if draws.size:
            found = candidate_minima(basins.take(draws), candidates(basins.scale)[index], places[:, draws])
            x[:, draws] = found.x - _shared(value.x, mean.x)
            deficit[:, draws] = found.deficit - _shared(value.deficit, mean.deficit)
    return Minima(x, deficit)


def _shared(value: FloatArray, mean: FloatArray) -> FloatArray:
    """(n_batch, 1) the part of a candidate's distance from the mean that is the runs' scatter."""
    both = np.isfinite(value[:, 0]) & np.isfinite(mean)
    with np.errstate(invalid="ignore"):
        return np.where(both, _SCATTER_SHARE * (value[:, 0] - mean), 0.0)[:, None]


def misfit(basins: Basins, candidate: Candidate) -> tuple[float, int]:
    """Weighted squared residuals of a candidate's fits over all batch sizes, and their degrees of freedom."""
    n_coef = len(candidate.family.powers)
    window = find_window(basins, candidate.least_progress, n_coef + 1)
    coefficients, _ = fit_curves(basins, candidate.family, window)
    fitted = curve_deficit(coefficients[:, :, None, :], candidate.family, basins.x[:, None, :], basins.scale)
    counts = window.inside.sum(axis=2)
    inside = (window.inside & (counts > n_coef)[..., None])[:, 0]
    squares = np.where(inside, basins.weights * (basins.deficit - fitted)[:, 0] ** 2, 0.0).sum()
    return float(squares), int(np.maximum(counts - n_coef, 0).sum())


def residual_sd(basins: Basins, weights: FloatArray) -> float:
    """Scatter about the most likely shape, over all batch sizes: the sd of one run where no cell has two."""
    squares, freedom = misfit(basins, likeliest(basins, weights))
    return float(np.sqrt(squares / max(freedom, 1)))
