"""Simulated tables: one number a run instead of a loss curve, as most published sweeps are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from surge_sweeps.curves import CONTROL_COLUMNS, LossCurves, build_curves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate.assemble import config_columns, run_table
from surge_sweeps.simulate.branches import gains_of_cells
from surge_sweeps.simulate.damage import Damage
from surge_sweeps.simulate.grid import BoolArray, FloatArray, Grid, Runs, Scalar
from surge_sweeps.simulate.noise import Noise, noise_of
from surge_sweeps.simulate.truth import KnownTruth

TableObservable = Literal["final", "gain", "steps", "given"]

OBSERVABLES: tuple[TableObservable, ...] = ("final", "gain", "steps", "given")

_COLUMN: dict[str, str] = {"final": "loss", "gain": "gain", "steps": "steps"}


@dataclass(frozen=True)
class FinalLoss:
    """Loss after a fixed number of steps: floor + (start_loss - floor) / (1 + budget S_ref / S)^exponent.

    S / S_ref is the steps that a cell needs, relative to those at infinite batch size and optimal LR, so the loss falls
    with the progress and is lowest at the truth's optimal LR; without progress it stays at the start loss. `budget` is
    the number of steps of every run, relative to that in which the best run begins to learn.

    Raises:
        SurgeError: `budget` or `exponent` is not positive.
    """

    floor: float = 0.5
    budget: float = 20.0
    exponent: float = 0.5

    def __post_init__(self) -> None:
        if not (np.isfinite(self.floor) and 0 < self.budget < np.inf and 0 < self.exponent < np.inf):
            raise SurgeError(
                f"no final loss with floor {self.floor}, budget {self.budget} and exponent {self.exponent}.",
                "Give a finite floor, and a positive budget and exponent.",
            )

    def after(self, start_loss: float, needed: ArrayLike) -> FloatArray:
        """The final loss where `needed` = S / S_ref.

        >>> FinalLoss(floor=1.0, budget=3.0).after(2.0, [1.0, np.inf]).tolist()
        [1.5, 2.0]
        """
        learned = (1.0 + self.budget / np.asarray(needed, float)) ** -self.exponent
        return np.asarray(self.floor + (start_loss - self.floor) * learned)


def simulate_table(
    truth: KnownTruth,
    grid: Grid,
    rng: np.random.Generator,
    *,
    observable: TableObservable = "final",
    noise: float | Noise = 0.02,
    damage: Damage | None = None,
    loss: float | None = None,
    final: FinalLoss | None = None,
    decrease: float = 0.3,
    config: Mapping[str, Scalar] | None = None,
    project: str = "simulated-table",
) -> LossCurves:
    """One number a run, as a CSV table is read.

    Args:
        truth: the known answer.
        grid: the runs. `steps` and `given` are tuned already: one row a batch size and seed, `grid.lrs` not used.
        rng: source of the noise and of the damage, in this order.
        observable: `final` loss after a fixed number of steps; `gain`, the loss decrease over a horizon, as in
            `simulate_branches`; `steps` to `loss` at the best LR that trains, `lr` missing; `given`, the best LR that
            trains, in `lr`.
        noise: a number is its standard deviation. `final`: added to the loss; `gain`: relative to the gain at the
            optimum of the batch size; `steps`: of the log of the steps; `given`: of the log of the LR.
        damage: what goes wrong (default: nothing). A diverged run has no response, or for `final` and `gain` the one
            that `diverged_loss` gives; with `given` it is not in the table.
        loss: where on the way down the truth is taken. Default: its start loss; for `steps` half of it.
        final: the form of the final loss (default: that of `FinalLoss()`).
        decrease: for `gain`, its largest relative to `loss`.
        config: further columns of every run.
        project: the name in the result; run names start with it.

    Returns:
        `observable` set, `runs["response"]` filled, no points.

    Raises:
        UnknownNameError: of the observable. SurgeError: `loss` is not above 0 and at most the start loss, or the
            floor of the final loss is not below it.

    >>> from surge_sweeps.simulate import Truth
    >>> truth, rng = Truth("surge", {"eps_max": 0.1, "b_noise": 16.0}), np.random.default_rng(0)
    >>> curves = simulate_table(truth, Grid([16], [0.05, 0.1, 0.5], 1), rng, noise=0.0)
    >>> curves.runs[["lr", "response", "status"]].round(3).values.tolist()
    [[0.05, 1.235, 'finished'], [0.1, 1.15, 'finished'], [0.5, nan, 'diverged']]
    """
    if observable not in OBSERVABLES:
        raise UnknownNameError("observable", observable, OBSERVABLES)
    tuned = observable in ("steps", "given")
    runs = Grid(grid.batch_sizes, [np.nan] if tuned else grid.lrs, grid.seeds).runs(project)
    errors, damage = noise_of(noise).draw(rng, runs), damage or Damage()
    marks = damage.draw(rng, runs)
    at = _loss(truth, loss, observable)
    if observable == "final":
        value, beyond = _final(truth, runs, at, final or FinalLoss())
        told = _Told(value + errors, marks.diverged | beyond, damage.diverged_loss)
    elif observable == "gain":
        largest, share, beyond = gains_of_cells(truth, runs, at, decrease)
        told = _Told(largest * (share + errors), marks.diverged | beyond, at - damage.diverged_loss)
    elif observable == "steps":
        told = _Told(_tuned_steps(truth, runs, at) * np.exp(errors), marks.diverged, np.nan)
    else:
        told = _Told(_tuned_lr(truth, runs, at) * np.exp(errors), marks.diverged, np.nan)
    return _table(runs, told, marks.kept, observable, config_columns(config), project)


class _Told(NamedTuple):
    """What every run told, which of them diverged, and what a diverged run tells instead."""

    values: FloatArray
    diverged: BoolArray
    instead: float


def _table(
    runs: Runs,
    told: _Told,
    kept: BoolArray,
    observable: TableObservable,
    columns: dict[str, object],
    project: str,
) -> LossCurves:
    values = np.where(told.diverged, told.instead, told.values)
    status = np.where(told.diverged & np.isnan(told.instead), "diverged", "finished").tolist()
    if observable == "given":
        table = run_table(runs, status, columns | {"response": np.nan}).assign(lr=values)
        kept = kept & ~told.diverged
    else:
        table = run_table(runs, status, columns | {"response": values})
    points = pd.DataFrame({"run": pd.Series(dtype="str"), "step": [], "examples": [], "loss": []})
    return build_curves(
        table[kept], points, project=project, source="simulation", loss_name="loss", observable=observable
    )


def _loss(truth: KnownTruth, loss: float | None, observable: str) -> float:
    if loss is None:
        return truth.start_loss / 2 if observable == "steps" else truth.start_loss
    if not 0 < loss <= truth.start_loss:
        raise SurgeError(f"the loss {loss} does not lie between 0 and the start loss {truth.start_loss}.")
    return loss


def _final(truth: KnownTruth, runs: Runs, loss: float, form: FinalLoss) -> tuple[FloatArray, BoolArray]:
    """Per run the final loss without noise, and whether it diverges."""
    if form.floor >= truth.start_loss:
        raise SurgeError(f"the floor {form.floor} is not below the start loss {truth.start_loss}.")
    batch_size, lr = runs.cell_batch_size, runs.cell_lr
    progress = truth.progress(lr / truth.optimal_lr(batch_size, loss))
    with np.errstate(divide="ignore"):
        needed = truth.overhead(batch_size, loss) / progress
    final = form.after(truth.start_loss, needed)
    return final[runs.cell], truth.diverges(batch_size, lr, loss)[runs.cell]


def _tuned_lr(truth: KnownTruth, runs: Runs, loss: float) -> FloatArray:
    """Per run the optimal LR, or the stability edge where that is lower."""
    return np.minimum(truth.optimal_lr(runs.batch_size, loss), truth.diverging_lr(runs.batch_size, loss))


def _tuned_steps(truth: KnownTruth, runs: Runs, loss: float) -> FloatArray:
    ratio = _tuned_lr(truth, runs, loss) / truth.optimal_lr(runs.batch_size, loss)
    return np.asarray(truth.steps(runs.batch_size, loss) / truth.progress(ratio))


def table_of(curves: LossCurves) -> pd.DataFrame:
    """The runs as a plain table, to be written to a file and read by `surge-report`.

    Columns: `lr` (not for tuned steps), `batch_size`, `seed`, what was recorded (`loss`, `gain`, `steps` or
    `optimal_lr`), every recorded hyper-parameter. Loss curves have one row a logged loss, with its `step`, and the
    name of the `run`. A run that diverged has a missing response.

    >>> from surge_sweeps.simulate import Truth
    >>> truth, rng = Truth("linear", {"a": 0.001}), np.random.default_rng(0)
    >>> tuned = simulate_table(truth, Grid([16, 64], [], 1), rng, observable="given", noise=0.0)
    >>> print(table_of(tuned).to_csv(index=False), end="")
    batch_size,seed,optimal_lr
    16,0,0.016
    64,0,0.064
    """
    runs = curves.runs
    if curves.observable == "loss_curve":
        shared = runs[["run", "lr", "batch_size", "seed", *_hyper_parameters(runs)]]
        return curves.points[["run", "step", "loss"]].merge(shared, on="run")
    if curves.observable == "given":
        values = runs[["batch_size", "seed"]].assign(optimal_lr=runs["lr"])
    else:
        values = runs[["lr", "batch_size", "seed"]].assign(**{_COLUMN[curves.observable]: runs["response"]})
    if curves.observable == "steps":
        values = values.drop(columns="lr")
    return values.join(runs[_hyper_parameters(runs)])


def _hyper_parameters(runs: pd.DataFrame) -> list[str]:
    known = {"lr", "batch_size", "seed", *CONTROL_COLUMNS}
    return [str(column) for column in runs.columns if column not in known]
