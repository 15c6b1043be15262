"""Batch sizes whose learning rate was tuned before: their optima are given, and only their scatter is to be found.

Replicates (seeds) of a batch size are averaged in the log. Draws have the scatter of the replicates, pooled over the
batch sizes; without any replicates there are no draws, and only the scatter about a fitted law is known.
"""

from __future__ import annotations

import numpy as np

from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting.observables.responses import FloatArray, Responses
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.result import OptimumStatus


def tuned_optima(
    curves: LossCurves, responses: Responses, protocol: str, n_draws: int, rng: np.random.Generator
) -> Optima:
    """One optimum a batch size, from tuned learning rates, from steps to a goal, or from both.

    Args:
        curves: runs of one group; `lr` may be NaN where only the steps are known.
        responses: one column, log steps (protocol `steps`) or log LR (`given`).
        protocol: `steps` or `given`.
        n_draws: draws where some batch size has replicates. rng: for them.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"lr": [0.1, 0.2], "batch_size": [8, 16]})
    >>> given = Responses(np.log([[0.1], [0.2]]), np.zeros((2, 1), bool))
    >>> curves = LossCurves(runs, pd.DataFrame(), observable="given")
    >>> tuned_optima(curves, given, "given", 100, np.random.default_rng(0)).status
    ('given', 'given')
    """
    runs = curves.runs
    batch_sizes, batch = np.unique(runs["batch_size"].to_numpy(float), return_inverse=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = np.log(runs["lr"].to_numpy(float, na_value=np.nan))
    log_lr = _means(rates, batch, batch_sizes.size)
    nothing = np.full(batch_sizes.size, np.nan)
    log_steps = nothing
    if protocol == "steps":
        log_steps = _means(responses.values[:, 0], batch, batch_sizes.size)
    status: tuple[OptimumStatus, ...] = tuple("given" if np.isfinite(one) else "too_few" for one in log_lr)
    counts = np.bincount(batch, minlength=batch_sizes.size)
    return Optima(
        batch_sizes,
        log_lr,
        status,
        _draws(rates, batch, log_lr, n_draws, rng),
        log_steps,
        _draws(responses.values[:, 0], batch, log_steps, n_draws, rng),
        tuple(int(count) for count in counts),
    )


def _means(values: FloatArray, batch: np.ndarray, n_batch: int) -> FloatArray:
    known = np.isfinite(values)
    counts = np.bincount(batch[known], minlength=n_batch)
    sums = np.bincount(batch[known], weights=values[known], minlength=n_batch)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def _draws(
    values: FloatArray, batch: np.ndarray, means: FloatArray, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """(n_draws, n_batch) means of resampled replicates; no rows where nothing was replicated."""
    groups = [values[(batch == index) & np.isfinite(values)] for index in range(means.size)]
    freedom = sum(max(group.size - 1, 0) for group in groups)
    if freedom == 0:
        return np.empty((0, means.size))
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups if group.size > 1)
    pooled_sd = np.sqrt(squares / freedom)
    draws = np.full((n_draws, means.size), np.nan)
    for index, group in enumerate(groups):
        if group.size == 0:
            continue
        # Few replicates: the pooled scatter, not their own, which two equal values would make zero.
        draws[:, index] = means[index] + pooled_sd / np.sqrt(group.size) * rng.standard_normal(n_draws)
    return draws
