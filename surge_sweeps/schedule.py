"""A schedule as a plain value: batch size and learning rate as functions of the examples seen.

`recommend` turns a fit into one. At each loss target it takes the largest batch size whose examples to the loss, as
measured, are within a share tau of the fewest: E(B) = S(B) B, which grows as 1 + B / B_crit where the trade-off of
Li et al. 2024 (eq. 20) and McCandlish et al. 2018 (eq. 2.11) holds. The batch size only ever grows, and only onto sizes
that the sweep measured. A constant batch size is a possible answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from surge_sweeps.errors import NotEnoughDataError, SurgeError, UnknownNameError
from surge_sweeps.fitting.batch_counts import FOR_TRADEOFF
from surge_sweeps.fitting.laws.law_class import selected_law
from surge_sweeps.fitting.result import (
    BatchUnit,
    GroupFit,
    OptimalLR,
    PhaseRecord,
    ProblemRecord,
    ScheduleRecord,
    SurgeFit,
    TargetFit,
)
from surge_sweeps.theory import LAWS

#: A share of examples worth paying for larger batches: the definition of critical batch size in Zhang et al.
#: (arXiv 2410.21676) is a 20% overhead as well.
EXAMPLE_OVERHEAD = 0.2

#: Stands for a law's name where a learning rate is the measured optimum itself.
MEASURED = "measured"

#: Standard deviations below the estimate where the verdict is open: the 30% quantile. By Lemma 1 (Li et al. 2024,
#: eq. 7) a learning rate 2x too high loses the whole gain of a step, 2x too low a quarter.
CAUTION_SD = 0.524


@dataclass(frozen=True)
class Schedule:
    """Phases over the examples seen, the last one open-ended.

    Attributes:
        phases: ascending in `from_examples`, the first at 0.
        law: the laws of optimal LR against batch size that the learning rates come from, comma-separated, with
            "measured" for measured optima themselves.
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
        SurgeError: the budget or the overhead is not finite and positive.
    """
    check_schedule_options(budget_examples, example_overhead)
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
    """The fit with a schedule on each group that allows one, and a problem for each that does not.

    Raises:
        SurgeError: the budget or the overhead is not finite and positive.
    """
    check_schedule_options(budget_examples, example_overhead)
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


def check_schedule_options(budget_examples: float | None, example_overhead: float) -> None:
    """Refuse a training length (None: none given) or a share of extra examples that is not finite and positive.

    >>> check_schedule_options(math.inf, 0.2)
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.SurgeError: the budget of inf examples is not finite and positive. ...
    """
    if budget_examples is not None and not 0 < budget_examples < math.inf:
        raise SurgeError(
            f"the budget of {budget_examples:g} examples is not finite and positive.",
            "Give the length of the training, or leave it away.",
        )
    if not 0 < example_overhead < math.inf:
        raise SurgeError(
            f"the example overhead {example_overhead:g} is not finite and positive.",
            "0.2 means 20% more examples.",
        )


@dataclass(frozen=True)
class _Step:
    """What one loss target says: the batch size to use on the way to it, and the learning rate there."""

    target: TargetFit
    point: OptimalLR
    lr: float
    law: str
    from_examples: float = 0.0

    @property
    def batch_size(self) -> int:
        return self.point.batch_size

    def record(self) -> PhaseRecord:
        """Rounded as far as the data could ever tell."""
        return PhaseRecord(
            from_examples=float(round(self.from_examples)),
            loss=self.target.loss,
            batch_size=self.batch_size,
            lr=_rounded(self.lr),
            lr_low=None if self.point.low is None else _rounded(self.point.low),
            lr_high=None if self.point.high is None else _rounded(self.point.high),
            status="measured",
        )


def _rounded(lr: float) -> float:
    return float(f"{lr:.4g}")


def _recommend_group(
    group: GroupFit, batch_unit: BatchUnit, budget_examples: float | None, example_overhead: float
) -> Schedule:
    steps = _steps(group, example_overhead)
    if not steps:
        raise _why_none(group)
    placed = _place(steps)
    end = placed[-1].from_examples + _stretch(placed[-1], placed[-2] if len(placed) > 1 else None)
    phases = _merge(placed)
    records = [phase.record() for phase in phases]
    if round(end) > records[-1].from_examples:
        beyond = {"from_examples": float(round(end)), "loss": None, "status": "extrapolated"}
        records.append(records[-1].model_copy(update=beyond))
    if budget_examples is not None:
        records = [record for record in records if record.from_examples < budget_examples]
    laws = ", ".join(dict.fromkeys(phase.law for phase in phases))
    return Schedule(
        tuple(records), laws, batch_unit, tuple(_assumptions(phases, example_overhead, batch_unit, end))
    )


def _why_none(group: GroupFit) -> NotEnoughDataError:
    """What stands between a group and a schedule: the first of the things needed that is missing."""
    if not group.targets:
        return NotEnoughDataError(
            "no schedule: no loss could be evaluated with these runs.",
            "The fit's problems say what the runs lack.",
        )
    reach = [target for target in group.targets if target.protocol == "reach" and target.loss is not None]
    optima = [point for target in reach for point in target.optimal_lr if point.lr is not None]
    if not optima:
        return NotEnoughDataError(
            "no schedule: it takes losses to reach, with the optimal learning rate and its steps at each batch size.",
            f"Loss curves of runs from scratch at {FOR_TRADEOFF} or more batch sizes, with learning rates either side "
            "of the best, give them.",
        )
    inside = [point for point in optima if point.status == "ok"]
    if not inside:
        return NotEnoughDataError(
            "no schedule: every optimal learning rate lies at an edge of those that were run.",
            "Run learning rates beyond that edge.",
        )
    if all(point.low is None for point in inside):
        return NotEnoughDataError(
            "no schedule: no optimal learning rate here has an interval that is closed below, so none is sure enough "
            "to train with.",
            "More learning rates at each batch size, either side of the best, or more seeds give one.",
        )
    most = max(sum(point.steps is not None for point in target.optimal_lr) for target in reach)
    if most < FOR_TRADEOFF:
        return NotEnoughDataError(
            "no schedule: batch sizes are weighed by the steps to a loss at the optimal learning rate, which takes "
            f"{FOR_TRADEOFF} of them, and no loss has the steps of {f'more than {most}' if most else 'any'}.",
            "Run learning rates either side of the best at more batch sizes, or train longer, so that they get to the "
            "same losses.",
        )
    return NotEnoughDataError(
        "no schedule: no loss has both an optimal learning rate with an interval that is closed below and steps at "
        f"{FOR_TRADEOFF} or more batch sizes to weigh them by.",
        "Run more learning rates either side of the best, or more seeds, or train longer.",
    )


def _steps(group: GroupFit, example_overhead: float) -> list[_Step]:
    """One step per usable reach target, loss falling, batch size never falling."""
    targets = [target for target in group.targets if target.protocol == "reach" and target.loss is not None]
    steps: list[_Step] = []
    for target in sorted(targets, key=lambda item: -float(item.loss or 0.0)):
        measured = _measured(target)
        if target.tradeoff is None or not measured:
            continue
        fewest = min(_examples(point) for point in measured.values())
        affordable = [
            size for size, point in measured.items() if _examples(point) <= (1 + example_overhead) * fewest
        ]
        batch_size = _grow(steps[-1].batch_size if steps else 0, max(affordable), measured)
        if batch_size is not None:
            point = measured[batch_size]
            lr, law = _learning_rate(target, point)
            steps.append(_Step(target, point, lr, law))
    return steps


def _measured(target: TargetFit) -> dict[int, OptimalLR]:
    """Optima that a schedule may use: with the steps they took, and an interval that is closed below."""
    return {
        point.batch_size: point
        for point in target.optimal_lr
        if point.status == "ok" and point.steps is not None and point.low is not None
    }


def _examples(point: OptimalLR) -> float:
    """Examples to the loss at this batch size and its optimal learning rate."""
    return float(point.steps or 0.0) * point.batch_size


def _grow(current: int, wanted: int, measured: Mapping[int, OptimalLR]) -> int | None:
    """`wanted`, never below `current`; a change of less than 2x is not made. None where `current` is not measured."""
    if not current or wanted >= 2 * current:
        return wanted
    return current if current in measured else None


def _learning_rate(target: TargetFit, point: OptimalLR) -> tuple[float, str]:
    """The learning rate at an optimum, and the law it comes from.

    The law of the verdict where its value lies inside the measured interval; else the measured optimum, lowered to
    the 30% quantile of its lower half while the verdict is open.
    """
    measured, low = float(point.lr or 0.0), float(point.low or 0.0)
    sizes = np.array([one.batch_size for one in target.optimal_lr], dtype=float)
    law = selected_law(target.laws, sizes, target.verdict)
    if law is None:
        return cautious_lr(measured, low), MEASURED
    value = float(LAWS[law.name].evaluate(point.batch_size, **law.parameters))
    if low <= value <= (point.high or math.inf):
        return value, law.name
    return measured, MEASURED


def cautious_lr(optimum: float, low: float) -> float:
    """The 30% quantile of an optimal learning rate, from the lower end of its 95% interval.

    >>> round(cautious_lr(0.01, 0.005), 5)
    0.00831
    """
    return float(optimum * (low / optimum) ** (CAUTION_SD / 1.96))


def lowered_optimum(phase: PhaseRecord, targets: Sequence[TargetFit]) -> OptimalLR | None:
    """The measured optimum that a phase's learning rate was set below because the verdict is open; else None.

    `lr_low` and `lr_high` of such a phase are the ends of that optimum's interval.
    """
    for target in targets:
        point = _measured(target).get(phase.batch_size) if target.protocol == "reach" else None
        if point is None:
            continue
        measured, low = float(point.lr or 0.0), float(point.low or 0.0)
        if (_rounded(cautious_lr(measured, low)), _rounded(low)) == (
            phase.lr,
            phase.lr_low,
        ) and low < measured:
            return point
    return None


def _place(steps: Sequence[_Step]) -> list[_Step]:
    """Give each step the examples seen at its start."""
    placed = [steps[0]]
    for step in steps[1:]:
        before = placed[-1]
        start = before.from_examples + _stretch(before, placed[-2] if len(placed) > 1 else None)
        placed.append(replace(step, from_examples=start))
    return placed


def _stretch(step: _Step, before: _Step | None) -> float:
    """Examples from the previous target's loss to this one's, both as measured at this step's batch size."""
    total = _examples(step.point)
    if before is None:
        return total
    earlier = _measured(before.target).get(step.batch_size)
    return max(total - (_examples(earlier) if earlier else _examples(before.point)), 0.0)


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
    return (step.point.low or 0.0) <= lr <= (step.point.high or math.inf)


def _assumptions(phases: Sequence[_Step], overhead: float, unit: BatchUnit, end: float) -> list[str]:
    lines = [
        f"A phase takes the largest batch size that needs at most {overhead:.0%} more {unit} to its loss than the "
        f"batch size that needs the fewest, as measured, each at its own best learning rate.",
        "The batch size only grows, by 2x or more, and only among the batch sizes of the sweep.",
        "The learning rate is that of a constant-rate run to each loss; keep your warm-up and decay as multipliers.",
        f"Measured down to a loss of {phases[-1].target.loss:g}, about {end:.3g} {unit}; what follows carries the last "
        "phase on.",
        "The schedule follows from fits and has not been trained: compare it with the best constant batch size.",
    ]
    open_ones = [f"{phase.target.loss:g}" for phase in phases if phase.law == MEASURED]
    if open_ones:
        lines.append(
            f"In the phases down to loss {', '.join(open_ones)} no law is established at this batch size: the learning "
            "rate is the measured optimum, and below it (30% quantile) where the verdict is open, since too low "
            "costs less than too high."
        )
    return lines
