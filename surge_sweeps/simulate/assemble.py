"""From simulated arrays to `LossCurves`: one array per column for all runs together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from surge_sweeps.curves import LossCurves, build_curves
from surge_sweeps.errors import SurgeError
from surge_sweeps.simulate.grid import FloatArray, IntArray, Runs, Scalar

#: Columns of `runs` that a simulation fills itself.
_FILLED = {
    "run", "lr", "batch_size", "seed", "status", "start_checkpoint", "start_loss", "max_steps", "target_loss",
    "response",
}  # fmt: skip


def run_table(runs: Runs, status: Sequence[str], columns: Mapping[str, object]) -> pd.DataFrame:
    """One row a run; `columns` are further columns, whole ones or single values."""
    return pd.DataFrame({
        "run": runs.names, "lr": runs.lr, "batch_size": runs.batch_size, "seed": runs.seed, "status": status,
        **columns,
    })  # fmt: skip


def point_table(
    runs: Runs, index: IntArray, steps: Sequence[IntArray], losses: Sequence[FloatArray]
) -> pd.DataFrame:
    """One row a logged loss; `steps` and `losses` hold the curve of each run that `index` names."""
    owner = np.repeat(index, [curve.size for curve in losses])
    step = np.concatenate([np.empty(0, dtype=np.int64), *steps])
    return pd.DataFrame({
        "run": pd.array(runs.names, dtype="str").take(owner),
        "step": step,
        "examples": (step * runs.batch_size[owner]).astype(float),
        "loss": np.concatenate([np.empty(0), *losses]),
    })  # fmt: skip


def simulated(runs: pd.DataFrame, points: pd.DataFrame, project: str) -> LossCurves:
    """The loss curves of a simulation."""
    return build_curves(runs, points, project=project, source="simulation", loss_name="eval/loss")


def config_columns(config: Mapping[str, Scalar] | None) -> dict[str, object]:
    """Further columns of every run.

    Raises:
        SurgeError: one of them would hide a column that the simulation fills.
    """
    taken = sorted(_FILLED & set(config or {}))
    if taken:
        raise SurgeError(f"the configuration column {taken[0]!r} is filled by the simulation.", "Rename it.")
    return dict(config or {})


def join_curves(first: LossCurves, *others: LossCurves) -> LossCurves:
    """The runs of several simulations as one project, named after the first.

    Raises:
        SurgeError: they do not all hold the same observable.

    >>> from surge_sweeps.simulate import Grid, Truth, simulate_training
    >>> grid, rng = Grid([4], [0.01], 1), np.random.default_rng(0)
    >>> truth = Truth("constant", {"a": 0.01})
    >>> both = join_curves(simulate_training(truth, grid, rng, project="a"), simulate_training(truth, grid, rng))
    >>> both.runs["run"].tolist(), both.project
    (['a-0', 'simulated-0'], 'a')
    """
    parts = (first, *others)
    observables = sorted({part.observable for part in parts})
    if len(observables) > 1:
        raise SurgeError(
            f"runs that recorded {' and '.join(observables)} do not go together.", "Fit them one by one."
        )
    runs = pd.concat([part.runs for part in parts], ignore_index=True)
    points = pd.concat([part.points for part in parts], ignore_index=True)
    problems = [problem for part in parts for problem in part.problems]
    return build_curves(
        runs, points, problems=problems, project=first.project, source=first.source,
        loss_name=first.loss_name, batch_unit=first.batch_unit, observable=first.observable,
    )  # fmt: skip
