"""Which column of a table plays which part, from the options and the header alone."""

from __future__ import annotations

from dataclasses import dataclass

from surge_sweeps.curves import Observable
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS, ReadOptions, column_flag
from surge_sweeps.trackers.tables.file import RawTable

#: Columns looked for when no loss column is named.
LOSS_NAMES = ("loss", EVAL_LOSS, TRAIN_LOSS)

#: Option -> the observable it asks for. A table with none of them has one final loss a row.
_OBSERVABLES: dict[str, Observable] = {
    "steps_to_goal": "steps",
    "gain": "gain",
    "optimal_lr": "given",
}


@dataclass(frozen=True)
class Roles:
    """Columns by their position.

    Attributes:
        observable: what the table records. batch_size, lr: lr is None only where steps to a goal lack it.
        response: the column of the loss, the gain or the steps to the goal; None for a given learning rate.
        seed, status, run, step: None where the table has none. groups: None where they must be guessed.
    """

    observable: Observable
    batch_size: int
    lr: int | None
    response: int | None
    seed: int | None
    status: int | None
    run: int | None
    step: int | None
    groups: tuple[int, ...] | None

    def used(self) -> set[int]:
        """Every column with a part of its own, those grouped by left aside."""
        own = (self.batch_size, self.lr, self.response, self.seed, self.status, self.run, self.step)
        return {column for column in own if column is not None}


def find_roles(raw: RawTable, options: ReadOptions) -> Roles:
    """Find the columns that the options name, and those that have our names.

    Raises:
        UnknownNameError: a column that is not there. SurgeError: options or columns that contradict each other.
    """
    observable = _observable(options)
    table = options.table
    status = raw.find("status")
    roles = Roles(
        observable=observable,
        batch_size=raw.get(options.batch_size or "batch_size", "--batch-column"),
        lr=_lr(raw, options, observable),
        response=_response(raw, options, observable),
        seed=_optional(raw, options.seed or "seed", "seed"),
        status=status,
        run=_optional(raw, table.run or "run", "run") if observable == "loss_curve" else None,
        step=raw.get(options.step, "--step-column") if options.step is not None else None,
        groups=_groups(raw, table.group_by),
    )
    _check_one_part_each(raw, roles)
    return roles


def _observable(options: ReadOptions) -> Observable:
    given = ["step"] if options.step is not None else []
    given += [name for name in _OBSERVABLES if getattr(options.table, name) is not None]
    if len(given) > 1:
        raise SurgeError(
            f"the table cannot be read by {_flags(given)} at once.",
            "Give one of them: a report has one kind of rows.",
        )
    observable: Observable = "final"
    if given:
        observable = _OBSERVABLES.get(given[0], "loss_curve")
    if options.loss is not None and observable not in ("final", "loss_curve"):
        raise SurgeError(
            f"--loss-column does not go with {_flags(given)}, whose column is read instead of a loss.",
            "Leave one of them away.",
        )
    if options.table.run is not None and observable != "loss_curve":
        raise SurgeError(
            "--run-column is for tables with many rows a run.", "Name their steps with --step-column too."
        )
    if observable == "given" and options.lr is not None:
        raise SurgeError(
            "--lr-column and --optimal-lr-column both name the learning rate.",
            "Give --optimal-lr-column where every row holds a tuned one, else --lr-column.",
        )
    return observable


def _flags(names: list[str]) -> str:
    return " and ".join(map(column_flag, names))


def _lr(raw: RawTable, options: ReadOptions, observable: Observable) -> int | None:
    if options.table.optimal_lr is not None:
        return raw.get(options.table.optimal_lr, "--optimal-lr-column")
    if observable == "steps":
        return _optional(raw, options.lr or "lr", "lr")
    return raw.get(options.lr or "lr", "--lr-column")


def _optional(raw: RawTable, name: str, default: str) -> int | None:
    """A column that may be missing, unless the user gave it a name of their own."""
    return raw.find(name) if name == default else raw.get(name, column_flag(default))


def _groups(raw: RawTable, names: tuple[str, ...] | None) -> tuple[int, ...] | None:
    return None if names is None else tuple(dict.fromkeys(raw.get(name, "--group-by") for name in names))


def _response(raw: RawTable, options: ReadOptions, observable: Observable) -> int | None:
    if observable == "given":
        return None
    table = options.table
    for option, name in (
        ("steps_to_goal", table.steps_to_goal),
        ("gain", table.gain),
        ("loss", options.loss),
    ):
        if name is not None:
            return raw.get(name, column_flag(option))
    found = {name: index for name in LOSS_NAMES if (index := raw.find(name)) is not None}
    if not found:
        raise UnknownNameError("--loss-column", LOSS_NAMES[0], raw.names)
    if len(found) > 1:
        raise SurgeError(
            f"the table has several losses: {', '.join(map(repr, found))}.", "Name one with --loss-column."
        )
    return next(iter(found.values()))


def _check_one_part_each(raw: RawTable, roles: Roles) -> None:
    parts = {
        "the learning rate": roles.lr,
        "the batch size": roles.batch_size,
        "the seed": roles.seed,
        "the status": roles.status,
        "the run": roles.run,
        "the step": roles.step,
        "what is measured": roles.response,
    }
    taken: dict[int, str] = {}
    for part, column in parts.items():
        if column is None:
            continue
        if column in taken:
            raise SurgeError(
                f"the column {raw.names[column]!r} cannot be both {taken[column]} and {part}.",
                "Name a column of its own for each.",
            )
        taken[column] = part
    for column in roles.groups or ():
        if column in taken:
            raise SurgeError(
                f"--group-by names {raw.names[column]!r}, which is {taken[column]}.",
                "Group by hyper-parameters that are not swept, such as the optimizer or the model size.",
            )
