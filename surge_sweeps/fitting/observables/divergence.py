"""Runs that diverged although their final loss is a number.

A run that blew up and was then held by clipping or by a bounded loss ends far above every run that trained. It is
recognised by the gap: among the losses above the best of its batch size, at larger learning rates than the best one,
the diverged stand apart from the trained by a factor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting.observables.responses import BoolArray, FloatArray

#: Excess losses on either side of the gap differ by at least this factor.
GAP = 3.0
#: A diverged run has at least this many times the typical excess of the runs that trained.
FAR = 10.0
#: Fewer runs than this show no typical excess.
_LEAST_RUNS = 8


def diverged_at_finite_loss(runs: pd.DataFrame, losses: FloatArray) -> BoolArray:
    """(n_runs,) which runs of one group ended far above the rest at learning rates beyond the best.

    Args:
        runs: with `lr` and `batch_size`. losses: (n_runs,) final losses; NaN for a run without.

    >>> rates = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    >>> runs = pd.DataFrame({"lr": rates, "batch_size": 8})
    >>> found = [2.9, 2.8, 2.7, 2.6, 2.7, 2.8, 2.9, 3.0, 6.5, 6.7]
    >>> diverged_at_finite_loss(runs, np.array(found)).tolist()
    [False, False, False, False, False, False, False, False, True, True]
    """
    table = pd.DataFrame(
        {"lr": runs["lr"].to_numpy(float), "loss": losses, "batch": runs["batch_size"].to_numpy()}
    )
    known = table.dropna()
    nothing = np.zeros(len(table), dtype=bool)
    if len(known) < _LEAST_RUNS:
        return nothing
    best = known.loc[known.groupby("batch")["loss"].idxmin()].set_index("batch")
    excess = (table["loss"] - table["batch"].map(best["loss"])).to_numpy(float)
    beyond = (table["lr"] > table["batch"].map(best["lr"])).to_numpy() & np.isfinite(excess)
    positive = excess[np.isfinite(excess) & (excess > 0)]
    if not positive.size:
        return nothing
    # The trained are the most runs, so half of all excesses is among them; a gap is sought above that.
    typical = float(np.median(positive))
    candidates = np.sort(positive[positive >= typical])
    wide = np.flatnonzero((candidates[1:] >= GAP * candidates[:-1]) & (candidates[1:] >= FAR * typical))
    if not wide.size:
        return nothing
    return np.asarray(beyond & (excess >= candidates[wide[0] + 1]))


def with_diverged(curves: LossCurves, diverged: BoolArray) -> LossCurves:
    """The curves with these runs marked as diverged."""
    status = curves.runs["status"].where(~diverged, "diverged")
    return replace(curves, runs=curves.runs.assign(status=status))


def finite_divergence_note(runs: pd.DataFrame, diverged: BoolArray) -> list[str]:
    """One sentence on the runs newly recognised as diverged; empty without any."""
    new = int((diverged & (runs["status"] != "diverged").to_numpy()).sum())
    if not new:
        return []
    return [
        f"{counted(new, 'run')} ended at a finite loss far above all others at larger learning rates than the best: "
        "counted as diverged"
    ]
