"""Power, false surges and coverage of the laws and the verdict, on optima drawn from known laws.

12 batch sizes from 4 to 4096 in equal ratios; `sd` is the standard deviation of one log optimum. The draws show it
exactly ("exact") or only as well as five seeds do ("seeds": 4 degrees of freedom a batch size). Errors are normal, t
with 3 degrees of freedom scaled to `sd`, normal with one optimum 5 sd off, or normal with a stability edge that falls
as 1/sqrt(B) and caps the optima. Gates: laws, B_peak, model-free, edges, size; each printed with its pass rate.

Run: python -m benchmarks.law_power [--sims 300] [--tables power false coverage]
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from surge_sweeps.fitting.laws.fit_laws import LawFits, fit_laws
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.result import Interval, OptimumStatus
from surge_sweeps.fitting.verdict.decide import decide
from surge_sweeps.fitting.verdict.surge_gates import weigh_surge
from surge_sweeps.theory import LAWS

FloatArray = NDArray[np.float64]

BATCH_SIZES: FloatArray = 4.0 * 2 ** np.linspace(0, 10, 12)
SURGES: dict[str, tuple[str, dict[str, float]]] = {
    "thm3": ("surge", {"eps_max": 0.01, "b_noise": 64.0}),
    "kappa 9": ("surge_plateau", {"a": 0.01, "b_s": 512.0, "kappa": 9.0}),
    "kappa 3": ("surge_plateau", {"a": 0.01, "b_s": 128.0, "kappa": 3.0}),
}
MONOTONE: dict[str, tuple[str, dict[str, float]]] = {
    "constant": ("constant", {"a": 0.01}),
    "sqrt": ("sqrt", {"a": 1e-4}),
    "linear": ("linear", {"a": 1e-5}),
    "power .3": ("power", {"a": 1e-3, "alpha": 0.3}),
    "power -.3": ("power", {"a": 1e-2, "alpha": -0.3}),
    "adam inside": ("adam_saturation", {"a": 0.01, "b_s": 128.0}),
    "adam beyond": ("adam_saturation", {"a": 0.01, "b_s": 8192.0}),
    "sgd": ("sgd_saturation", {"eps_max": 0.01, "b_noise": 128.0}),
    "kappa 1": ("surge_plateau", {"a": 0.01, "b_s": 128.0, "kappa": 1.0}),
    "kappa .7": ("surge_plateau", {"a": 0.01, "b_s": 128.0, "kappa": 0.7}),
}
#: Flat, then falling: monotone, but the shape of no candidate law.
FLAT_THEN_FALLING = "flat, then B^-.5"
SDS = (0.05, 0.1, 0.2, 0.35)
SPREADS = ("exact", "seeds")
ERRORS = ("normal", "t3", "outlier", "edge")

_SEED_FREEDOM = 4
_N_DRAWS = 1000
_OUTLIER_SDS = 5.0
_EDGE_OVER_OPTIMUM = 1.05
_GATES = 5


class Case(NamedTuple):
    """What is simulated: a truth, the noise of one optimum, how well the draws know it, the kind of errors."""

    truth: str
    sd: float
    spread: str
    errors: str = "normal"


def log_curve(truth: str) -> FloatArray:
    """(12,) true log optimal LR."""
    if truth == FLAT_THEN_FALLING:
        return np.asarray(-5 - 0.5 * np.log(np.maximum(BATCH_SIZES / 128, 1)))
    name, parameters = {**SURGES, **MONOTONE}[truth]
    return np.log(np.broadcast_to(LAWS[name].evaluate(BATCH_SIZES, **parameters), BATCH_SIZES.shape))


def falling_edge(truth: str) -> dict[float, float]:
    """Log of a largest LR that trains: it meets the curve at batch size 128 and falls as 1/sqrt(B)."""
    middle = int(np.argmin(np.abs(np.log(BATCH_SIZES / 128))))
    log_edge = log_curve(truth)[middle] - 0.5 * np.log(BATCH_SIZES / BATCH_SIZES[middle])
    return {float(b): float(height) for b, height in zip(BATCH_SIZES, log_edge, strict=True)}


def simulate(case: Case, rng: np.random.Generator) -> Optima:
    """Optima of one sweep."""
    n = BATCH_SIZES.size
    errors = rng.standard_t(3, n) / math.sqrt(3) if case.errors == "t3" else rng.standard_normal(n)
    if case.errors == "outlier":
        errors[rng.integers(n)] += _OUTLIER_SDS * rng.choice([-1.0, 1.0])
    log_lr = log_curve(case.truth)
    if case.errors == "edge":
        cap = np.array(list(falling_edge(case.truth).values())) - math.log(_EDGE_OVER_OPTIMUM)
        log_lr = np.minimum(log_lr, cap)
    log_lr = log_lr + case.sd * errors
    sd = np.full(n, case.sd)
    if case.spread == "seeds":
        sd = sd * np.sqrt(rng.chisquare(_SEED_FREEDOM, n) / _SEED_FREEDOM)
    draws = log_lr + sd * rng.standard_normal((_N_DRAWS, n))
    nothing = np.full(n, np.nan)
    ok: OptimumStatus = "ok"
    return Optima(BATCH_SIZES, log_lr, (ok,) * n, draws, nothing, np.full_like(draws, np.nan), (55,) * n)


def verdict_rates(case: Case, sims: int) -> tuple[Counter[str], FloatArray, float]:
    """Verdicts, pass rate of each gate, and how often a second rise is claimed, over simulated sweeps."""
    rng = np.random.default_rng(1)
    edge = falling_edge(case.truth) if case.errors == "edge" else None
    names: Counter[str] = Counter()
    passed, alarms = np.zeros(_GATES), 0
    for _ in range(sims):
        optima = simulate(case, rng)
        fits = fit_laws(optima)
        verdict = decide(optima, fits, np.random.default_rng(2), edge)
        names[verdict.name] += 1
        alarms += any("rises again" in reason for reason in verdict.reasons)
        gates = weigh_surge(fits, np.random.default_rng(2)).gates
        passed[: len(gates)] += [gate.passed for gate in gates]
    return names, passed / sims, alarms / sims


def print_verdicts(cases: list[Case], sims: int) -> None:
    """One line a case: share of surge verdicts, gates, second-rise alarms, the most frequent verdicts."""
    print(
        f"{'truth':<18}{'sd':>5} {'spread':<7}{'errors':<8}{'surge':>7}   gates laws peak free edge size   2nd rise"
    )
    for case in cases:
        names, gates, alarms = verdict_rates(case, sims)
        rates = " ".join(f"{rate:4.2f}" for rate in gates)
        most = ", ".join(f"{name} {count / sims:.2f}" for name, count in names.most_common(3))
        print(
            f"{case.truth:<18}{case.sd:>5g} {case.spread:<7}{case.errors:<8}{names['surge'] / sims:>7.3f}"
            f"         {rates}   {alarms:.3f}   {most}",
            flush=True,
        )


COVERED: dict[str, Mapping[str, float]] = {
    "thm3": {"b_peak": 64.0, "b_noise": 64.0, "kappa": 1e9},
    "kappa 9": {"b_peak": 64.0, "b_noise": 512.0 / 9, "kappa": 9.0},
    "power .3": {"alpha": 0.3},
    "power -.3": {"alpha": -0.3},
    "adam inside": {"b_noise": 128.0},
    "sgd": {"b_noise": 128.0},
}


def intervals_of(fits: LawFits, truth: str) -> dict[str, Interval]:
    """The intervals that `COVERED` asks for."""
    law = {**SURGES, **MONOTONE}[truth][0]
    found = {
        "b_peak": fits.b_peak,
        "kappa": fits.kappa,
        "b_noise": fits.b_noise(law),
        "alpha": fits.exponent(),
    }
    return {name: found[name] for name in COVERED[truth]}


def print_coverage(sims: int, sds: list[float], spreads: list[str]) -> None:
    """Share of intervals that hold the truth (open ends hold everything), and of those closed on both sides."""
    for truth, quantities in COVERED.items():
        for sd in sds:
            for spread in spreads:
                rng = np.random.default_rng(3)
                found = [
                    intervals_of(fit_laws(simulate(Case(truth, sd, spread), rng)), truth) for _ in range(sims)
                ]
                cells = []
                for name, value in quantities.items():
                    held = np.mean([_holds(one[name], value) for one in found])
                    closed = np.mean([one[name].status == "identified" for one in found])
                    cells.append(f"{name} {held:.3f} (closed {closed:.2f})")
                print(f"{truth:<18}{sd:>5g} {spread:<7}{'; '.join(cells)}", flush=True)


def _holds(interval: Interval, value: float) -> bool:
    above = interval.low is None or interval.low <= value
    return above and (interval.high is None or interval.high >= value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sims", type=int, default=300, help="simulated sweeps a line")
    parser.add_argument(
        "--tables", nargs="+", choices=("power", "false", "coverage"), help="default: all three"
    )
    parser.add_argument(
        "--errors", nargs="+", choices=ERRORS, default=list(ERRORS), help="of the table of false surges"
    )
    parser.add_argument("--sds", nargs="+", type=float, default=list(SDS), help="of one log optimum")
    parser.add_argument(
        "--spreads", nargs="+", choices=SPREADS, default=list(SPREADS), help="how the draws know it"
    )
    options = parser.parse_args()
    tables = options.tables or ["power", "false", "coverage"]
    with threadpool_limits(1, user_api="blas"):
        if "power" in tables:
            cases = [
                Case(truth, sd, spread)
                for truth in SURGES
                for sd in options.sds
                for spread in options.spreads
            ]
            print_verdicts(cases, options.sims)
        if "false" in tables:
            truths = [*MONOTONE, FLAT_THEN_FALLING]
            cases = [
                Case(truth, sd, spread, errors)
                for errors in options.errors for truth in truths for sd in options.sds for spread in options.spreads
            ]  # fmt: skip
            print_verdicts(cases, options.sims)
        if "coverage" in tables:
            print_coverage(options.sims, options.sds, options.spreads)


if __name__ == "__main__":
    main()
