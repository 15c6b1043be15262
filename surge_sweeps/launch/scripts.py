"""A user's own training script, one process a trial, each logging into a run that is opened for it.

The script takes `--lr --batch_size --seed` and logs a loss; it needs to know nothing of this tool. Which run it logs
into travels by environment variables that the tracker's own client reads.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from surge_sweeps.launch.programs import last_lines, last_text
from surge_sweeps.trackers.base import ScriptRun

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


class StoreWatch(threading.Thread):
    """Says so, once each time, when the store that the running scripts log to no longer answers.

    A script logs by the tracker's own client, which may wait for minutes in silence.

    Args:
        run_at_work: the run of some script that is running; None where there is none.
    """

    def __init__(self, run_at_work: Callable[[], ScriptRun | None]) -> None:
        super().__init__(name="surge-store-watch", daemon=True)
        self._run_at_work = run_at_work
        self._over = threading.Event()

    def run(self) -> None:
        """Look now and then, until `stop`."""
        is_away = False
        while not self._over.wait(LOOK_SECONDS):
            run = self._run_at_work()
            if run is None:
                continue
            text = run.store_is_away()
            if text and not is_away:
                _log.warning("%s", text)
            is_away = bool(text)

    def stop(self) -> None:
        """Look no more. Does not wait for a look that is going on."""
        self._over.set()


def why_failed(exit_code: int, problem: str, log: Path) -> str:
    """One sentence on a script that left no result; `problem`: the tracker's word on it, see `ScriptRun`."""
    printed = last_text(log)
    shown = os.path.relpath(log)
    reason = f"{problem}, see {shown}" if problem and exit_code == 0 else f"{ended(exit_code)}, see {shown}"
    hint = (
        " (the tool tells the script its store and run by environment: remove mlflow.set_experiment and "
        "mlflow.set_tracking_uri)"
        if any(sign in printed for sign in _OTHER_STORE_SIGNS)
        else ""
    )
    return f"{reason}: {last_lines(printed)}{hint}"


def ended(exit_code: int) -> str:
    """How a program ended, in words.

    >>> ended(1), ended(-9)
    ('exit code 1', 'killed by SIGKILL')
    """
    if exit_code >= 0:
        return f"exit code {exit_code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-exit_code, f'signal {-exit_code}')}"
