"""What earlier launches from this working folder still have in their engines' hands."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch.base import IN_FLIGHT, Launcher, TaskState
from surge_sweeps.launch.engines import launcher_of
from surge_sweeps.launch.folder import Launch, is_over, launch_folders
from surge_sweeps.launch.target import Target

_PAUSE_AFTER_ERROR_S = 30.0


class InFlight(NamedTuple):
    """What engines still work on, or will.

    Attributes:
        trials: id -> who has it, in words. launches: id -> engine.
    """

    trials: Mapping[str, str]
    launches: Mapping[str, str]


def in_flight(target: Target, *, is_alone: bool) -> InFlight:
    """The trials of a project that an engine still has in its hands; see `open_launches`.

    Raises:
        SurgeError: an engine does not answer: a trial might then be run twice.
    """
    found: dict[str, str] = {}
    launches: dict[str, str] = {}
    for launch, states in open_launches(target.working_folder, is_alone=is_alone):
        plan = launch.plan
        if not target.is_of(plan):
            continue
        launches[plan.launch_id] = plan.engine
        for task, state in states.items():
            if state.state in IN_FLIGHT:
                where = f"{plan.engine}, launch {plan.launch_id}, task {task}"
                found.update(dict.fromkeys(plan.tasks[task].trials, where))
    return InFlight(found, launches)


class EngineQueue:
    """The trials that engines still have, for somebody who asks again and again: no engine is asked more than it bears.

    Args:
        working_folder: where the launches were made.

    Attributes:
        problem: why the newest answer is not whole, in a sentence; else empty.
    """

    def __init__(self, working_folder: Path) -> None:
        self._folder = working_folder
        self._asked_s = -math.inf
        self._pause_s = 0.0
        self._trials: dict[str, set[str]] = {}
        self.problem = ""

    def trials(self, project: str) -> set[str]:
        """Ids of those of a project; a folder of files is named as it is from here."""
        if time.monotonic() - self._asked_s >= self._pause_s:
            self._ask()
        names = {project, str((self._folder / project).absolute())}
        return {trial for name in names for trial in self._trials.get(name, ())}

    def _ask(self) -> None:
        self._asked_s = time.monotonic()
        self.problem = ""
        try:
            found = open_launches(self._folder, is_alone=False)
        except SurgeError as error:
            self.problem, self._pause_s = str(error), _PAUSE_AFTER_ERROR_S
            return
        self._trials = {}
        self._pause_s = max((launcher_of(launch).poll_seconds for launch, _ in found), default=0.0)
        for launch, states in found:
            taken = self._trials.setdefault(launch.plan.project, set())
            for task, state in states.items():
                if state.state in IN_FLIGHT:
                    taken.update(launch.plan.tasks[task].trials)


def open_launches(working_folder: Path, *, is_alone: bool) -> list[tuple[Launch, Mapping[int, TaskState]]]:
    """The launches whose tasks have not all ended, and how those stand.

    Args:
        is_alone: this process holds the lock of the folder. Only then is a launch all of whose tasks have ended noted
            as over, and not asked about again: else it may be one that is just being handed over.

    Raises:
        SurgeError: an engine does not answer.
    """
    found: list[tuple[Launch, Mapping[int, TaskState]]] = []
    for launch in Launch.all_in(working_folder, over=False):
        launcher = launcher_of(launch)
        states = _asked(launcher, launch)
        if any(state.state in IN_FLIGHT for state in states.values()):
            found.append((launch, states))
        elif is_alone:
            launch.set_over()
    return found


def over_launches(working_folder: Path) -> set[str]:
    """Ids of the launches all of whose tasks have ended."""
    return {launch_id for launch_id, folder in launch_folders(working_folder).items() if is_over(folder)}


def find_launch(working_folder: Path, launch_id: str) -> Launch:
    """The launch of that id.

    Raises:
        UnknownNameError: none of this working folder has it.
    """
    return Launch.read(find_folder(working_folder, launch_id))


def find_folder(working_folder: Path, launch_id: str) -> Path:
    """The folder of the launch of that id, whether or not its plan can be read.

    Raises:
        UnknownNameError: none of this working folder has it.
    """
    known = launch_folders(working_folder)
    if launch_id not in known:
        raise UnknownNameError("launch", launch_id, known)
    return known[launch_id]


def _asked(launcher: Launcher, launch: Launch) -> Mapping[int, TaskState]:
    try:
        return launcher.status(launch)
    except SurgeError as error:
        raise SurgeError(
            f"how the launch {launch.plan.launch_id} stands cannot be told: {error.what}",
            f"{error.hint} If its tasks are gone for good: surge-sweep cancel {launch.plan.launch_id} --forget".strip(),
        ) from error
