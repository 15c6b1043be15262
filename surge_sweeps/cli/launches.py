"""`surge-sweep launches`, `cancel` and `logs`: what was handed to an engine from this folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from surge_sweeps.cli.console import out, printable, say, tell
from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch.base import IN_FLIGHT, State, TaskState
from surge_sweeps.launch.engines import launcher_of
from surge_sweeps.launch.folder import Launch, launch_folders
from surge_sweeps.launch.folder import forget as forget_launch
from surge_sweeps.launch.lock import lock_if_free
from surge_sweeps.launch.recorded import find_folder, find_launch

LaunchId = Annotated[str, typer.Argument(help="As `surge-sweep launches` names it.")]

_STATES: tuple[State, ...] = ("waiting", "running", "ended", "failed")


def launches(
    all_: Annotated[bool, typer.Option("--all", help="Also those whose tasks have all ended.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the launches made from this folder whose tasks are still with their engine, and how those stand.

    A task is one trial, the trials of one batch size, or one W&B agent. What became of the trials is told by
    `surge-sweep status`.
    """
    with lock_if_free() as is_alone:
        made = Launch.all_in(Path.cwd(), over=all_)
        rows = [_Row(launch, *_asked(launch, is_alone)) for launch in made]
    rows = [row for row in rows if all_ or row.problem or row.is_open]
    if json_:
        tell(json.dumps([_as_json(row) for row in rows]))
        return
    if not rows:
        tell(
            "Every launch from this folder is over; --all lists them."
            if launch_folders(Path.cwd())
            else "No launch was made from this folder."
        )
        return
    out.print(_table(rows))
    for row in rows:
        if row.problem:
            tell(f"{row.launch.plan.launch_id}: {row.problem}")
            tell(f"  If its tasks are gone for good: surge-sweep cancel {row.launch.plan.launch_id} --forget")


class _Row(NamedTuple):
    """A launch and how its tasks stand: none if it is over, or its engine does not answer, of which `problem` tells."""

    launch: Launch
    states: Mapping[int, TaskState] | None
    problem: str = ""

    @property
    def is_open(self) -> bool:
        """Whether its engine still has tasks of it."""
        return any(state.state in IN_FLIGHT for state in (self.states or {}).values())


def _asked(launch: Launch, is_alone: bool) -> tuple[Mapping[int, TaskState] | None, str]:
    """What the engine says, and what it says is noted where nothing is left; or why it does not answer."""
    if launch.is_over:
        return None, ""
    try:
        launcher = launcher_of(launch)
        states = launcher.status(launch)
    except SurgeError as error:
        return None, str(error)
    if is_alone and not any(state.state in IN_FLIGHT for state in states.values()):
        launch.set_over()
    return states, ""


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
    if forget:
        forget_launch(find_folder(Path.cwd(), launch_id))
        tell(f"{launch_id} counts as over.")
        return
    launch = find_launch(Path.cwd(), launch_id)
    launcher = launcher_of(launch)
    left = [number for number, state in launcher.status(launch).items() if state.state in IN_FLIGHT]
    if task:
        _check_tasks(launch, task)
        left = [number for number in left if number in task]
    if not left:
        tell("Nothing of it is running or waiting.")
        return
    launcher.cancel(launch, left if task else None)
    tell(f"{counted(len(left), 'task')} of {launch_id} told to end, which may take a minute.")
    tell("Next: surge-sweep launches; once it lists none of them, launch again to run what is missing.")


def logs(
    launch_id: LaunchId,
    task: Annotated[str, typer.Argument(help="Number of the task, or the id of its trial.")],
) -> None:
    """Print what a task of a launch has printed so far."""
    launch = find_launch(Path.cwd(), launch_id)
    number = _task_number(launch, task)
    launcher = launcher_of(launch)
    text = launcher.logs(launch, number)
    if not text:
        state = launcher.status(launch)[number]
        what = f"{state.state}: {state.why}" if state.why else state.state
        say(f"Task {number} ({launch.plan.label_of(number)}) has printed nothing; it is {what}")
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


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("launch", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    table.add_column("project", overflow="fold")
    for heading in ("tasks", *_STATES):
        table.add_column(heading, justify="right")
    for row in rows:
        plan = row.launch.plan
        # A folder of files is absolute; those here are shown as they are called here.
        project = plan.project.removeprefix(f"{Path.cwd()}/")
        names = [Text(printable(name)) for name in (plan.launch_id, plan.engine, project)]
        table.add_row(*names, str(len(plan.tasks)), *_cells(row))
    return table


def _cells(row: _Row) -> list[str]:
    if row.states is None:
        return ["no answer" if row.problem else "over", "", "", ""]
    counts = Counter(state.state for state in row.states.values())
    return [str(counts[state]) for state in _STATES]


def _as_json(row: _Row) -> dict[str, object]:
    plan, tasks = row.launch.plan, None
    if row.states is not None:
        tasks = [
            {"task": number, "trials": list(plan.tasks[number].trials), **state._asdict()}
            for number, state in sorted(row.states.items())
        ]
    return {
        "launch": plan.launch_id,
        "engine": plan.engine,
        "project": plan.project,
        "tracker": plan.tracker,
        "over": row.launch.is_over,
        "problem": row.problem or None,
        "tasks": tasks,
    }
