"""`surge-sweep launches`, `cancel` and `logs`: what was handed to an engine from this folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from surge_sweeps.cli.console import out, say
from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch.base import IN_FLIGHT, TaskState
from surge_sweeps.launch.engines import launcher_of
from surge_sweeps.launch.plan import Launch
from surge_sweeps.launch.recorded import find_launch

LaunchId = Annotated[str, typer.Argument(help="As `surge-sweep launches` names it.")]

_STATES = ("waiting", "running", "ended", "failed")


def launches(
    all_: Annotated[bool, typer.Option("--all", help="Also those whose tasks have all ended.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the launches made from this folder whose tasks are still with their engine, and how those stand.

    A task is one trial, the trials of one batch size, or one W&B agent. What became of the trials is told by
    `surge-sweep status`.
    """
    rows: list[tuple[Launch, Mapping[int, TaskState] | None]] = []
    for launch in Launch.all_in(Path.cwd()):
        if launch.is_over and not all_:
            continue
        rows.append((launch, None if launch.is_over else launcher_of(launch).status(launch)))
    if json_:
        listed = [_as_json(launch, states) for launch, states in rows]
        out.print(json.dumps(listed), soft_wrap=True, markup=False, highlight=False)
        return
    if not rows:
        out.print(
            "No launch was made from this folder."
            if all_ or not Launch.all_in(Path.cwd())
            else "Every launch from this folder is over; --all lists them."
        )
        return
    out.print(_table(rows))


def cancel(
    launch_id: LaunchId,
    task: Annotated[
        list[int] | None, typer.Option("--task", help="Only this task; may be given several times.")
    ] = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Do not ask the engine: take it that every task has ended. For an engine that is gone; tasks that"
            " still run would be run a second time by the next launch.",
        ),
    ] = False,
) -> None:
    """End the tasks of a launch: those that run save their state first, and the next launch goes on there."""
    launch = find_launch(Path.cwd(), launch_id)
    if forget:
        launch.set_over()
        out.print(f"{launch_id} counts as over.", highlight=False)
        return
    launcher = launcher_of(launch)
    left = [number for number, state in launcher.status(launch).items() if state.state in IN_FLIGHT]
    if task:
        _check_tasks(launch, task)
        left = [number for number in left if number in task]
    if not left:
        out.print("Nothing of it is running or waiting.")
        return
    launcher.cancel(launch, left if task else None)
    out.print(f"{counted(len(left), 'task')} of {launch_id} told to end.", highlight=False)


def logs(
    launch_id: LaunchId,
    task: Annotated[str, typer.Argument(help="Number of the task, or the id of its trial.")],
) -> None:
    """Print what a task of a launch has printed so far."""
    launch = find_launch(Path.cwd(), launch_id)
    number = _task_number(launch, task)
    text = launcher_of(launch).logs(launch, number)
    if not text:
        say(f"Task {number} ({launch.plan.label_of(number)}) has printed nothing yet.")
    out.print(text, end="", markup=False, highlight=False, soft_wrap=True)


def _task_number(launch: Launch, task: str) -> int:
    for number, item in enumerate(launch.plan.tasks):
        if task in item.trials:
            return number
    if not task.isdecimal():
        raise UnknownNameError("trial", task, launch.plan.trials)
    _check_tasks(launch, [int(task)])
    return int(task)


def _check_tasks(launch: Launch, tasks: list[int]) -> None:
    for number in tasks:
        if not 0 <= number < len(launch.plan.tasks):
            raise SurgeError(
                f"the launch {launch.plan.launch_id} has no task {number}.",
                f"Its tasks are 0 to {len(launch.plan.tasks) - 1}.",
            )


def _table(rows: list[tuple[Launch, Mapping[int, TaskState] | None]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("launch", "engine", "project"):
        table.add_column(heading, overflow="fold")
    for heading in ("tasks", *_STATES):
        table.add_column(heading, justify="right")
    for launch, states in rows:
        plan = launch.plan
        cells = [plan.launch_id, plan.engine, escape(plan.project), str(len(plan.tasks))]
        table.add_row(*cells, *(["over", "", "", ""] if states is None else _counts(states)))
    return table


def _counts(states: Mapping[int, TaskState]) -> list[str]:
    counts = Counter(state.state for state in states.values())
    return [str(counts[state]) for state in ("waiting", "running", "ended", "failed")]


def _as_json(launch: Launch, states: Mapping[int, TaskState] | None) -> dict[str, object]:
    plan = launch.plan
    tasks = None
    if states is not None:
        tasks = [
            {"task": number, "trials": list(plan.tasks[number].trials), **state._asdict()}
            for number, state in sorted(states.items())
        ]
    return {
        "launch": plan.launch_id,
        "engine": plan.engine,
        "project": plan.project,
        "tracker": plan.tracker,
        "over": states is None,
        "tasks": tasks,
    }
