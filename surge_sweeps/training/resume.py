"""A run that can be stopped: its state goes to a file, and a later process goes on with the same bits.

The state is saved every few minutes, for a process that is killed, and when the run is asked to make room. Where it is
missing (another machine, no shared disk) or torn the run starts over: the same settings give the same run, so only the
steps that are not logged yet have to be logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from surge_sweeps.errors import SurgeError, TrainingError
from surge_sweeps.trackers.base import ResumableRun
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.loop import Begun, continue_loop
from surge_sweeps.training.micro_batches import cut_batch
from surge_sweeps.training.preemption import Preempted, StopRequest
from surge_sweeps.training.session import Session, Setup, open_session
from surge_sweeps.training.state import State, checkpoint_path, read_file, read_state, write_state
from surge_sweeps.training.trace import Trace

__all__ = ["checkpoint_path", "train_resumable"]

Say = Callable[[str], None]


def train_resumable(
    config: TrialConfig,
    run: ResumableRun,
    path: Path,
    stop: StopRequest,
    say: Say = lambda _: None,
    *,
    setup: Setup | None = None,
    every_minutes: float = 0.0,
) -> Trace:
    """Train a run to its end, going on from the state at `path` if there is one; see `train_streaming`.

    Args:
        config, run: what to train and where to log it. path: see `checkpoint_path`; removed once the run has ended.
        stop: when it is requested, the state is saved and the run closed as preempted; of several processes one is
            enough. say: told of a run that starts over, of a state that cannot be saved, of smaller micro-batches.
        setup: how it is computed; all processes of a run call this, and the first one logs and saves.
        every_minutes: how often the state is saved; 0: only to make room.

    Raises:
        Preempted: the run made room. TrainingError, MissingExtraError: see `train_streaming`; or the state belongs to
            other settings. TrackerError: the store is away. SurgeError: the state cannot be saved to make room.
    """
    setup = setup or Setup()
    try:
        stoppable = _Stoppable(config, run, path, stop, say, setup, every_minutes)
        trace = stoppable.train()
        run.finish(trace.status or "crashed", trace.summary() | stoppable.session.steps.summary())
    except Preempted:
        run.preempt()
        # The others end once the first is done: torchrun gives a process little time after another has ended.
        setup.processes.any_of()
        raise
    finally:
        # Does nothing after a line above.
        run.finish("crashed")
    if setup.processes.rank.number == 0:
        path.unlink(missing_ok=True)
    return trace


class _Stoppable:
    """One run with its file."""

    def __init__(
        self,
        config: TrialConfig,
        run: ResumableRun,
        path: Path,
        stop: StopRequest,
        say: Say,
        setup: Setup,
        every_minutes: float,
    ) -> None:
        self._config = config
        self._run = run
        self._path = path
        self._stop = stop
        self._say = say
        self._wanted = setup.micro_batch_size
        self._every_s = 60 * every_minutes
        self._due = time.monotonic() + self._every_s
        self._cannot_save = False
        self._processes = setup.processes
        self._is_first = self._processes.rank.number == 0
        self.session: Session = open_session(config, setup, say, self._wishes)

    def train(self) -> Trace:
        """Train to the end of the run, or until it makes room."""
        session = self.session
        trace, begun = self._restored()

        def after_step(begun: Begun) -> None:
            make_room, save = session.steps.agreed
            if make_room or save:
                self._save(trace, begun, is_needed=make_room)
            if make_room:
                raise Preempted(self._path)

        continue_loop(
            session.workload,
            session.model,
            session.optimizer,
            trace,
            begun=begun,
            on_step=after_step,
            steps=session.steps,
        )
        return trace

    def _wishes(self) -> tuple[bool, bool]:
        is_due = self._every_s > 0 and self._is_first and time.monotonic() >= self._due
        return self._stop.requested, is_due

    def _save(self, trace: Trace, begun: Begun, *, is_needed: bool) -> None:
        session, cut = self.session, self.session.steps.cut
        own = [] if begun.sums is None else begun.sums.tolist()
        sums = self._processes.gather(*own)
        if not self._is_first:
            return
        try:
            write_state(
                self._path,
                session.model,
                session.optimizer,
                trace,
                step=begun.step,
                sums=torch.tensor(sums, dtype=session.workload.dtype),
                wanted_micro_batch_size=self._wanted,
                micro_batch_size=cut.size if cut is not None else None,
                evaluated_at_once=session.steps.evaluate.examples_at_once,
            )
        except SurgeError as error:
            if is_needed:
                raise TrainingError(
                    f"the run cannot make room: {error.what}",
                    "Free space there, or choose another --checkpoint-dir; an earlier state stays as it was.",
                ) from error
            if not self._cannot_save:
                self._say(f"the run's state is not saved, and training goes on: {error}")
            self._cannot_save = True
        # From now, so that a slow disk does not take all the time.
        self._due = time.monotonic() + self._every_s

    def _restored(self) -> tuple[Trace, Begun | None]:
        """The trace to go on with; its points are logged again, and the run passes over those that it has."""
        session, run = self.session, self._run
        content = self._processes.from_first(read_file(self._path) if self._is_first else None)
        saved = None if content is None else read_state(content, self._config, self._path)
        if saved is None:
            self._tell_start(content)
        elif saved["wanted_micro_batch_size"] != self._wanted:
            # Cut otherwise it rounds otherwise, and batch statistics differ: it would be no run that was asked for.
            self._say(
                f"the state at {self._path} is of a run with {_cut_asked(saved['wanted_micro_batch_size'])}, and "
                f"{_cut_asked(self._wanted)} is asked for: starting over from step 0."
            )
            saved = None
        if saved is None:
            return Trace(self._config, session.start.loss, session.start.checkpoint, run.log), None
        session.model.load_state_dict(saved["model"])
        session.optimizer.load_state_dict(saved["optimizer"])
        (_, start_loss, *_), *points = saved["points"]
        trace = Trace(self._config, start_loss, session.start.checkpoint, run.log)
        for point in points:
            trace.add(*point)
        self._restore_cut(saved)
        return trace, Begun(saved["step"], self._own_sums(saved))

    def _tell_start(self, content: bytes | None) -> None:
        if content is not None:
            self._say(f"the state at {self._path} is torn, or of another version: starting over from step 0.")
        elif self._run.logged_step >= 0:
            self._say(
                f"no state of run {self._run.run_id} at {self._path}: starting over from step 0; the steps up to "
                f"{self._run.logged_step} are logged already."
            )

    def _restore_cut(self, saved: State) -> None:
        """Micro-batches that were halved stay so: they would be again, and a step cut otherwise rounds otherwise."""
        size, steps = saved["micro_batch_size"], self.session.steps
        processes = self._processes.rank.size
        share = self._config.batch_size // processes
        if size is not None and steps.cut is not None and size < steps.cut.size and share % size == 0:
            steps.cut = cut_batch(self._config.batch_size, size, processes)
        steps.evaluate.examples_at_once = min(steps.evaluate.examples_at_once, saved["evaluated_at_once"])

    def _own_sums(self, saved: State) -> torch.Tensor | None:
        """This process's part of what was measured since the last point."""
        sums, rank = saved["sums"], self._processes.rank
        if sums.numel() == 0:
            return None
        # As many processes as before take their own; of another number each takes the mean, which is what counts.
        own: torch.Tensor = sums[rank.number] if len(sums) == rank.size else sums.mean(dim=0)
        return own.clone().to(self.session.workload.device)


def _cut_asked(size: int | None) -> str:
    return "no --micro-batch-size" if size is None else f"--micro-batch-size {size}"
