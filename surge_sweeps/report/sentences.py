"""The sentences of the first screen: the verdict over all losses, and the schedule or why there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from surge_sweeps.counting import counted
from surge_sweeps.fitting.result import (
    GroupFit,
    OptimalLR,
    PhaseRecord,
    ProblemRecord,
    ScheduleRecord,
    TargetFit,
    VerdictName,
)
from surge_sweeps.report.families import has_rates, target_label
from surge_sweeps.report.numbers import batch_text, count_text, list_text, loss_text, lr_text
from surge_sweeps.report.table_words import advice_without_schedule
from surge_sweeps.report.words import (
    CANNOT_TELL,
    LAWS,
    VERDICTS,
    behaviour,
    direction,
    law_title,
    optimum_text,
)
from surge_sweeps.schedule import MEASURED, lowered_optimum

#: In the place of a verdict where there are steps and nothing else.
NO_RATES = "No learning rates recorded"

#: A sentence with more phases than this is left to the table.
MOST_PHASES = 4

_LAW = rf"({'|'.join(LAWS)})"
#: Where a remark of the fit names a law; elsewhere "power" or "constant" are plain words.
_NAMED_LAW = re.compile(
    rf"(?<=[Tt]he law ){_LAW}\b|(?<=\(){_LAW}(?=\)|, which| held to)|\b{_LAW}(?= is the best)"
)


def verdict_counts(targets: list[TargetFit]) -> str:
    """The verdicts of one family's targets in words.

    >>> verdict_counts([])
    'No loss could be evaluated'
    """
    if not targets:
        return "No loss could be evaluated"
    if not any(has_rates(target) for target in targets):
        return NO_RATES
    found: dict[VerdictName, list[TargetFit]] = {}
    for target in targets:
        found.setdefault(target.verdict, []).append(target)
    ranked = sorted(found, key=lambda verdict: (verdict == "inconclusive", -len(found[verdict])))
    if len(targets) == 1 or len(found) == 1:
        return f"{VERDICTS[ranked[0]][0]}{_where(targets)}"
    parts = []
    for verdict in ranked:
        losses = [loss_text(one.loss) if one.loss else target_label(one) for one in found[verdict]]
        count = f"{len(losses)} of {len(targets)} losses ({list_text(losses)})"
        parts.append(f"{VERDICTS[verdict][0]} at {count}")
    return "; ".join(part if index == 0 else part[0].lower() + part[1:] for index, part in enumerate(parts))


def _where(targets: Sequence[TargetFit]) -> str:
    if len(targets) > 1:
        return " at both losses" if len(targets) == 2 else f" at all {counted(len(targets), 'loss')}"
    return "" if targets[0].loss is None else f" ({target_label(targets[0])})"


def headline(group: GroupFit) -> tuple[str, str, bool]:
    """The verdict over all targets: its name, one sentence, and whether the data decided at all."""
    verdicts = [target.verdict for target in group.targets]
    decided = sorted({verdict for verdict in verdicts if verdict != "inconclusive"}, key=verdicts.index)
    if not decided:
        return (
            CANNOT_TELL,
            f"{CANNOT_TELL} how the optimal learning rate depends on the batch size: {_why_open(group)}.",
            False,
        )
    count = sum(verdict != "inconclusive" for verdict in verdicts)
    open_ones = "" if count == len(verdicts) else "; at the others the data cannot tell"
    if len(decided) == 1:
        title, sentence = VERDICTS[decided[0]][0], behaviour(decided[0], group.targets)
        where = f"At {count} of the {len(verdicts)} losses looked at, the" if open_ones else "The"
        # A bold word alone would claim for all losses what was found at some.
        title += f" at {count} of {len(verdicts)} losses" if open_ones else ""
        return title, f"{where} optimal learning rate {sentence}{open_ones}.", True
    names = [
        f"{VERDICTS[verdict][0].lower()}{direction(verdict, group.targets)} at {verdicts.count(verdict)}"
        for verdict in decided
    ]
    titles = " / ".join(f"{VERDICTS[verdict][0]} at {verdicts.count(verdict)}" for verdict in decided)
    titles += f" of {len(verdicts)} losses"
    return titles, f"Of the {len(verdicts)} losses looked at, the law is {list_text(names)}{open_ones}.", True


def _why_open(group: GroupFit) -> str:
    if not group.targets:
        return "no loss could be evaluated"
    if not any(one.lr is not None for target in group.targets for one in target.optimal_lr):
        return "no optimal learning rate was found at any batch size"
    if not any(target.laws for target in group.targets):
        return "too few batch sizes have an optimum with an interval for laws to be fitted"
    return "the evidence for any one law is too weak"


def sentence(text: str) -> str:
    """A remark as a sentence: a capital in front, a full stop behind, laws by their names in words.

    >>> sentence("only one batch size was run"), sentence("B_peak lies above 210.")
    ('Only one batch size was run.', 'B_peak lies above 210.')
    >>> sentence("the law surge_plateau is ahead of the best law without a peak (sqrt)")
    'The law Surge with plateau is ahead of the best law without a peak (Square root).'
    """
    text = _NAMED_LAW.sub(lambda found: law_title(found.group()), text)
    text = re.sub(r"\bsqrt(?= \d+%)", "square root", text)
    closed = text if text.endswith((".", "!", "?")) else f"{text}."
    return closed[0].upper() + closed[1:]


def recommendation(
    schedule: ScheduleRecord, targets: Sequence[TargetFit] = (), *, decided: bool = True
) -> str:
    """The schedule in a sentence or two.

    Args:
        schedule: of a group. targets: those it rests on, for the optima behind its learning rates.
        decided: whether the group has a verdict; without one the schedule is no more than the best that was run.

    >>> from surge_sweeps.fitting.result import PhaseRecord
    >>> phase = {"loss": None, "lr_low": None, "lr_high": None, "status": "measured"}
    >>> recommendation(ScheduleRecord(batch_unit="examples", law="sqrt", assumptions=[], phases=[
    ...     PhaseRecord(from_examples=0, batch_size=32, lr=0.004, **phase),
    ...     PhaseRecord(from_examples=12000, batch_size=64, lr=0.0057, **phase)]))
    'Train with batch size 32 and LR 0.004 up to 12k examples, then with batch size 64 and LR 0.0057.'
    """
    phases = changes(schedule.phases)
    pairs = [f"batch size {batch_text(phase.batch_size)} and LR {lr_text(phase.lr)}" for phase in phases]
    ends = [f" up to {count_text(phase.from_examples)} {schedule.batch_unit}" for phase in phases[1:]]
    if not phases:
        return "The schedule holds no phase."
    if len(phases) == 1:
        plan = f"{pairs[0]} throughout"
    elif len(phases) <= MOST_PHASES:
        plan = ", then with ".join(f"{pair}{end}" for pair, end in zip(pairs, [*ends, ""], strict=True))
    else:
        start = f"{count_text(phases[-1].from_examples)} {schedule.batch_unit}"
        plan = f"{pairs[0]}{ends[0]}, then go in {len(phases) - 1} steps to {pairs[-1]} from {start} on"
    only = "" if decided else "No law is established, so this is only the best of what was run: "
    verb = "Train" if decided else "train"
    return " ".join([f"{only}{verb} with {plan}.", *_cautions(schedule, targets, decided=decided)])


def changes(phases: Sequence[PhaseRecord]) -> list[PhaseRecord]:
    """The phases that change the batch size or the learning rate; the first one does."""
    return [
        phase
        for index, phase in enumerate(phases)
        if index == 0 or (phase.batch_size, phase.lr) != (phases[index - 1].batch_size, phases[index - 1].lr)
    ]


def _cautions(schedule: ScheduleRecord, targets: Sequence[TargetFit], *, decided: bool) -> list[str]:
    found = []
    beyond = [phase.from_examples for phase in schedule.phases if phase.status == "extrapolated"]
    if beyond and beyond[0] > 0:
        found.append(
            f"Measured up to {count_text(beyond[0])} {schedule.batch_unit}; what follows is extrapolated."
        )
    elif beyond:
        found.append("All of it is extrapolated.")
    behind = [(phase, lowered_optimum(phase, targets)) for phase in changes(schedule.phases)]
    lowered = [(phase, optimum) for phase, optimum in behind if optimum is not None]
    if lowered:
        found.append(_lowered(lowered, decided=decided))
    elif decided and schedule.law == MEASURED:
        found.append("No law is established, so these learning rates rest on the measured optima alone.")
    if len(lowered) <= MOST_PHASES and any(optimum.high is None for _, optimum in lowered):
        which = "That interval" if len(lowered) == 1 else "An interval that ends in “or more”"
        found.append(f"{which} is open above: these runs do not say how much larger the optimum may be.")
    return found


def _lowered(lowered: Sequence[tuple[PhaseRecord, OptimalLR]], *, decided: bool) -> str:
    """Why a schedule's learning rates are not those of the table beside it.

    Without a verdict it has been said already that no law is established.
    """
    why = "since too large a learning rate costs more than too small a one"
    if len(lowered) == 1:
        ((phase, optimum),) = lowered
        return (
            f"{'No law is established, so ' if decided else ''}LR {lr_text(phase.lr)} is on the low side of the"
            f" measured optimum {optimum_text(optimum)}, {why}."
        )
    where = "Where no law is established, the" if decided else "The"
    if len(lowered) > MOST_PHASES:
        return f"{where} learning rate is on the low side of the measured optimum, {why}."
    pairs = [f"{optimum_text(optimum)} for LR {lr_text(phase.lr)}" for phase, optimum in lowered]
    return f"{where} learning rates are on the low side of the measured optima, {why}: {list_text(pairs)}."


def advice(group: GroupFit, decided: bool, problems: Sequence[ProblemRecord], unit: str) -> str:
    """The recommendation of a group: its schedule, what stands in the place of one, or why there is none."""
    if group.schedule is not None:
        return recommendation(group.schedule, group.targets, decided=decided)
    return advice_without_schedule(group, unit) or why_no_schedule(group, decided, problems)


def speaks_of_schedule(group: GroupFit, problem: ProblemRecord) -> bool:
    """Whether a problem says why a group has no schedule: that stands in its recommendation."""
    return problem.run is None and problem.what.startswith(f"{group.label()}: no schedule")


def why_no_schedule(group: GroupFit, decided: bool, problems: Sequence[ProblemRecord]) -> str:
    """Why a group has no schedule: what the recommendation itself said, as the fit recorded it, or what is plain.

    >>> from surge_sweeps.fitting.result import DriftFit, Slope
    >>> group = GroupFit(group={"n": 1}, targets=[], drift=DriftFit(b_peak=Slope(), b_crit=Slope()))
    >>> why_no_schedule(group, False, [])
    'No schedule and no learning rate to advise: no loss could be evaluated with these runs.'
    """
    if not group.targets:
        return "No schedule and no learning rate to advise: no loss could be evaluated with these runs."
    for problem in problems:
        if speaks_of_schedule(group, problem):
            return f"No schedule{problem.what.removeprefix(f'{group.label()}: no schedule')}"
    return f"No schedule: {'the fit did not settle on one' if decided else 'the law that it would follow is open'}."
