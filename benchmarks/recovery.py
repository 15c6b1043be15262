"""Does the fit find what is true? Simulated sweeps of known truth, and published results: prints tables.

Run: python -m benchmarks.recovery [--sims 500] [--published FOLDER]

Every figure is a share or a median over simulated sweeps of 12 batch sizes, 11 learning rates and 5 seeds, with 10% of
the cells diverged at random and 10% noise in the steps of a run, unless its row says otherwise. A sweep is made as
loss curves and goes the whole way: targets, optima, laws, verdict, trade-off. The law-level power table, where the
noise of the optima themselves is given, is `python -m benchmarks.law_power`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.recovery_sweeps import (
    BASINS,
    BATCH_SIZES,
    MONOTONE,
    PEAKED,
    TARGET_LOSS,
    Case,
    fits_of,
    true_shape_width,
)
from surge_sweeps.fitting import fit
from surge_sweeps.fitting.result import Interval, TargetFit
from surge_sweeps.fitting.tradeoff.fit_tradeoff import analyse_tradeoff
from surge_sweeps.report.words import interval_text
from surge_sweeps.simulate import Damage, Grid, LogSkew, Noise, SignQuadratic, Truth, simulate_branches
from surge_sweeps.simulate import simulate_training as simulate_curves

DAMAGED = Damage(diverged_cells=0.1)


def covers(interval: Interval, truth: float) -> bool:
    """Whether an interval, open ends included, holds the truth."""
    return (interval.low is None or interval.low <= truth) and (
        interval.high is None or truth <= interval.high
    )


def exact_quadratic() -> Iterator[str]:
    """The exact theory of sign descent on a quadratic: its own numbers, and what the fit makes of it."""
    yield "Exact sign descent on a quadratic (d = 40), gain over one step, 2% noise, 24 LRs, 4 seeds"
    for name in ("surge", "weak", "anti_aligned", "diagonal"):
        truth = SignQuadratic.reference(name)
        peak = truth.peak()
        optima = truth.optimal_lr(BATCH_SIZES)
        rates = np.geomspace(optima.min() / 4, 1.9 * optima.max(), 24).tolist()
        curves = simulate_branches(
            truth, Grid(BATCH_SIZES, rates, 4), np.random.default_rng(0), start_losses=[2.0], horizon_steps=1,
            noise=0.02,
        )  # fmt: skip
        found = fit(curves).groups[0].targets[0]
        shown = (
            "none"
            if peak is None
            else f"{peak:.1f}, plateau peak ratio {_ratio(truth):.3f}, half-gain batch "
            f"{float(truth.critical_batch(truth.start_loss)):.1f}"
        )
        yield f"  {name:<14} true B_peak {shown:<55} fit: {found.verdict}, B_peak {interval_text(found.b_peak)}"


def _ratio(truth: SignQuadratic) -> float:
    peak = truth.peak()
    return float(truth.optimal_lr(peak)) / truth.plateau_lr() if peak is not None else 1.0


def coverage(sims: int) -> Iterator[str]:
    """How often 95% intervals hold the truth, and how wide they are against the fit with the true shape."""
    yield "Coverage of 95% intervals (wanted 0.92 to 0.98), width against least squares with the true shape (at most 3)"
    yield (
        f"  {'truth':<18} {'basin':<15} {'surge':>6} {'LR':>6} {'width':>6} {'':>5} "
        f"{'B_peak':>7} {'closed':>6} {'bias':>6} {'B_crit':>7} {'bias':>6}"
    )
    for name, (law, parameters) in PEAKED.items():
        for basin, shape in BASINS.items():
            case = Case(law, parameters, basin=shape, damage=DAMAGED)
            yield f"  {name:<18} {basin:<15} {_coverage_row(case, list(fits_of(case, sims)))}"


def _coverage_row(case: Case, fits: Sequence[TargetFit]) -> str:
    truth = case.truth()
    peak, b_crit = truth.peak(TARGET_LOSS), float(truth.critical_batch(TARGET_LOSS))
    optima = [record for found in fits for record in found.optimal_lr if record.status == "ok"]
    held = [
        (one.low or 0.0) <= float(truth.optimal_lr(one.batch_size, TARGET_LOSS)) <= (one.high or math.inf)
        for one in optima
    ]
    widths = [math.log(one.high / one.low) for one in optima if one.low and one.high]
    width = float(np.median(widths))
    least = true_shape_width(case, case.noise.sd / math.sqrt(case.seeds))
    crits = [found.tradeoff.b_crit for found in fits if found.tradeoff]
    peak = math.nan if peak is None else peak
    return (
        f"{_share(found.verdict == 'surge' for found in fits):6.2f} {_share(held):6.3f} {width:6.3f} "
        f"{width / least:4.1f}x {_share(covers(found.b_peak, peak) for found in fits):7.3f} "
        f"{_share(found.b_peak.status == 'identified' for found in fits):6.2f} "
        f"{_bias([found.b_peak for found in fits], peak):+6.3f} "
        f"{_share(covers(one, b_crit) for one in crits):7.3f} {_bias(crits, b_crit):+6.3f}"
    )


def _share(flags: Iterator[bool] | Sequence[bool]) -> float:
    return float(np.mean(list(flags)))


def _bias(intervals: Sequence[Interval], truth: float) -> float:
    logs = [math.log(one.estimate / truth) for one in intervals if one.estimate]
    return float(np.median(logs)) if logs else math.nan


def conditions() -> dict[str, Case]:
    """What the monotone truths are put through; the law is replaced."""
    plain = Case("sqrt", {"a": 1e-3}, basin=LogSkew(1.0))
    return {
        "5 seeds": plain,
        "diverged 10%": replace(plain, damage=DAMAGED),
        "1 seed": replace(plain, seeds=1),
        "missing 20%": replace(plain, damage=Damage(missing_cells=0.2)),
        "heavy tails": replace(plain, noise=Noise(0.2, tails="student_t3")),
        "falling edge": replace(plain, edge=(1.5, 0.5)),
    }


def false_surges(sims: int) -> Iterator[str]:
    """How often a truth without a peak is called a surge."""
    yield "Verdict surge on a truth without a peak (wanted at most 0.02)"
    columns = conditions()
    yield f"  {'truth':<20}" + "".join(f"{name:>14}" for name in columns)
    for name, (law, parameters) in MONOTONE.items():
        shares = [
            _share(
                found.verdict == "surge"
                for found in fits_of(replace(case, law=law, parameters=parameters), sims)
            )
            for case in columns.values()
        ]
        yield f"  {name:<20}" + "".join(f"{share:14.3f}" for share in shares)


def verdicts(sims: int) -> Iterator[str]:
    """What every truth is called."""
    yield "Verdicts, 5 seeds, 10% of cells diverged"
    for name, (law, parameters) in {**MONOTONE, **PEAKED}.items():
        case = Case(law, parameters, basin=LogSkew(1.0), damage=DAMAGED)
        counts = Counter(found.verdict for found in fits_of(case, sims))
        told = ", ".join(f"{verdict} {count / sims:.2f}" for verdict, count in counts.most_common())
        yield f"  {name:<20} {told}"


def tradeoff_bias(sims: int) -> Iterator[str]:
    """B_crit from steps alone: the fit in log S against the paper's linear fit."""
    yield "Trade-off, true B_crit 100, batch sizes 4 to 4096, one number a batch size"
    b = np.geomspace(4.0, 4096.0, 11)
    for noise in (0.05, 0.1, 0.2):
        rng = np.random.default_rng(0)
        truth = np.log(50 * (1 + 100 / b))
        noisy = truth + noise * rng.standard_normal((4 * sims, b.size))
        found = [analyse_tradeoff(b, steps, np.empty((0, b.size)), "examples") for steps in noisy]
        fits = [one.fit for one in found if one]
        paper = np.median([one.paper_b_crit for one in fits if one.paper_b_crit])
        held = _share(covers(one.b_crit, 100.0) for one in fits)
        yield (
            f"  noise {noise:.0%}: bias {math.expm1(_bias([one.b_crit for one in fits], 100.0)):+.1%}, "
            f"covered {held:.3f}; eq. 22 bias {paper / 100 - 1:+.1%}"
        )


def speed() -> Iterator[str]:
    """Time of one fit, and how it grows with runs and draws."""
    yield "Speed: 12 batch sizes x 12 learning rates x 5 seeds, 10 loss targets (aim: about 5 s at 2,000 draws)"
    truth = Truth("adam_saturation", {"a": 0.02, "b_s": 512.0})
    rates, losses = np.geomspace(0.001, 0.1, 12).tolist(), np.geomspace(1.5, 0.2, 10).tolist()
    for seeds, draws in ((5, 2000), (5, 4000), (10, 2000), (20, 2000), (5, 8000)):
        curves = simulate_curves(truth, Grid(BATCH_SIZES, rates, seeds), np.random.default_rng(0))
        start = time.perf_counter()
        fit(curves, target_losses=losses, n_draws=draws)
        yield f"  {len(curves.runs):5d} runs, {draws:5d} draws: {time.perf_counter() - start:5.2f} s"


def published(folder: Path) -> Iterator[str]:
    """What the fit says of published results, where the files are."""
    from benchmarks.recovery_published import results

    yield f"Published results in {folder.name}/"
    for name, found, wanted in results(folder):
        yield f"  {name}"
        yield f"    found:  {found}"
        yield f"    wanted: {wanted}"


def main(
    sims: Annotated[int, typer.Option(help="Simulated sweeps of each kind.", min=4)] = 500,
    published_folder: Annotated[
        Path | None, typer.Option("--published", help="Folder with published results.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="One table: exact, coverage, false, verdicts, tradeoff, speed.")
    ] = "",
) -> None:
    """Print the tables."""
    tables = {
        "exact": exact_quadratic,
        "coverage": lambda: coverage(sims),
        "false": lambda: false_surges(max(sims // 2, 4)),
        "verdicts": lambda: verdicts(max(sims // 5, 4)),
        "tradeoff": lambda: tradeoff_bias(sims),
        "speed": speed,
    }
    for name, table in tables.items():
        if only in ("", name):
            for line in table():
                print(line, flush=True)
            print(flush=True)
    if published_folder is not None and only in ("", "published"):
        print("\n".join(published(published_folder)), flush=True)


if __name__ == "__main__":
    typer.run(main)
