"""Time of a fit of the demo's size with 2,000 bootstrap draws, by stage, and against a plain loop over draws.

The grid: 2 optimizers x 8 batch sizes x 12 learning rates x 6 seeds from scratch, and 3 checkpoints x 8 x 12 x 20 seeds
branched. The plain loop resamples and fits two polynomials, minimised by `scipy.optimize.minimize_scalar`, draw
by draw and batch size by batch size, on a few draws of one target; the ratio compares time per draw of one target.

Run: python benchmarks/bench_fit.py
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting import fit
from surge_sweeps.fitting.observables.cells import Cells, build_cells
from surge_sweeps.fitting.observables.plan import plan_fit
from surge_sweeps.fitting.optimum.bootstrap import resample
from surge_sweeps.fitting.optimum.search import find_optima
from surge_sweeps.simulate import Grid, Truth, join_curves, simulate_branches, simulate_training

N_DRAWS = 2000
LOOP_DRAWS = 20
BATCH_SIZES = [4, 8, 16, 32, 64, 128, 256, 512]
STAGES = {
    "targets and responses": "plan_fit",
    "optimal learning rates": "find_optima",
    "laws": "fit_laws",
    "verdict": "decide",
    "trade-off": "analyse_tradeoff",
    "drift": "_drift",
}


def demo_curves() -> LossCurves:
    rng = np.random.default_rng(0)
    sign = Truth("surge", {"eps_max": 0.012, "b_noise": 32.0}, peak_drift=0.5, b_crit=48.0)
    adamw = Truth("adam_saturation", {"a": 0.05, "b_s": 256.0}, b_crit=48.0, basin="skewed")
    grids = {"sign": np.geomspace(0.0008, 0.06, 12), "adamw": np.geomspace(0.002, 0.2, 12)}
    parts = [
        simulate_training(
            truth,
            Grid(BATCH_SIZES, grids[name].tolist(), 6),
            rng,
            max_steps=4000,
            target_loss=0.25,
            config={"optimizer": name},
            project=name,
        )
        for name, truth in (("sign", sign), ("adamw", adamw))
    ]
    branch_grid = Grid(BATCH_SIZES, grids["sign"].tolist(), 20)
    branches = simulate_branches(
        sign, branch_grid, rng, start_losses=[1.8, 0.8, 0.35], noise=0.3, config={"optimizer": "sign"}
    )
    return join_curves(*parts, branches)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stage_seconds(curves: LossCurves) -> dict[str, float]:
    """Cumulative seconds of each stage under the profiler, whose own cost falls mostly on small functions."""
    profiler = cProfile.Profile()
    profiler.runcall(fit, curves, n_draws=N_DRAWS)
    by_name: dict[str, float] = {}
    for (_, _, name), row in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        by_name[name] = max(by_name.get(name, 0.0), row[3])
    return {label: by_name.get(name, 0.0) for label, name in STAGES.items()}


def plain_loop(cells: Cells, rng: np.random.Generator) -> None:
    """One draw at a time, one batch size at a time, two polynomials each, minimised by scipy."""
    for _ in range(LOOP_DRAWS):
        for batch in range(cells.batch_sizes.size):
            columns = np.nonzero(cells.usable()[batch])[0]
            x = cells.log_lr[batch, columns]
            runs = [
                cells.values[batch, column][np.isfinite(cells.values[batch, column])] for column in columns
            ]
            response = np.array([rng.choice(values, values.size).mean() for values in runs])
            near = response <= response.min() + 1.2
            for degree in (2, 3):
                if near.sum() > degree:
                    curve = np.poly1d(np.polyfit(x[near], response[near], degree))
                    minimize_scalar(curve, bounds=(x[near].min(), x[near].max()), method="bounded")


def loop_ratio(curves: LossCurves) -> float:
    """How many times longer the plain loop takes per draw of one target."""
    rng = np.random.default_rng(0)
    part = plan_fit(curves).groups[0].parts[0]
    cells = build_cells(part.curves.runs, part.responses, 0)
    loop = seconds(lambda: plain_loop(cells, rng)) / LOOP_DRAWS
    own = seconds(lambda: find_optima(cells, "reach", resample(cells, N_DRAWS, rng))) / N_DRAWS
    return loop / own


def main() -> None:
    curves = demo_curves()
    fit(curves, n_draws=50)
    total = seconds(lambda: fit(curves, n_draws=N_DRAWS))
    targets = sum(len(group.targets()) for group in plan_fit(curves).groups)
    print(f"fit of {len(curves.runs)} runs, {targets} targets, {N_DRAWS} draws: {total:.2f} s (aim: 5 s)")
    stages = stage_seconds(curves)
    profiled = sum(stages.values())
    for label, spent in stages.items():
        print(f"  {label:<24}{100 * spent / profiled:5.1f} %")
    print(f"plain scipy loop / batched bootstrap, time per draw of one target: {loop_ratio(curves):.0f}x")


if __name__ == "__main__":
    main()
