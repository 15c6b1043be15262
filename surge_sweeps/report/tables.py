"""The machine-readable tables that stand beside the report: optimal_lr.csv and schedule.yaml."""

from __future__ import annotations

import pandas as pd
import yaml

from surge_sweeps.fitting.result import SurgeFit

OPTIMAL_LR_COLUMNS = (
    "group", "protocol", "loss", "horizon", "start", "batch_size", "lr", "low", "high", "status", "steps", "runs",
)  # fmt: skip

_SCHEDULE_HEADER = """\
# Recommended schedules, one per group of hyper-parameters.
# phases: from from_examples on, train with batch_size and lr until the next phase; lr_low and lr_high are the ends
# of the measured optimum's 95% interval, null where open; lr lies below that optimum where no law is established.
# status: measured lies inside what the runs cover, extrapolated beyond it.
# loss: the loss that the phase leads down to, null beyond the lowest one measured. schedule is null where the data
# supports none.
"""


def optimal_lr_table(fit: SurgeFit) -> pd.DataFrame:
    """One row per group, target and batch size; `loss`, `lr` and their like are missing where unknown.

    `horizon` is in optimizer steps, `steps` the optimizer steps at the optimum, `batch_size` in the fit's batch unit.

    >>> fit = SurgeFit(project="p", source="s", batch_unit="examples", problems=[], groups=[])
    >>> list(optimal_lr_table(fit).columns)[:3]
    ['group', 'protocol', 'loss']
    """
    rows = [
        (
            group.label(), target.protocol, target.loss, target.horizon_steps, target.start, one.batch_size,
            one.lr, one.low, one.high, one.status, one.steps, one.runs,
        )
        for group in fit.groups
        for target in group.targets
        for one in target.optimal_lr
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(OPTIMAL_LR_COLUMNS))
    return table.astype({"horizon": "Int64"})


def optimal_lr_csv(fit: SurgeFit) -> str:
    """`optimal_lr_table` as text, missing values empty."""
    return str(optimal_lr_table(fit).to_csv(index=False, lineterminator="\n"))


def schedule_yaml(fit: SurgeFit) -> str:
    """Every group's schedule, read back by `yaml.safe_load`.

    >>> fit = SurgeFit(project="p", source="s", batch_unit="examples", problems=[], groups=[])
    >>> yaml.safe_load(schedule_yaml(fit))
    {'project': 'p', 'groups': []}
    """
    groups = [
        {
            "group": dict(group.group),
            "schedule": group.schedule.model_dump(mode="json") if group.schedule is not None else None,
        }
        for group in fit.groups
    ]
    body = yaml.safe_dump(
        {"project": fit.project, "groups": groups}, sort_keys=False, allow_unicode=True, width=110
    )
    return f"{_SCHEDULE_HEADER}{body}"
