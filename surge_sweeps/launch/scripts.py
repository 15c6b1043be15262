"""A user's own training script, one process a trial, each logging into a run that is opened for it.

The script takes `--lr --batch_size --seed` and logs a loss; it needs to know nothing of this tool. Which run it logs
into travels by environment variables that the tracker's own client reads.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.launch.command import expand_command
from surge_sweeps.launch.stop import POLL_SECONDS, StopRequest
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.base import ScriptRun, Tracker

#: What the scripts print, one file a trial: .surge/logs/SWEEP_ID/TRIAL_ID.log in the working folder.
LOG_FOLDER = Path(".surge") / "logs"
#: Lines of a failed script's output shown in the message.
TAIL_LINES = 3
TAIL_BYTES = 4096
TERM_TIMEOUT_SECONDS = 20
#: So many failures with no success mean that the script cannot work.
MAX_FIRST_FAILURES = 3
#: How often it is asked whether the store answers while scripts run.
LOOK_SECONDS = 15.0

_log = logging.getLogger(__name__)

#: What MLflow says to a script that names a store or an experiment of its own.
_OTHER_STORE_SIGNS = (
    "active experiment ID does not match",
    "not found in the tracking store",
    "Run with id=",
)


class _Processes:
    """The scripts that are running, each in a process group of its own, so that all of them can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, arguments: list[str], environment: dict[str, str], log: Path) -> int | None:
        """Exit code of the script; None when it was not started because the launch was stopped."""
        with log.open("wb") as output:
            with self._lock:
                if self._stopped:
                    return None
                process = subprocess.Popen(
                    arguments,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """End every script and what it started: TERM, then KILL for those that do not listen."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        try:
            for process in running:
                _signal_group(process, signal.SIGTERM)
            deadline = time.monotonic() + TERM_TIMEOUT_SECONDS
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in running:
                _signal_group(process, signal.SIGKILL)


class _StoreWatch:
    """Says so, once each time, when the store that the running scripts log to no longer answers.

    A script logs by the tracker's own client, which may wait for minutes in silence.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._asked: Future[str] | None = None
        self._asked_s = time.monotonic()
        self._is_away = False

    def look(self, runs: Iterable[ScriptRun]) -> None:
        """Take the answer to the last question if there is one; ask anew now and then. Never waits."""
        if self._asked is not None and self._asked.done():
            text, self._asked = self._asked.result(), None
            if text and not self._is_away:
                _log.warning("%s", text)
            self._is_away = bool(text)
        run = next(iter(runs), None)
        if self._asked is None and run is not None and time.monotonic() - self._asked_s >= LOOK_SECONDS:
            self._asked_s = time.monotonic()
            self._asked = self._pool.submit(run.store_is_away)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group may be gone, or still hold children of a script that has ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def run_scripts(
    work: Sequence[tuple[Sweep, list[Trial]]],
    tracker: Tracker,
    agents: int,
    result: LaunchResult,
    progress: ProgressCallback,
    stop: StopRequest,
) -> None:
    """Run the script of each trial, `agents` at a time, and add what became of them to `result`."""
    planned = [(sweep, trial) for sweep, trials in work for trial in trials]
    for sweep, _ in work:
        (LOG_FOLDER / sweep.sweep_id).mkdir(parents=True, exist_ok=True)
    queue = iter(planned)
    processes = _Processes()
    done = 0
    progress(0, len(planned), f"{agents} at a time")
    # One thread more than scripts: it asks whether the store answers.
    with ThreadPoolExecutor(agents + 1) as pool:
        watch = _StoreWatch(pool)
        running: dict[Future[int | None], tuple[Trial, ScriptRun, Path]] = {}
        try:
            while True:
                # Each run is opened only when its script can start, so that a kill leaves few behind.
                while len(running) < agents and (item := next(queue, None)) is not None:
                    _start(*item, tracker, pool, processes, running)
                if not running:
                    break
                ended, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                stop.check()
                watch.look(run for _, run, _ in running.values())
                for future in ended:
                    _finish(*running.pop(future), future, result)
                    done += 1
                    progress(done, len(planned), result.summary())
                _give_up_if_hopeless(result)
        except BaseException:
            processes.stop()
            result.cut_off.update(trial.trial_id for trial, _, _ in running.values())
            for _, run, _ in running.values():
                run.finish(None)
            raise


def _start(
    sweep: Sweep,
    trial: Trial,
    tracker: Tracker,
    pool: ThreadPoolExecutor,
    processes: _Processes,
    running: dict[Future[int | None], tuple[Trial, ScriptRun, Path]],
) -> None:
    log = LOG_FOLDER / sweep.sweep_id / f"{trial.trial_id}.log"
    arguments = expand_command(sweep, trial)
    run = tracker.start_script(sweep.sweep_id, trial.trial_id, trial.parameters, sweep.loss)
    environment = {**os.environ, **run.environment}
    running[pool.submit(processes.run, arguments, environment, log)] = (trial, run, log)


def _finish(
    trial: Trial, run: ScriptRun, log: Path, future: Future[int | None], result: LaunchResult
) -> None:
    try:
        exit_code = future.result()
    except OSError as error:
        run.finish(None)
        raise SurgeError(
            f"the script cannot be started: {error}.", "Check 'program' and 'command' of the sweep."
        ) from error
    status = run.finish(exit_code)
    if status in ("finished", "diverged", "capped"):
        result.ended[status] += 1
        return
    result.failures[trial.trial_id] = _why(exit_code, run.problem, log)


def _give_up_if_hopeless(result: LaunchResult) -> None:
    """A script that fails every time from the start will go on doing so."""
    if len(result.failures) >= MAX_FIRST_FAILURES and not result.ended:
        reason = next(iter(result.failures.values()))
        raise SurgeError(
            f"the first {len(result.failures)} trials all failed: {reason}.",
            "Mend the script, then call again.",
        )


def _why(exit_code: int | None, problem: str, log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = ["".join(c for c in line if c.isprintable()) for line in text.splitlines()[-TAIL_LINES:]]
    reason = f"{problem}, see {log}" if problem and exit_code == 0 else f"exit code {exit_code}, see {log}"
    hint = (
        " (the tool tells the script its store and run by environment: remove mlflow.set_experiment and "
        "mlflow.set_tracking_uri)"
        if any(sign in text for sign in _OTHER_STORE_SIGNS)
        else ""
    )
    return f"{reason}: {' | '.join(lines) or 'no output'}{hint}"
