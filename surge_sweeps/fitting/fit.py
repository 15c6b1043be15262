"""From loss curves to a `SurgeFit`: groups, targets, optimal learning rates, laws, verdicts, trade-off and drift.

Never an exception for thin data: what cannot be fitted is missing from the result, and `problems` says what to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.drift.drift_data import DriftTarget
from surge_sweeps.fitting.drift.joint_drift import drift_of_b_crit, drift_of_peak
from surge_sweeps.fitting.drift.theory_tests import theory_tests
from surge_sweeps.fitting.gaps import group_gaps, target_gaps
from surge_sweeps.fitting.laws.fit_laws import LawFits, fit_laws
from surge_sweeps.fitting.observables.cells import Cells, build_cells
from surge_sweeps.fitting.observables.plan import GroupPlan, plan_fit
from surge_sweeps.fitting.observables.targets import Target, TargetRuns
from surge_sweeps.fitting.optimum.bootstrap import resample
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.optimum.search import OptimumSearch, find_optima
from surge_sweeps.fitting.optimum.tuned import tuned_optima
from surge_sweeps.fitting.records import optimal_lr_records, stability_edge_records
from surge_sweeps.fitting.result import (
    DriftFit,
    GroupFit,
    ProblemRecord,
    SurgeFit,
    TargetFit,
)
from surge_sweeps.fitting.summary import target_label
from surge_sweeps.fitting.tradeoff.fit_tradeoff import TradeoffDetails, analyse_tradeoff
from surge_sweeps.fitting.verdict.decide import Verdict, decide

#: Fewer draws have no 95% interval.
MIN_DRAWS = 40


class _Fitted(NamedTuple):
    """One target's record, with what the drift needs."""

    record: TargetFit
    optima: Optima
    law_fits: LawFits
    tradeoff: TradeoffDetails | None


def fit(
    curves: LossCurves,
    *,
    protocol: str | None = None,
    target_losses: Sequence[float] | None = None,
    horizon_steps: int | None = None,
    n_draws: int = 2000,
    seed: int = 0,
) -> SurgeFit:
    """Measure the optimal learning rate at every batch size and what follows from it.

    Args:
        curves: the runs. Those without a result are left out and counted in the problems.
        protocol: `reach` (steps to a loss, runs from scratch), `gain` (loss decrease over K steps from a common
            checkpoint, else after the first crossing of a loss), `final` (loss at the end of a common budget), or None
            for reach, and gain from checkpoints, where the runs allow. A table with one number a run answers its own
            protocol only: `final`, `gain`, `steps` or `given`.
        target_losses: the losses to reach; None chooses up to four from the curves of each group.
        horizon_steps: K of the gain, or the steps of the final loss; None takes the common last step of the runs.
        n_draws: bootstrap draws.
        seed: of the bootstrap. The same curves, options and seed give the same result, bit for bit.

    Returns:
        One group for each set of hyper-parameters; empty groups or targets where the runs allow none.

    Raises:
        UnknownNameError: no such protocol.
        SurgeError: a target loss is not finite, the horizon is not positive, there are too few draws, or the protocol
            needs other data.

    >>> from surge_sweeps.simulate import Grid, Truth, simulate_training
    >>> grid = Grid([4, 8, 16, 32, 64], np.geomspace(0.01, 0.4, 12), 4)
    >>> curves = simulate_training(Truth("sqrt", {"a": 0.02}), grid, np.random.default_rng(0), noise=0.05)
    >>> found = fit(curves, target_losses=[0.5], n_draws=200).groups[0].targets[0]
    >>> found.verdict, [round(record.lr, 2) for record in found.optimal_lr]
    ('sqrt', [0.04, 0.06, 0.08, 0.12, 0.16])
    """
    if n_draws < MIN_DRAWS or seed < 0:
        raise SurgeError(
            f"{n_draws} draws with seed {seed} cannot be made.",
            f"Give at least {MIN_DRAWS} draws and a seed that is not negative.",
        )
    plan = plan_fit(curves, protocol=protocol, target_losses=target_losses, horizon_steps=horizon_steps)
    rng = np.random.default_rng(seed)
    problems = [ProblemRecord(run=problem.run, what=problem.what) for problem in curves.problems]
    problems += [ProblemRecord(run=None, what=text) for text in plan.problems]
    groups = []
    for group in plan.groups:
        # Thousands of problems of a few numbers each: waking BLAS threads for one costs more than solving it. One
        # thread also gives the same bits whatever the number of cores.
        with threadpool_limits(1, user_api="blas"):
            fitted, gaps = _fit_group(group, n_draws, rng)
        groups.append(fitted)
        name = fitted.label() if fitted.group else ""
        problems += [ProblemRecord(run=None, what=f"{name}: {text}" if name else text) for text in gaps]
    if not groups:
        problems.append(ProblemRecord(run=None, what=_nothing(curves)))
    return SurgeFit(
        project=curves.project,
        source=curves.source,
        batch_unit=curves.batch_unit,
        problems=problems,
        groups=groups,
    )


def _nothing(curves: LossCurves) -> str:
    if curves.runs.empty:
        return (
            "there are no runs: launch a sweep over learning rates and batch sizes, or name another project"
        )
    return "no run has a result yet: wait for them, or launch the sweep again"


def _fit_group(plan: GroupPlan, n_draws: int, rng: np.random.Generator) -> tuple[GroupFit, list[str]]:
    tuned = any(target.tuned for target in plan.targets())
    protocols = {target.protocol for target in plan.targets()} or {"reach"}
    counts_steps = not protocols.isdisjoint(("reach", "steps"))
    gaps = [] if tuned else group_gaps(plan.group.curves.runs, counts_steps=counts_steps)
    fitted: list[_Fitted] = []
    for part in plan.parts:
        fit_targets = _fit_tuned if part.targets[0].tuned else _fit_part
        found, missing = fit_targets(part, n_draws, rng)
        fitted += found
        gaps += missing
    group = GroupFit(
        group=plan.group.key, targets=[one.record for one in fitted], drift=_drift(fitted), schedule=None
    )
    return group, gaps


def _fit_part(part: TargetRuns, n_draws: int, rng: np.random.Generator) -> tuple[list[_Fitted], list[str]]:
    """All targets of runs in common; draw i takes the same runs at each of them."""
    fitted: list[_Fitted] = []
    gaps: list[str] = []
    resampling = None
    for column, target in enumerate(part.targets):
        cells = build_cells(part.curves.runs, part.responses, column)
        resampling = resampling or resample(cells, n_draws, rng)
        search = find_optima(cells, target.protocol, resampling)
        one = _fit_target(target, search, cells, part.curves, rng)
        fitted.append(one)
        gaps += [f"{target.label()}: {text}" for text in target_gaps(cells, search.optima)]
        gaps += _warnings(one)
    return fitted, gaps


def _fit_tuned(part: TargetRuns, n_draws: int, rng: np.random.Generator) -> tuple[list[_Fitted], list[str]]:
    """Targets whose learning rates were tuned before: laws and trade-off alone are left to fit."""
    fitted: list[_Fitted] = []
    for target in part.targets:
        optima = tuned_optima(part.curves, part.responses, target.protocol, n_draws, rng)
        search = OptimumSearch(optima, tuple((None, None) for _ in optima.batch_sizes), np.empty(0))
        one = _fit_target(target, search, None, part.curves, rng)
        fitted.append(one if optima.known().any() else one._replace(record=_without_rates(one.record)))
    return fitted, [text for one in fitted for text in _warnings(one)]


def _without_rates(record: TargetFit) -> TargetFit:
    """A target of steps alone: no learning rate was recorded, which is no fault of the grid."""
    given = [optimum.model_copy(update={"status": "given"}) for optimum in record.optimal_lr]
    reason = (
        "The table holds steps to a goal and no learning rates: it tells how steps trade against examples, not how "
        "the optimal learning rate moves. Name the column of the learning rates with --lr-column where there is one."
    )
    return record.model_copy(update={"optimal_lr": given, "reasons": [reason]})


def _warnings(one: _Fitted) -> list[str]:
    return (
        [f"{target_label(one.record)}: {one.tradeoff.warning}"]
        if one.tradeoff and one.tradeoff.warning
        else []
    )


def _fit_target(
    target: Target,
    search: OptimumSearch,
    cells: Cells | None,
    curves: LossCurves,
    rng: np.random.Generator,
) -> _Fitted:
    optima = search.optima
    law_fits = fit_laws(optima)
    verdict = decide(optima, law_fits, rng, stability_edge=cells.stability_limits() if cells else {})
    tradeoff = None
    if target.protocol in ("reach", "steps"):
        tradeoff = analyse_tradeoff(
            optima.batch_sizes, optima.log_steps, optima.log_steps_draws, curves.batch_unit
        )
    record = TargetFit(
        protocol=target.protocol,
        loss=target.loss,
        horizon_steps=target.horizon_steps,
        start=target.start,
        optimal_lr=optimal_lr_records(search),
        stability_edge=stability_edge_records(cells) if cells else [],
        tradeoff=tradeoff.fit if tradeoff else None,
        laws=list(law_fits.fits),
        verdict=verdict.name,
        reasons=list(verdict.reasons),
        b_peak=verdict.b_peak,
        b_noise=verdict.b_noise,
        minimum_detectable_kappa=verdict.minimum_detectable_kappa,
        tests=theory_tests(
            optima, _surge_scatter(law_fits), peak_supported=_peak_supported(verdict, law_fits)
        ),
    )
    return _Fitted(record, optima, law_fits, tradeoff)


def _peak_supported(verdict: Verdict, law_fits: LawFits) -> bool:
    """Whether the optima show a peak: a surge, or B_peak closed on both sides."""
    return verdict.name == "surge" or law_fits.b_peak.status == "identified"


def _drift(fitted: list[_Fitted]) -> DriftFit:
    """B_peak over the gain targets where they show its drift, else over the reach targets; B_crit over the latter."""
    fitted = [one for one in fitted if one.record.loss is not None and one.record.loss > 0]
    gain = [_drift_target(one) for one in fitted if one.record.protocol == "gain"]
    reach = [_drift_target(one) for one in fitted if one.record.protocol == "reach"]
    b_peak = drift_of_peak(gain)
    if b_peak.status == "not_identified":
        b_peak = drift_of_peak(reach)
    return DriftFit(b_peak=b_peak, b_crit=drift_of_b_crit(reach))


def _drift_target(one: _Fitted) -> DriftTarget:
    return DriftTarget(one.record.loss or 0.0, one.optima, _surge_scatter(one.law_fits))


def _surge_scatter(law_fits: LawFits) -> float:
    return law_fits.scatter_sd.get("surge_plateau", 0.0)
