"""A fit in plain text, for a terminal: the verdict of every group and target, and its optimal learning rates."""

from __future__ import annotations

from surge_sweeps.counting import counted
from surge_sweeps.fitting.observables.targets import Target
from surge_sweeps.fitting.result import GroupFit, Interval, OptimalLR, Slope, SurgeFit, TargetFit

#: In place of an optimal learning rate that is not there.
_NO_RATE = {"too_few": "too few", "diverged": "diverged", "given": "not recorded"}


def summarize(fit: SurgeFit) -> str:
    """The whole fit in words, with a trailing newline.

    >>> print(summarize(SurgeFit(project="empty", source="", batch_unit="examples", problems=[], groups=[])), end="")
    empty: no runs to fit
    """
    lines = [
        f"{fit.project or 'fit'}: " + (counted(len(fit.groups), "group") if fit.groups else "no runs to fit")
    ]
    for group in fit.groups:
        lines += ["", group.label(), *_group_lines(group, fit.batch_unit)]
    if fit.problems:
        lines += ["", "Problems:"]
        lines += [
            f"  {problem.run}: {problem.what}" if problem.run else f"  {problem.what}"
            for problem in fit.problems
        ]
    return "\n".join(lines) + "\n"


def _group_lines(group: GroupFit, unit: str) -> list[str]:
    if not group.targets:
        return ["  nothing could be measured"]
    lines = []
    for target in group.targets:
        lines += _target_lines(target, unit)
    drift = [("B_peak", group.drift.b_peak), ("B_crit", group.drift.b_crit)]
    return lines + [f"  {name} over the loss: {_slope(slope)}" for name, slope in drift]


def _target_lines(target: TargetFit, unit: str) -> list[str]:
    lines = [f"  {target_label(target)}: {target.verdict.upper()}"]
    lines += [f"    - {reason}" for reason in target.reasons]
    lines.append(f"    {unit:>9}  optimal LR  95% interval            steps   runs")
    lines += [f"    {_optimum(record)}" for record in target.optimal_lr]
    lines.append(f"    B_peak {_interval(target.b_peak)}")
    lines.append(f"    B_noise {_interval(target.b_noise)}")
    if target.tradeoff:
        lines.append(f"    B_crit {_interval(target.tradeoff.b_crit)}")
    return lines


def target_label(target: TargetFit) -> str:
    """What a target measures, in words."""
    return Target(target.protocol, target.loss, target.horizon_steps).label()


def _optimum(record: OptimalLR) -> str:
    steps = f"{record.steps:.4g}" if record.steps is not None else "-"
    if record.lr is None:
        return f"{record.batch_size:>9}  {_NO_RATE.get(record.status, '-'):<32}{steps:>7}  {record.runs:>5}"
    bound = {"edge_low": "<=", "edge_high": ">="}.get(record.status, "")
    low = f"{record.low:.3g}" if record.low is not None else "open"
    high = f"{record.high:.3g}" if record.high is not None else "open"
    value = f"{bound}{record.lr:.3g}"
    interval = f"[{low}, {high}]"
    return f"{record.batch_size:>9}  {value:>10}  {interval:<20}{steps:>7}  {record.runs:>5}"


def _interval(interval: Interval) -> str:
    if interval.status == "not_identified":
        if interval.low is not None and interval.high is not None:
            return f"not established; if any, {interval.low:.3g} to {interval.high:.3g}"
        return "not identified"
    if interval.status == "lower_bound":
        return f"above {interval.low:.3g}" if interval.low is not None else "not identified"
    if interval.status == "upper_bound":
        return f"below {interval.high:.3g}" if interval.high is not None else "not identified"
    ends = [f"{end:.3g}" if end is not None else "open" for end in (interval.low, interval.high)]
    value = f"{interval.estimate:.3g}" if interval.estimate is not None else "unknown"
    return f"{value} [{ends[0]}, {ends[1]}]"


def _slope(slope: Slope) -> str:
    if slope.exponent is None:
        return "not identified"
    ends = [f"{end:.2f}" if end is not None else "open" for end in (slope.low, slope.high)]
    chance = f", p = {slope.p_value:.2g}" if slope.p_value is not None else ""
    return f"~ L^({-slope.exponent:.2f}), exponent b {slope.exponent:.2f} [{ends[0]}, {ends[1]}]{chance}"
