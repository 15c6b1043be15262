"""The optimal learning rate of every batch size of one target: a fitted vertex with draws, never the best grid cell.

Several estimators (a shape and a window, see `basin`) are weighed over all batch sizes (`selection`). The value is
their weighted mean. Every bootstrap draw resamples the runs, picks one estimator by its weight, places the window
anew and refits, so the interval holds the scatter of the runs and the doubt about the shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from surge_sweeps.fitting.observables.cells import Cells
from surge_sweeps.fitting.observables.responses import BoolArray, FloatArray
from surge_sweeps.fitting.optimum.basin import (
    Basins,
    Minima,
    Scale,
    candidates,
    curve_deficit,
    find_window,
    fit_curves,
)
from surge_sweeps.fitting.optimum.bootstrap import (
    Resampling,
    cell_responses,
    draw_responses,
    lower_is_better,
    within_cell_variance,
)
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.optimum.selection import (
    candidate_minima,
    candidate_weights,
    combine_minima,
    draw_minima,
    likeliest,
    misfit,
    residual_sd,
)
from surge_sweeps.fitting.result import OptimumStatus, Protocol

#: Degrees of freedom that a batch size's pooled variance counts for in the variance of one cell.
_POOLED_FREEDOM = 8.0
#: The shapes follow basins of other forms to about 0.3% in LR on grids of ratio 1.5, however little the noise.
_SHAPE_SD = 0.003
_FLAT_SHARE = 0.0025
_FLAT_POINTS = 241
#: The best cells of a batch size from which the bend of a final loss is taken.
_UNIT_POINTS = 6


_SCALES: dict[Protocol, Scale] = {
    "reach": Scale.STEPS, "steps": Scale.STEPS, "final": Scale.LOSS, "gain": Scale.GAIN,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class OptimumSearch:
    """What the search found at one target.

    Attributes:
        optima: the optimal learning rates with their draws.
        flat_bands: per batch size, the learning rates whose fitted response is within one standard error or 0.25% of
            the best; None where the curve gives none.
        weights: weight of each of `basin.candidates`.
    """

    optima: Optima
    flat_bands: tuple[tuple[float | None, float | None], ...]
    weights: FloatArray


@dataclass(frozen=True, eq=False)
class _Zero:
    """How responses become deficits: (sign * best - sign * response) / unit, sign -1 for steps."""

    centre: FloatArray
    best: FloatArray
    unit: FloatArray
    sign: float

    def deficit(self, response: FloatArray) -> FloatArray:
        shape = (-1, *([1] * (response.ndim - 1)))
        return self.sign * (self.best.reshape(shape) - response) / self.unit.reshape(shape)


def find_optima(cells: Cells, protocol: Protocol, resampling: Resampling) -> OptimumSearch:
    """Optimal learning rate, interval draws and flat band at every batch size.

    Args:
        cells: the runs of one target.
        protocol: `reach` and `steps`, values are log steps; `final`, losses; `gain`, loss decreases, higher is better.
        resampling: the runs each draw takes (`bootstrap.resample`), shared by targets on the same runs.
    """
    responses = cell_responses(cells, protocol)
    scale = _scale(cells, responses, protocol)
    weights, run_sd = _weights(cells, scale.deficit(responses), scale.unit)
    basins = Basins(
        cells.log_lr - scale.centre[:, None],
        weights,
        scale.deficit(responses)[:, None],
        _SCALES[protocol],
    )
    replicated = bool(np.isfinite(run_sd).all())
    validation = candidate_weights(basins, resampling.batch_weights, replicated)
    single_sd = np.where(np.isfinite(run_sd), run_sd, residual_sd(basins, validation))
    drawn = scale.deficit(draw_responses(cells, protocol, resampling, single_sd * scale.unit))
    weighed = zip(candidates(basins.scale), validation, strict=True)
    values = [candidate_minima(basins, candidate) for candidate, weight in weighed if weight > 0]
    value = _where_it_matters(combine_minima(values, validation[validation > 0]), basins)
    minima = draw_minima(
        Basins(basins.x, weights, drawn, basins.scale),
        validation,
        values,
        resampling.choices,
        resampling.places,
    )
    minima = _widen(minima, value, _widening(cells, basins, validation, resampling))
    optima = _optima(cells, protocol, scale, value, minima, resampling)
    return OptimumSearch(optima, _flat_bands(cells, basins, scale, validation, single_sd, optima), validation)


def _where_it_matters(value: Minima, basins: Basins) -> Minima:
    """The minima, none where every usable learning rate gave the very same response."""
    usable = np.isfinite(basins.deficit[:, 0])
    spread = np.where(usable, basins.deficit[:, 0], 0.0).max(axis=1)
    alike = (spread <= 0) & (usable.sum(axis=1) > 1)
    return Minima(np.where(alike, np.nan, value.x), np.where(alike, np.nan, value.deficit))


def _scale(cells: Cells, responses: FloatArray, protocol: Protocol) -> _Zero:
    sign = -1.0 if lower_is_better(protocol) else 1.0
    score = np.where(np.isfinite(responses), sign * responses, -np.inf)
    rows = np.arange(score.shape[0])
    column = score.argmax(axis=1)
    best = sign * np.where(np.isfinite(score[rows, column]), score[rows, column], 0.0)
    unit = np.ones_like(best)
    if protocol == "gain":
        size = np.nanmax(np.where(np.isfinite(responses), np.abs(responses), 0.0), axis=1)
        unit = np.where(best > 0, best, np.where(size > 0, size, 1.0))
    elif protocol == "final":
        unit[:] = _loss_unit(cells.log_lr - cells.log_lr[rows, column][:, None], responses - best[:, None])
    return _Zero(cells.log_lr[rows, column], best, unit, sign)


def _loss_unit(x: FloatArray, excess: FloatArray) -> float:
    """What a final loss loses at a factor e from the optimum: the bend of the basins, one for all batch sizes.

    A final loss has no natural zero, so its progress is counted in this unit: near the optimum the loss of a
    parabola in the LR is unit * (LR / optimal LR - 1)^2 above its best.
    """
    bends = []
    for offset, above in zip(x, excess, strict=True):
        known = np.flatnonzero(np.isfinite(above))
        near = known[np.argsort(above[known], kind="stable")[:_UNIT_POINTS]]
        if near.size > 3:
            bends.append(float(np.polyfit(offset[near], above[near], 2)[0]))
    usable = [bend for bend in bends if bend > 0]
    largest = float(np.nanmax(np.where(np.isfinite(excess), excess, 0.0), initial=0.0))
    return float(np.median(usable)) if usable else (largest if largest > 0 else 1.0)


def _weights(cells: Cells, deficit: FloatArray, unit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Inverse variance of each cell's deficit, and the sd of one run per batch size (NaN without replicates)."""
    variance, freedom = within_cell_variance(cells)
    variance = (np.sqrt(variance) / unit[:, None]) ** 2
    near = np.isfinite(deficit) & (deficit <= 1.0)
    near_freedom = np.where(near, freedom, 0)
    total = near_freedom.sum(axis=1)
    pooled = (near_freedom * variance).sum(axis=1) / np.maximum(total, 1)
    everywhere = (near_freedom * variance).sum() / max(int(total.sum()), 1)
    pooled = np.where(total > 0, pooled, everywhere)
    # Replicates that agree to the last digit are copies, and tell nothing of the scatter.
    run_sd = np.where(everywhere > 0, np.sqrt(pooled), np.nan)
    prior = np.where(pooled > 0, pooled, 1.0)[:, None]
    shrunk = (_POOLED_FREEDOM * prior + freedom * variance) / (_POOLED_FREEDOM + freedom)
    return np.where(np.isfinite(deficit), np.maximum(cells.uncensored(), 1) / shrunk, 0.0), run_sd


def _widening(cells: Cells, basins: Basins, weights: FloatArray, resampling: Resampling) -> FloatArray:
    """(n_batch,) how much wider than the bootstrap the interval must be.

    Two factors: Student's t for the few runs behind the scatter (within-cell degrees of freedom about one optimum;
    of whole seeds, where these are drawn), and the Birge ratio, where the likeliest shape misses the cells by more
    than their scatter.
    """
    candidate = likeliest(basins, weights)
    window = find_window(basins, candidate.least_progress, len(candidate.family.powers) + 1)
    inside = window.inside[:, 0]
    spare = np.maximum(cells.uncensored() - 1, 0)
    replicated = np.where(inside, spare, 0).sum(axis=1)
    squares, left = misfit(basins, candidate)
    if not (replicated > 0).any():
        # The scatter is that about the curve itself, and is known no better than its degrees of freedom.
        return np.full(replicated.shape, t.ppf(0.975, max(left, 1)) / t.ppf(0.975, np.inf))
    typical = float(np.median(replicated[replicated > 0]))
    freedom = np.where(resampling.paired, np.maximum(spare.max(axis=1), 1), typical)
    student = t.ppf(0.975, freedom) / t.ppf(0.975, np.inf)
    return np.asarray(student * np.sqrt(max(1.0, squares / left if left else 1.0)))


def _widen(drawn: Minima, value: Minima, factor: FloatArray) -> Minima:
    x = np.where(np.isfinite(value.x), value.x, 0.0)[:, None]
    deficit = np.where(np.isfinite(value.deficit), value.deficit, 0.0)[:, None]
    wide = np.where(np.isfinite(value.x)[:, None], x + factor[:, None] * (drawn.x - x), drawn.x)
    return Minima(wide, deficit + factor[:, None] * (drawn.deficit - deficit))


def _optima(
    cells: Cells,
    protocol: Protocol,
    scale: _Zero,
    value: Minima,
    drawn: Minima,
    resampling: Resampling,
) -> Optima:
    status = tuple(_status(cells, batch, value.x[batch]) for batch in range(cells.batch_sizes.size))
    known = np.array([name == "ok" for name in status])
    found = np.array([name in ("ok", "edge_low", "edge_high") for name in status])
    low, high = np.nanmin(cells.log_lr, axis=1), np.nanmax(cells.log_lr, axis=1)
    log_lr = np.where(value.x == np.inf, high, np.where(value.x == -np.inf, low, value.x + scale.centre))
    unseen = np.hypot(_quantisation_sd(cells), _SHAPE_SD)[:, None] * resampling.rounding
    draws = np.where(found[:, None], drawn.x + scale.centre[:, None] + unseen, np.nan)
    # Beyond the grid nothing is known of the basin.
    draws = np.where(draws < low[:, None], -np.inf, np.where(draws > high[:, None], np.inf, draws))
    log_steps = np.full_like(log_lr, np.nan)
    log_steps_draws = np.full_like(draws, np.nan)
    if _SCALES[protocol] is Scale.STEPS:
        log_steps = np.where(known, scale.best + value.deficit, np.nan)
        log_steps_draws = np.where(known[:, None], scale.best[:, None] + drawn.deficit, np.nan)
    runs = tuple(int(count) for count in cells.counts().sum(axis=1))
    return Optima(
        cells.batch_sizes,
        np.where(found, log_lr, np.nan),
        status,
        draws.T,
        log_steps,
        log_steps_draws.T,
        runs,
        edge_slack=_spacing(cells) / 2,
    )


def _spacing(cells: Cells) -> float:
    """Median distance of neighbouring learning rates, in log; 0 where no batch size has two."""
    steps = np.diff(cells.log_lr, axis=1)
    return float(np.median(steps[np.isfinite(steps)])) if np.isfinite(steps).any() else 0.0


def _status(cells: Cells, batch: int, x: float) -> OptimumStatus:
    if not cells.trains()[batch].any():
        return "diverged"
    if np.isnan(x):
        return "too_few"
    if np.isfinite(x):
        return "ok"
    return "edge_high" if x > 0 else "edge_low"


def _quantisation_sd(cells: Cells) -> FloatArray:
    """(n_batch,) sd of log LR that a grid with neighbours more than a factor 2 apart leaves open; 0 for a finer one."""
    steps = np.diff(cells.log_lr, axis=1)
    counts = np.isfinite(steps).sum(axis=1)
    ordered = np.sort(np.where(np.isfinite(steps), steps, np.inf), axis=1)
    if steps.shape[1] == 0:
        return np.zeros(steps.shape[0])
    median = ordered[np.arange(steps.shape[0]), np.maximum(counts - 1, 0) // 2]
    coarse = np.isfinite(median) & (median > np.log(2.0) + 1e-3)
    return np.asarray(np.where(coarse, median, 0.0) / np.sqrt(12.0))


def _flat_bands(
    cells: Cells, basins: Basins, scale: _Zero, weights: FloatArray, run_sd: FloatArray, optima: Optima
) -> tuple[tuple[float | None, float | None], ...]:
    candidate = likeliest(basins, weights)
    window = find_window(basins, candidate.least_progress, len(candidate.family.powers) + 1)
    coefficients, _ = fit_curves(basins, candidate.family, window)
    x = np.linspace(window.low, window.high, _FLAT_POINTS, axis=-1)
    curve = curve_deficit(coefficients[:, :, None, :], candidate.family, x, basins.scale)[:, 0]
    runs = np.maximum(cells.uncensored().max(axis=1), 1)
    tolerance = np.maximum(run_sd / np.sqrt(runs), _FLAT_SHARE)
    bands: list[tuple[float | None, float | None]] = []
    for batch, status in enumerate(optima.status):
        if status not in ("ok", "edge_low", "edge_high"):
            bands.append((None, None))
            continue
        flat = np.nonzero(curve[batch] <= curve[batch].min() + tolerance[batch])[0]
        ends = x[batch, 0][flat[[0, -1]]] + scale.centre[batch]
        # The value is a mean over shapes, the curve one of them: the band is widened to hold the value, and the
        # measured learning rates about the best that their noise does not tell from it.
        measured = cells.log_lr[batch][_like_the_best(basins.deficit[batch, 0], tolerance[batch])]
        held = [optima.log_lr[batch], *ends, *measured]
        bands.append((float(np.exp(min(held))), float(np.exp(max(held)))))
    return tuple(bands)


def _like_the_best(deficit: FloatArray, tolerance: float) -> BoolArray:
    """(n_lr,) the stretch of learning rates about the best whose own mean is within the tolerance of the best one's."""
    like = np.isfinite(deficit) & (deficit <= tolerance)
    if not like.any():
        return like
    best = int(np.nanargmin(deficit))
    columns = np.arange(deficit.size)
    first = np.where(~like & (columns < best), columns, -1).max()
    last = np.where(~like & (columns > best), columns, deficit.size).min()
    return np.asarray((columns > first) & (columns < last))
