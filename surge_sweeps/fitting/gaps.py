"""What the runs of a group lack, and which runs would mend it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from surge_sweeps.fitting.batch_counts import too_few_batch_sizes
from surge_sweeps.fitting.observables.cells import Cells
from surge_sweeps.fitting.optimum.optima import Optima

_STEP = "each a factor of 2 apart"


def group_gaps(runs: pd.DataFrame, *, counts_steps: bool = True) -> list[str]:
    """What a group's grid lacks before anything is fitted.

    Args:
        runs: the runs of the group. counts_steps: whether steps to a loss are asked of them.

    >>> grid = {"batch_size": [8, 8, 8, 16, 16, 16], "lr": [0.1, 0.2, 0.4] * 2, "status": "finished"}
    >>> print(group_gaps(pd.DataFrame(grid))[0])
    2 batch sizes were run, and B_crit takes 3, fitting laws 4, telling laws apart 5, better 8: add at least 3 more, ...
    """
    few = too_few_batch_sizes(
        sorted(int(size) for size in runs["batch_size"].unique()), counts_steps=counts_steps
    )
    found = [f"{few}, {_STEP}"] if few else []
    if (runs["status"] == "diverged").all():
        smallest = float(runs["lr"].min())
        found.append(f"every run diverged: run learning rates below {smallest:.3g}, {_STEP}")
    per_batch = runs.groupby("batch_size")["lr"].nunique()
    sparse = [int(size) for size in per_batch.index[per_batch < 3]]
    if sparse:
        found.append(
            f"fewer than three learning rates at {_batches(sparse)}: "
            f"run at least five, {_STEP}, about the expected optimum"
        )
    return found


def target_gaps(cells: Cells, optima: Optima) -> list[str]:
    """What one target's grid lacks, by how its optima were found."""
    found = []
    with_status = {
        name: [index for index, status in enumerate(optima.status) if status == name]
        for name in ("edge_low", "edge_high", "too_few", "diverged")
    }
    for name, side, end in (("edge_high", "above", np.nanmax), ("edge_low", "below", np.nanmin)):
        if with_status[name]:
            edge = float(np.exp(end(cells.log_lr[with_status[name]])))
            found.append(
                f"{_named(optima, with_status[name])}: the optimum lies at the end of the grid or {side} it:"
                f" run learning rates {side} {edge:.3g}"
            )
    if with_status["diverged"]:
        smallest = float(np.exp(np.nanmin(cells.log_lr[with_status["diverged"]])))
        found.append(
            f"{_named(optima, with_status['diverged'])}: every learning rate diverged:"
            f" run some below {smallest:.3g}"
        )
    # A batch size with fewer than three learning rates in all is a gap of the group's grid, told once.
    tried = np.isfinite(cells.log_lr).sum(axis=1)
    short = [index for index in with_status["too_few"] if tried[index] >= 3]
    if short:
        found.append(
            f"{_named(optima, short)}: fewer than three learning rates got there in half of their runs:"
            " train longer or run more learning rates near the best"
        )
    return found


def _named(optima: Optima, indices: Sequence[int]) -> str:
    return _batches([int(optima.batch_sizes[index]) for index in indices])


def _batches(sizes: Sequence[int]) -> str:
    return ("batch size " if len(sizes) == 1 else "batch sizes ") + ", ".join(map(str, sizes))
