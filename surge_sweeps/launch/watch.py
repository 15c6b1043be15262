"""One launch with its engine: handed over, and looked at until its tasks have ended or the user stops waiting."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import IN_FLIGHT, Interrupted, Launcher, TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.stop import POLL_SECONDS, Stopped, StopRequest
from surge_sweeps.progress import ProgressCallback

#: So many times in a row an engine may leave the question unanswered, how its tasks stand.
MAX_UNANSWERED = 8

#: Told how the tasks of a launch stand, again and again.
OnStatus = Callable[[Launch, Mapping[int, TaskState]], object]


def tell_nobody(launch: Launch, states: Mapping[int, TaskState]) -> None:
    """An `OnStatus` that does nothing."""


class Watch:
    """Hands a launch to its engine and looks at it.

    Attributes:
        launch: as given. states: how its tasks stood at the last look. cut_off: the trials that ran when the launch was
            ended before them.
    """

    def __init__(
        self,
        launch: Launch,
        launcher: Launcher,
        progress: ProgressCallback,
        on_status: OnStatus,
        on_submitted: Callable[[], object] = lambda: None,
    ) -> None:
        self.launch = launch
        self.states: Mapping[int, TaskState] = {}
        self.cut_off: set[str] = set()
        self._launcher = launcher
        self._progress = progress
        self._on_status = on_status
        self._on_submitted = on_submitted
        self._unanswered = 0
        self._is_refused = False

    def run(self, stop: StopRequest, *, wait: bool) -> None:
        """Return when every task has ended; without `wait`, once the engine has them all.

        However this ends, no task goes on of a launch that it does not outlive.

        Raises:
            Stopped, KeyboardInterrupt: the user stopped the launch, and its tasks have ended. Interrupted: he stopped
                waiting, and they go on. SurgeError: the engine refuses, does not answer, or has given up.
        """
        try:
            self._submit()
            self._look()
            while wait and self._in_flight():
                self._pause(stop)
                self._look()
        except (Stopped, KeyboardInterrupt) as error:
            if self._launcher.outlives_launch:
                raise self._goes_on() from error
            self._end()
            raise
        except BaseException:
            if not self._launcher.outlives_launch and not self._is_refused:
                self._end()
            raise
        if not self._in_flight():
            self.launch.set_over()

    def _submit(self) -> None:
        try:
            self._launcher.submit(self.launch)
        except SurgeError:
            self._is_refused = True
            if self._was_never_handed_over():
                # It is as if it had never been.
                shutil.rmtree(self.launch.folder, ignore_errors=True)
            raise
        self._on_submitted()

    def _was_never_handed_over(self) -> bool:
        """Whether the engine has none of the tasks for sure: an answer to `submit` may have been lost on the way back.

        Engines write down where they are before they hand anything over.
        """
        if {path.name for path in self.launch.folder.iterdir()} <= {self.launch.plan_file.name, "logs"}:
            return True
        try:
            states = self._launcher.status(self.launch)
        except SurgeError:
            return False
        return not any(state.state in IN_FLIGHT for state in states.values())

    def where(self, task: int) -> str:
        """Who has a task, in words."""
        return f"{self._launcher.name}, launch {self.launch.plan.launch_id}, task {task}"

    def _look(self) -> None:
        try:
            self.states = self._launcher.status(self.launch)
        except SurgeError:
            # A controller that is busy, or restarted, is asked again; its tasks go on meanwhile.
            self._unanswered += 1
            if not self._launcher.outlives_launch or not self.states or self._unanswered > MAX_UNANSWERED:
                raise
            return
        self._unanswered = 0
        self._on_status(self.launch, self.states)
        tasks = self.launch.plan.tasks
        weights = [max(1, len(task.trials)) for task in tasks]
        ended = sum(weights[task] for task, state in self.states.items() if state.state not in IN_FLIGHT)
        running = sum(state.state == "running" for state in self.states.values())
        self._progress(ended, sum(weights), f"{running} of {counted(len(tasks), 'task')} running")

    def _in_flight(self) -> list[int]:
        return [task for task, state in self.states.items() if state.state in IN_FLIGHT]

    def _pause(self, stop: StopRequest) -> None:
        until = time.monotonic() + self._launcher.poll_seconds
        while time.monotonic() < until:
            stop.check()
            time.sleep(min(POLL_SECONDS, self._launcher.poll_seconds))
        stop.check()

    def _end(self) -> None:
        tasks = self.launch.plan.tasks
        # One may have begun since the last look. The engine may have given up, and says so once.
        with suppress(SurgeError):
            self.states = self._launcher.status(self.launch)
        running = [task for task, state in self.states.items() if state.state == "running"]
        self._launcher.cancel(self.launch)
        while any(state.state in IN_FLIGHT for state in self._launcher.status(self.launch).values()):
            time.sleep(POLL_SECONDS)
        self.cut_off.update(
            trial for task in running if tasks[task].kind == "trial" for trial in tasks[task].trials
        )
        self.states = self._launcher.status(self.launch)
        self.launch.set_over()

    def _goes_on(self) -> Interrupted:
        left, plan = len(self._in_flight()), self.launch.plan
        return Interrupted(
            f"stopped waiting: {counted(left, 'task')} of the launch {plan.launch_id} go on with "
            f"{self._launcher.name}.",
            f"End them with: surge-sweep cancel {plan.launch_id}",
        )
