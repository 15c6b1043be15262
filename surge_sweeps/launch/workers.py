"""A process that trains packs of trials, one after the other, and hands the finished runs back to the one that writes.

One writer means that no two processes ever contend for the tracker's store, and that a pack is either written whole or
trained again. A worker dies with its parent, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.slots import Slot
from surge_sweeps.launch.stop import POLL_SECONDS
from surge_sweeps.sweep import Trial
from surge_sweeps.trackers.base import RunRecord

PARENT_CHECK_SECONDS = 1.0
#: How long a worker may take to end after TERM.
_END_SECONDS = 5.0


class WorkerDiedError(SurgeError):
    """A worker ended in the middle of a pack."""


class PackWorker:
    """One worker process; started when it is first needed, and again after it died.

    Args:
        slot: where it runs. threads: it may take.
    """

    def __init__(self, slot: Slot, threads: int) -> None:
        self._slot = slot
        self._threads = threads
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def train(
        self, trials: Sequence[Trial], log: Path, is_cancelled: Callable[[], bool]
    ) -> list[RunRecord] | None:
        """The finished runs of some trials that train together; None where it was cancelled.

        Args:
            log: what it prints goes there. is_cancelled: asked often; once true, the worker is ended at once.

        Raises:
            WorkerDiedError: it was killed, by the system for want of memory or by someone. SurgeError: it cannot train
                these trials.
        """
        process, pipe = self._started()
        try:
            pipe.send((list(trials), log))
            while not wait([pipe, process.sentinel], POLL_SECONDS):
                if is_cancelled():
                    self.stop()
                    return None
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            process.join(_END_SECONDS)
            code = process.exitcode
            self.stop()
            raise WorkerDiedError(
                _death(code, log), "Launch again with fewer --agents to run the rest."
            ) from error
        if isinstance(answer, SurgeError):
            raise answer
        records: list[RunRecord] = answer
        return records

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is None:
            return
        process.terminate()
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()

    def kill(self) -> None:
        """End the process at once; from any thread."""
        process = self._process
        if process is not None:
            with suppress(ValueError):
                process.kill()

    def _started(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        if self._process is not None and self._pipe is not None and self._process.is_alive():
            return self._process, self._pipe
        self.stop()
        # A forked torch process can hang on the locks of threads that fork did not copy.
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._slot, self._threads, os.getpid()), daemon=True
        )
        with _interrupts_blocked():
            process.start()
        # Else its end would not be seen here.
        theirs.close()
        self._process, self._pipe = process, pipe
        return process, pipe


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started inside hears no Ctrl-C, which the terminal sends to it as well: its parent ends it.

    Until it can say so itself it takes after the thread that starts it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The helper of `multiprocessing` lifts the block when it starts itself.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, slot: Slot, threads: int, parent: int) -> None:
    """What a worker does: train what comes, until there is nobody left to ask for more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    os.environ.update(slot.environment)
    while True:
        try:
            trials, log = pipe.recv()
        except EOFError:
            return
        _print_to(log)
        answer = _trained(trials, threads)
        sys.stdout.flush()
        pipe.send(answer)


def _trained(trials: Sequence[Trial], threads: int) -> list[RunRecord] | SurgeError:
    try:
        from surge_sweeps.training import TrialConfig, limit_threads, train

        limit_threads(threads)
        return train([(trial.trial_id, TrialConfig.from_parameters(trial.parameters)) for trial in trials])
    except SurgeError as error:
        return error
    except MemoryError:
        return SurgeError("the memory is full.", "Launch again with fewer --agents.")


def _print_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _death(code: int | None, log: Path) -> str:
    if code == -signal.SIGKILL:
        return "its worker process was killed, probably for using too much memory."
    return f"its worker process ended with exit code {code}, see {os.path.relpath(log)}."


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
