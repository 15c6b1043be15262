"""What a node does with one task of a launch: `python -m surge_sweeps.launch.run_task LAUNCH_FOLDER INDEX`.

Every engine starts this and nothing else, so that a trial is the same thing wherever it runs. A trial that has a result
already is passed over. Asked to make room (TERM, USR2), the task saves what its program can save and ends with
`MADE_ROOM`; started again, it goes on there. Its last act is its word on how it ended, in the launch's folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from surge_sweeps.collector import collected_lightly
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.launch.child import Room, checkpoint_folder, room_asked_by_signals
from surge_sweeps.launch.command import expand_command
from surge_sweeps.launch.folder import Launch, TaskEnd
from surge_sweeps.launch.torchrun import distributed, room_command
from surge_sweeps.sweep import Trial
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import ScriptRun, Tracker
from surge_sweeps.trackers.mlflow.patience import PATIENCE_S, may_pass
from surge_sweeps.training.preemption import CHECKPOINT_VARIABLE

T = TypeVar("T")

#: Exit codes. Every trial of the task has a result; a diverged run is one.
DONE = 0
#: A trial has no result, and trying again at once would not help.
FAILED = 1
#: The task was asked to make room: run it again, and it goes on.
MADE_ROOM = 85

#: Seconds between two questions to a store that is away.
_PAUSE_S = 2.0
#: How a shell, and so the trainer, tells of a program that TERM ended.
_TERMINATED = 128 + signal.SIGTERM


class _Failed(Exception):
    """A trial of the task has no result."""


class _MadeRoom(Exception):
    """The task was asked to make room."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the task and return its exit code, see above."""
    parser = argparse.ArgumentParser(prog="python -m surge_sweeps.launch.run_task", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the launch")
    parser.add_argument("index", type=int, help="number of the task")
    parser.add_argument(
        "--working-folder", type=Path, help="where its program runs (default: where the launch was made)"
    )
    given = parser.parse_args(arguments)
    with room_asked_by_signals() as room:
        try:
            launch = Launch.read(given.folder)
            if not 0 <= given.index < len(launch.plan.tasks):
                raise SurgeError(
                    f"the launch has no task {given.index}.", f"It has {len(launch.plan.tasks)}."
                )
            if launch.is_over:
                # It was taken for ended, and its trials may have been handed out again.
                raise SurgeError(f"the launch {launch.plan.launch_id} counts as over.", "Launch again.")
            # An earlier start of the same task may have left its word.
            launch.ended_file(given.index).unlink(missing_ok=True)
            end = _run(launch, given.index, given.working_folder or launch.plan.working_folder, room)
            if end.exit_code != MADE_ROOM:
                end.write(launch, given.index)
        except SurgeError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
    if end.why:
        print(end.why, file=sys.stderr)
    return end.exit_code


def _run(launch: Launch, index: int, folder: Path, room: Room) -> TaskEnd:
    task = _Task(launch, index, room)
    try:
        try:
            os.chdir(folder)
        except OSError as error:
            raise SurgeError(
                f"the working folder {str(folder)!r} is not on this node: {error.strerror or error}.",
                "Launch from a folder that every node sees under the same name.",
            ) from error
        {"trial": task.trial, "pack": task.pack, "agent": task.agent}[launch.plan.tasks[index].kind]()
    except _MadeRoom:
        return TaskEnd(MADE_ROOM, "made room; run the task again and it goes on.")
    except (_Failed, SurgeError) as error:
        return TaskEnd(FAILED, str(error))
    return TaskEnd(DONE)


class _Task:
    """One task at work."""

    def __init__(self, launch: Launch, index: int, room: Room) -> None:
        self._plan = launch.plan
        self._index = index
        self._room = room
        self._sweep = self._plan.sweep_of(index)
        self._trials = self._plan.trials_of(index)
        self._owner = f"{self._plan.launch_id}/{index}"

    def trial(self) -> None:
        """One trial, by the built-in trainer or by the user's script."""
        (trial,) = self._trials
        store = self._open()
        try:
            status = self._patiently(lambda: store.result_of(trial.trial_id))
            if status is not None:
                print(f"trial {trial.trial_id} has its result already: {status}.")
            elif self._sweep.is_builtin:
                self._train(trial)
            else:
                self._run_script(trial, store)
        finally:
            store.close()

    def pack(self) -> None:
        """Trials of one batch size, trained together; they are written when all have ended."""
        from surge_sweeps.training import TrialConfig, train
        from surge_sweeps.training.preemption import Terminated, ended_on_sigterm

        store = self._open()
        try:
            done = self._patiently(store.done_trials)
            left = [trial for trial in self._trials if trial.trial_id not in done]
            try:
                with ended_on_sigterm():
                    self._check_room()
                    records = train(
                        [(trial.trial_id, TrialConfig.from_parameters(trial.parameters)) for trial in left]
                    )
            except Terminated:
                raise _MadeRoom from None
            store.write_runs(self._sweep.sweep_id, records)
        finally:
            store.close()

    def agent(self) -> None:
        """One W&B agent that asks the server for one cell; what became of that is the server's word."""
        from surge_sweeps.launch.agent_processes import AGENT_COMMAND, agent_environment

        path = self._plan.tasks[self._index].agent
        command = [*AGENT_COMMAND, "--forward-signals", "--count", "1", path]
        code = self._child(command, agent_environment([self._sweep]))
        # An agent that was told to end does so well, whatever became of its trial. Where that had just ended, the agent
        # that comes back is told another, or none.
        self._check_room()
        if code != 0:
            raise _Failed(f"the agent of {path} {_ended(code)}.")

    def _open(self) -> Tracker:
        store = open_tracker(self._plan.tracker, self._plan.project, self._plan.uri)
        store.give_up_when(lambda: self._room.is_asked)
        return store

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What the store answers. One that is away is given time, or a minute without it would empty a whole queue."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except TrackerError as error:
                away = may_pass(error) or isinstance(error.__cause__, OSError)
                if not away or time.monotonic() >= until:
                    raise
                self._check_room()
            time.sleep(_PAUSE_S)

    def _check_room(self) -> None:
        if self._room.is_asked:
            raise _MadeRoom

    def _child(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        self._check_room()
        name = f"{self._plan.launch_id}-{self._index}"
        resources = self._plan.resources
        if resources.is_distributed:
            # Else torchrun says, once a process, that it chose 1.
            threads = max(1, (resources.cpus_per_task or 1) // resources.processes_per_node)
            environment = {"OMP_NUM_THREADS": str(threads), **environment}
        code = self._room.run(distributed(command, resources, name), environment, room_command(resources))
        if code != 0 and self._room.is_asked:
            raise _MadeRoom
        return code

    def _train(self, trial: Trial) -> None:
        flags = [f"--{name}={value}" for name, value in trial.parameters.items()]
        options = {
            "tracker": self._plan.tracker,
            "project": self._plan.project,
            "uri": self._plan.uri,
            "sweep-id": self._sweep.sweep_id,
            "trial-id": trial.trial_id,
            "owner": self._owner,
            "micro-batch-size": self._plan.resources.micro_batch_size,
        }
        flags += [f"--{name}={value}" for name, value in options.items() if value is not None]
        if self._plan.resources.is_distributed:
            code = self._child([sys.executable, "-m", "surge_sweeps.training", *flags], os.environ)
        else:
            from surge_sweeps.training.__main__ import main as train_trial

            # In this process: it takes the signals over from here.
            self._check_room()
            code = train_trial(flags)
            if code == _TERMINATED:
                raise _MadeRoom
        if code != 0:
            raise _Failed(f"the trainer {_ended(code)}.")

    def _run_script(self, trial: Trial, store: Tracker) -> None:
        command = expand_command(self._sweep, trial)
        run = store.start_script(
            self._sweep.sweep_id, trial.trial_id, trial.parameters, self._sweep.loss, self._owner
        )
        kept = checkpoint_folder(self._plan, self._index)
        environment = {**os.environ, **run.environment, CHECKPOINT_VARIABLE: str(kept)}
        self._finish(run, command, environment)

    def _finish(self, run: ScriptRun, command: Sequence[str], environment: Mapping[str, str]) -> None:
        try:
            code = self._child(command, environment)
            # A script that heard TERM may well save, and end as if all were done. Its curve would be cut off, so it is
            # run again; one that had just finished logs its last points once more.
            self._check_room()
        except _MadeRoom:
            run.preempt()
            raise
        except BaseException:
            run.finish(None)
            raise
        status = run.finish(code)
        if status not in ("finished", "diverged", "capped"):
            raise _Failed(run.problem or f"the script {_ended(code)}.")


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"


if __name__ == "__main__":
    with collected_lightly() as loaded:
        loaded()
        sys.exit(main())
