"""The threads that work off one launch on this machine: one a slot, which runs a task at a time, and one that writes.

The tracker's store is only ever used by the one that writes. Packs and trials that log by themselves come first; then,
as a script of the user's own may well take the whole machine, the scripts.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.board import Board
from surge_sweeps.launch.child import checkpoint_folder
from surge_sweeps.launch.command import expand_command
from surge_sweeps.launch.folder import Launch, TaskEnd
from surge_sweeps.launch.held import Held
from surge_sweeps.launch.programs import TORCHRUN_ENVIRONMENT, Program, found, last_lines, last_text
from surge_sweeps.launch.run_task import MADE_ROOM
from surge_sweeps.launch.scripts import StoreWatch, ended, why_failed
from surge_sweeps.launch.slots import Slot
from surge_sweeps.launch.torchrun import distributed
from surge_sweeps.launch.workers import PackWorker
from surge_sweeps.trackers.base import RunRecord, ScriptRun, Tracker
from surge_sweeps.training.preemption import CHECKPOINT_VARIABLE

P = ParamSpec("P")
T = TypeVar("T")


#: Those that may still have something at work.
_CREWS: weakref.WeakSet[LocalCrew] = weakref.WeakSet()


@dataclass(frozen=True)
class Phase:
    """Tasks that run in the same places.

    Attributes:
        tasks: by number, in the order of work. slots: the places. threads: that a worker of a pack may take.
    """

    tasks: Sequence[int]
    slots: Sequence[Slot]
    threads: int


class LocalCrew:
    """One launch at work in the background.

    Args:
        launch: what to do. phases: one after the other. store: open; used by this crew's writer alone while it works.

    Attributes:
        board: how the tasks stand.
    """

    def __init__(self, launch: Launch, phases: Sequence[Phase], store: Tracker) -> None:
        self.board = Board(len(launch.plan.tasks), self._note)
        self._held = Held(launch.folder)
        self._launch = launch
        self._plan = launch.plan
        self._phases = phases
        self._store = store
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="surge-writer")
        self._lock = threading.Lock()
        self._at_work: set[Program | PackWorker] = set()
        self._open_runs: dict[int, ScriptRun] = {}
        self._thread = threading.Thread(target=self._run, name="surge-local", daemon=True)

    def start(self) -> None:
        """Begin, and return; what still runs when this process ends is killed then."""
        _CREWS.add(self)
        self._thread.start()

    def kill(self) -> None:
        """End every process of it at once, as when this process itself ends."""
        self.board.cancel(None)
        with self._lock:
            at_work = list(self._at_work)
        for each in at_work:
            each.kill()

    def _run(self) -> None:
        watch = StoreWatch(self._run_at_work)
        watch.start()
        try:
            for phase in self._phases:
                threads = [
                    threading.Thread(target=self._work, args=(phase, slot), daemon=True)
                    for slot in phase.slots
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            watch.stop()
            self._writer.shutdown(wait=False)
            self._held.release()

    def _note(self, task: int, state: TaskState) -> None:
        """Leave the task's last word for other processes, as `run_task` does; what does is passed over."""
        if self._launch.end_of(task) is None:
            TaskEnd(0 if state.state == "ended" else 1, state.why).write(self._launch, task)

    def _work(self, phase: Phase, slot: Slot) -> None:
        worker = PackWorker(slot, phase.threads)
        with self._lock:
            self._at_work.add(worker)
        try:
            slot.pin()
            while (task := self.board.take(phase.tasks)) is not None:
                with self._given_up_on_error(task):
                    self._do(task, slot, worker)
        finally:
            worker.stop()
            with self._lock:
                self._at_work.discard(worker)

    @contextmanager
    def _given_up_on_error(self, task: int) -> Iterator[None]:
        """An error inside ends the launch: `Board.check` tells it whoever launched; no task stays in flight."""
        try:
            yield
        except BaseException as error:
            self.board.give_up(error)
            self.board.failed(task, str(error))
            if not isinstance(error, SurgeError):
                raise

    def _do(self, task: int, slot: Slot, worker: PackWorker) -> None:
        kind, is_builtin = self._plan.tasks[task].kind, self._plan.sweep_of(task).is_builtin
        if kind == "pack":
            self._train(task, worker)
        elif kind == "trial" and not is_builtin:
            self._run_script(task, slot)
        else:
            self._run_task(task, slot)

    def _train(self, task: int, worker: PackWorker) -> None:
        try:
            records = worker.train(
                self._plan.trials_of(task), self._launch.log_file(task), lambda: self.board.is_cancelled(task)
            )
        except SurgeError as error:
            self.board.failed(task, str(error))
            return
        if records is None:
            self.board.failed(task, "")
            return
        # Not waited for: the worker goes on with the next pack meanwhile.
        self._writer.submit(self._write, task, records)

    def _write(self, task: int, records: Sequence[RunRecord]) -> None:
        if self.board.is_cancelled(task):
            self.board.failed(task, "")
            return
        with self._given_up_on_error(task):
            self._store.write_runs(self._plan.sweep_of(task).sweep_id, records)
            self.board.ended(task, {record.trial_id: record.status for record in records})

    def _run_script(self, task: int, slot: Slot) -> None:
        plan, sweep, (trial,) = self._plan, self._plan.sweep_of(task), self._plan.trials_of(task)
        log = self._launch.log_file(task)
        kept = checkpoint_folder(plan, task)
        environment = {
            **TORCHRUN_ENVIRONMENT, **os.environ, **slot.environment, CHECKPOINT_VARIABLE: str(kept)
        }  # fmt: skip
        command = expand_command(sweep, trial)
        command = distributed(
            found(command, environment, plan.working_folder), plan.resources, f"{plan.launch_id}-{task}"
        )
        # Each run is opened only when its script can start, so that a kill leaves few behind.
        run = self._by_writer(
            self._store.start_script, sweep.sweep_id, trial.trial_id, trial.parameters, sweep.loss
        )
        code = None
        self._open_runs[task] = run
        try:
            program = Program(
                command, {**environment, **run.environment}, plan.working_folder, log, self._held.descriptor
            )
            code = self._wait(task, program, whole_group=True)
        finally:
            del self._open_runs[task]
            status = self._by_writer(run.finish, None if self.board.is_cancelled(task) else code)
        if status in RESULT_STATUSES:
            self.board.ended(task, {trial.trial_id: status})
            return
        self.board.failed(task, why_failed(code, run.problem, log))
        if why := self.board.hopeless():
            raise SurgeError(why, "Mend the script, then call again.")

    def _run_task(self, task: int, slot: Slot) -> None:
        """What runs as on a cluster: it opens and writes its run by itself."""
        log = self._launch.log_file(task)
        program = Program(
            run_task_command(self._launch, task),
            {**os.environ, **slot.environment},
            self._plan.working_folder,
            log,
            self._held.descriptor,
        )
        code = self._wait(task, program, whole_group=False)
        if code == 0:
            self.board.ended(task, {})
        elif code == MADE_ROOM:
            self.board.again(task)
        else:
            end = self._launch.end_of(task)
            printed = f"{ended(code)}: {last_lines(last_text(log))}"
            self.board.failed(task, f"{end.why if end else printed}, see {os.path.relpath(log)}")

    def _wait(self, task: int, program: Program, *, whole_group: bool) -> int:
        with self._lock:
            self._at_work.add(program)
        try:
            return program.wait(lambda: self.board.is_cancelled(task), whole_group=whole_group)
        finally:
            with self._lock:
                self._at_work.discard(program)

    def _by_writer(self, act: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        future: Future[T] = self._writer.submit(act, *arguments, **options)
        return future.result()

    def _run_at_work(self) -> ScriptRun | None:
        return next(iter(self._open_runs.copy().values()), None)


@atexit.register
def _kill_all() -> None:
    for crew in list(_CREWS):
        crew.kill()


def run_task_command(launch: Launch, task: int) -> list[str]:
    """The arguments that run a task as a cluster does."""
    return [sys.executable, "-m", "surge_sweeps.launch.run_task", str(launch.folder), str(task)]
