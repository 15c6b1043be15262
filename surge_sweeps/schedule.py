"""A schedule as a plain value: batch size and learning rate as functions of the examples seen.

`recommend` turns a fit into one. The batch size follows the critical batch size as the loss falls: B = tau B_crit costs
a share tau more examples than the smallest batch size would, since examples to a loss are E = E_min (1 + B / B_crit)
(Li et al. 2024, eq. 20; McCandlish et al. 2018, eq. 2.11). It only ever grows, only onto batch sizes that the sweep
measured, and only once the data are sure of the room for it. A constant batch size is a possible answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from surge_sweeps.errors import NotEnoughDataError, SurgeError, UnknownNameError
from surge_sweeps.fitting.law_class import selected_law
from surge_sweeps.fitting.result import (
    BatchUnit,
    GroupFit,
    LawFit,
    OptimalLR,
    PhaseRecord,
    ProblemRecord,
    ScheduleRecord,
    SurgeFit,
    TargetFit,
    TradeoffFit,
)
from surge_sweeps.theory import LAWS

#: A share of examples worth paying for larger batches: the definition of critical batch size in Zhang et al.
#: (arXiv 2410.21676) is a 20% overhead as well.
EXAMPLE_OVERHEAD = 0.2

#: Standard deviations below the estimate where the verdict is open: the 30% quantile. By Lemma 1 (Li et al. 2024,
#: eq. 7) a learning rate 2x too high loses the whole gain of a step, 2x too low a quarter.
CAUTION_SD = 0.524


@dataclass(frozen=True)
class Schedule:
    """Phases over the examples seen, the last one open-ended.

    Attributes:
        phases: ascending in `from_examples`, the first at 0.
        law: the law of optimal LR against batch size that the learning rates come from, or "measured" for the
            measured optima themselves.
        batch_unit: what examples and batch sizes count.
        assumptions: what the recommendation rests on, in sentences.

    >>> phase = PhaseRecord(
    ...     from_examples=0, loss=1.0, batch_size=32, lr=0.01, lr_low=0.008, lr_high=0.012, status="measured")
    >>> later = phase.model_copy(update={"from_examples": 5000.0, "batch_size": 64, "lr": 0.014})
    >>> schedule = Schedule((phase, later), law="sqrt", batch_unit="examples", assumptions=())
    >>> schedule.batch_size(100), schedule.batch_size(5000), schedule.lr(7000)
    (32, 64, 0.014)
    """

    phases: tuple[PhaseRecord, ...]
    law: str
    batch_unit: BatchUnit
    assumptions: tuple[str, ...]

    def __post_init__(self) -> None:
        starts = [phase.from_examples for phase in self.phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise SurgeError(f"the phases of a schedule start at 0 and ascend; these start at {starts}.")

    def phase(self, examples: float) -> PhaseRecord:
        """The phase in force once `examples` have been seen. Raises `SurgeError` for a negative number."""
        if not examples >= 0:
            raise SurgeError(
                f"examples seen cannot be {examples}.", "Count them from 0 at the start of training."
            )
        return [phase for phase in self.phases if phase.from_examples <= examples][-1]

    def batch_size(self, examples: float) -> int:
        """Batch size once `examples` have been seen."""
        return self.phase(examples).batch_size

    def lr(self, examples: float) -> float:
        """Learning rate once `examples` have been seen: one a phase, to be multiplied onto warm-up or decay."""
        return self.phase(examples).lr

    def to_record(self) -> ScheduleRecord:
        """The schedule as it stands in `fit.json` and `schedule.yaml`."""
        return ScheduleRecord(
            batch_unit=self.batch_unit,
            law=self.law,
            phases=list(self.phases),
            assumptions=list(self.assumptions),
        )

    @classmethod
    def from_record(cls, record: ScheduleRecord) -> Schedule:
        """Read back what `to_record` gave."""
        return cls(tuple(record.phases), record.law, record.batch_unit, tuple(record.assumptions))


def recommend(
    fit: SurgeFit,
    *,
    group: str | None = None,
    budget_examples: float | None = None,
    example_overhead: float = EXAMPLE_OVERHEAD,
) -> Schedule:
    """The schedule that follows from a fit.

    Args:
        fit: with reach targets; steps to a loss are what a batch size costs.
        group: label of the group of hyper-parameters (`GroupFit.label`), needed when there are several.
        budget_examples: training length, in the batch unit; phases that start later are left out.
        example_overhead: tau, the share of extra examples accepted for larger batches.

    Raises:
        UnknownNameError: no such group, or several and none named.
        NotEnoughDataError: the data cannot give a schedule; the message says what is missing.
    """
    labels = {item.label(): item for item in fit.groups}
    if group is None and len(labels) == 1:
        (chosen,) = labels.values()
    elif group is None and labels:
        raise SurgeError(
            "the project has several groups of runs.", f"Name one as group=: {', '.join(labels)}."
        )
    elif group not in labels:
        raise UnknownNameError("group", str(group), labels)
    else:
        chosen = labels[group]
    return _recommend_group(chosen, fit.batch_unit, budget_examples, example_overhead)


def attach_schedules(
    fit: SurgeFit, *, budget_examples: float | None = None, example_overhead: float = EXAMPLE_OVERHEAD
) -> SurgeFit:
    """The fit with a schedule on each group that allows one, and a problem for each that does not."""
    groups: list[GroupFit] = []
    problems = list(fit.problems)
    for group in fit.groups:
        try:
            schedule = _recommend_group(group, fit.batch_unit, budget_examples, example_overhead)
        except NotEnoughDataError as error:
            problems.append(ProblemRecord(run=None, what=f"{group.label()}: {error}"))
            groups.append(group)
        else:
            groups.append(group.model_copy(update={"schedule": schedule.to_record()}))
    return fit.model_copy(update={"groups": groups, "problems": problems})


@dataclass(frozen=True)
class _Step:
    """What one loss target says: the batch size to use on the way to it, and the learning rate there."""

    target: TargetFit
    tradeoff: TradeoffFit
    batch_size: int
    lr: float
    lr_low: float | None
    lr_high: float | None
    from_examples: float = 0.0

    def examples_to(self, batch_size: int) -> float:
        """E = E_min + S_min B (eq. 20 at constant B)."""
        return float(self.tradeoff.e_min or 0.0) + float(self.tradeoff.s_min or 0.0) * batch_size

    def record(self) -> PhaseRecord:
        """Rounded as far as the data could ever tell."""
        return PhaseRecord(
            from_examples=float(round(self.from_examples)),
            loss=self.target.loss,
            batch_size=self.batch_size,
            lr=_rounded(self.lr),
            lr_low=None if self.lr_low is None else _rounded(self.lr_low),
            lr_high=None if self.lr_high is None else _rounded(self.lr_high),
            status="measured",
        )


def _rounded(lr: float) -> float:
    return float(f"{lr:.4g}")


def _recommend_group(
    group: GroupFit, batch_unit: BatchUnit, budget_examples: float | None, example_overhead: float
) -> Schedule:
    if example_overhead <= 0:
        raise SurgeError(
            f"the example overhead {example_overhead} must be positive.", "0.2 means 20% more examples."
        )
    steps = _steps(group, example_overhead)
    if not steps:
        raise NotEnoughDataError(
            "no schedule: no loss target has both an optimal learning rate and a critical batch size.",
            "Run from scratch to a common loss at 4 or more batch sizes, with learning rates either side of the best.",
        )
    placed = _place(steps)
    end = placed[-1].from_examples + _stretch(placed[-1], placed[-2] if len(placed) > 1 else None)
    phases = _merge(placed)
    records = [phase.record() for phase in phases]
    if round(end) > records[-1].from_examples:
        beyond = {"from_examples": float(round(end)), "loss": None, "status": "extrapolated"}
        records.append(records[-1].model_copy(update=beyond))
    if budget_examples is not None:
        records = [record for record in records if record.from_examples < budget_examples]
    law = _law(steps[-1].target)
    assumptions = _assumptions(steps, example_overhead, batch_unit, end)
    return Schedule(tuple(records), law.name if law else "measured", batch_unit, tuple(assumptions))


def _steps(group: GroupFit, example_overhead: float) -> list[_Step]:
    """One step per usable reach target, loss falling, batch size never falling."""
    targets = [target for target in group.targets if target.protocol == "reach" and target.loss is not None]
    steps: list[_Step] = []
    for target in sorted(targets, key=lambda item: -float(item.loss or 0.0)):
        room = _sure_room(target.tradeoff)
        known = {point.batch_size: point for point in target.optimal_lr if point.status == "ok"}
        if room is None or target.tradeoff is None or not known:
            continue
        floor = steps[-1].batch_size if steps else 0
        batch_size = _grow(floor, example_overhead * room, sorted(known))
        if batch_size is not None:
            steps.append(_step(target, target.tradeoff, known[batch_size]))
    return steps


def _sure_room(tradeoff: TradeoffFit | None) -> float | None:
    """The B_crit that the data are sure of: the lower end of its interval, None where there is none."""
    if tradeoff is None or tradeoff.s_min is None or tradeoff.e_min is None:
        return None
    return tradeoff.b_crit.low


def _grow(current: int, wanted: float, measured: Sequence[int]) -> int | None:
    """The measured batch size nearest below `wanted`, never below `current`; changes smaller than 2x are not made."""
    below = [size for size in measured if size <= wanted]
    candidate = below[-1] if below else measured[0]
    if not current:
        return candidate
    if candidate >= 2 * current:
        return candidate
    return current if current in measured else None


def _step(target: TargetFit, tradeoff: TradeoffFit, point: OptimalLR) -> _Step:
    lr = _learning_rate(target, point)
    return _Step(target, tradeoff, point.batch_size, lr, point.low, point.high)


def _law(target: TargetFit) -> LawFit | None:
    """The law that stands for the verdict; None where the verdict is open."""
    sizes = np.array([point.batch_size for point in target.optimal_lr], dtype=float)
    return selected_law(target.laws, sizes, target.verdict)


def _learning_rate(target: TargetFit, point: OptimalLR) -> float:
    """The law's value where it lies inside the measured interval, else the measured one, with caution where open."""
    measured = float(point.lr or 0.0)
    law = _law(target)
    if law is None:
        if point.low is None or point.high is None:
            return measured
        sd = (math.log(point.high) - math.log(point.low)) / (2 * 1.96)
        return measured * math.exp(-CAUTION_SD * sd)
    value = float(LAWS[law.name].evaluate(point.batch_size, **law.parameters))
    inside = (point.low or 0.0) <= value <= (point.high or math.inf)
    return value if inside else measured


def _place(steps: Sequence[_Step]) -> list[_Step]:
    """Give each step the examples seen at its start: the stretch to a loss costs what the trade-off says."""
    placed = [steps[0]]
    for step in steps[1:]:
        before = placed[-1]
        reached = before.from_examples + _stretch(before, placed[-2] if len(placed) > 1 else None)
        placed.append(replace(step, from_examples=max(reached, before.from_examples)))
    return placed


def _stretch(step: _Step, before: _Step | None) -> float:
    """Examples from the previous target's loss to this one's at this step's batch size."""
    start = before.examples_to(step.batch_size) if before else 0.0
    return max(step.examples_to(step.batch_size) - start, 0.0)


def _merge(steps: Sequence[_Step]) -> list[_Step]:
    """Drop changes that the data do not support: same batch size, and either LR inside the other's interval."""
    merged = [steps[0]]
    for step in steps[1:]:
        force = merged[-1]
        if step.batch_size == force.batch_size and (_within(step.lr, force) or _within(force.lr, step)):
            # The phase in force now leads down to this step's loss.
            merged[-1] = replace(force, target=step.target)
        elif round(step.from_examples) > round(force.from_examples):
            merged.append(step)
        else:
            merged[-1] = replace(step, from_examples=force.from_examples)
    return merged


def _within(lr: float, step: _Step) -> bool:
    return (step.lr_low or 0.0) <= lr <= (step.lr_high or math.inf)


def _assumptions(steps: Sequence[_Step], overhead: float, unit: BatchUnit, end: float) -> list[str]:
    lowest = steps[-1].target.loss
    lines = [
        f"Larger batches may cost up to {overhead:.0%} more {unit} than the smallest batch size would: "
        f"B = {overhead:g} B_crit, with the lower end of B_crit's interval.",
        "The batch size only grows, and only among the batch sizes of the sweep.",
        "The learning rate is that of a constant-rate run to each loss; keep your warm-up and decay as multipliers.",
        f"Measured down to a loss of {lowest:g}, about {end:.3g} {unit}; later phases carry the last one on.",
        "The schedule follows from fits and has not been trained: compare it with the best constant batch size.",
    ]
    if _law(steps[-1].target) is None:
        lines.append(
            "No law of LR against batch size is established, so the learning rates are the 30% quantile of the "
            "measured optima: too low costs less than too high."
        )
    return lines
