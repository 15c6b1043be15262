"""What a launch looks at before it registers or starts anything, and what the user is told of it meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from surge_sweeps.cli.console import err, progress_bar, say
from surge_sweeps.errors import MissingExtraError, SurgeError
from surge_sweeps.launch.checks import check_data_of, check_trials
from surge_sweeps.launch.stop import StopRequest
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.sweep import Sweep, Trial

_MEND = "Change the sweep file, then launch again."


def check_file(file: Path, sweep: Sweep) -> None:
    """See that the trials of a sweep file can run, as far as that is known without any data.

    Raises:
        SurgeError: they cannot; the message names the file.
    """
    if not sweep.is_builtin:
        check_trials(sweep)
        return
    with _of_file(file, _MEND):
        check_trials(sweep)


class Preflight:
    """Reads the data of trials before the first of them begins; a `Check`.

    Args:
        files: the sweeps, by the files they come from. is_here: their trials run on this machine.
        quiet: tell nothing but what is wrong.

    Attributes:
        doing: what goes on, for a display that is drawn again and again.
        progress: told the same, for a display that is drawn when it is told something.
    """

    def __init__(self, files: Mapping[Path, Sweep], *, is_here: bool, quiet: bool) -> None:
        self.doing = "starting"
        self.progress: ProgressCallback = no_progress
        self._files = {sweep.sweep_id: file for file, sweep in files.items()}
        self._is_here = is_here
        self._quiet = quiet
        self._told: set[str] = set()

    def __call__(self, sweep: Sweep, trials: Sequence[Trial], stop: StopRequest) -> None:
        """Look at some trials of a sweep, and tell of batches that are larger than the data set.

        Raises:
            SurgeError: none of them can run. Stopped: the user asked for it.
        """
        if not sweep.is_builtin:
            return
        # Not at the top: it needs the extra `train`, and scripts do not.
        from surge_sweeps.training.data.making import told_to

        @contextmanager
        def listen(work: str, sentence: str) -> Iterator[ProgressCallback]:
            say(sentence, quiet=self._quiet)
            with self._shown(work) as show:

                def progress(done: float, total: float, text: str) -> None:
                    stop.check()
                    show(done, total, text)

                yield progress

        with told_to(listen), _of_file(self._files[sweep.sweep_id]):
            notes = check_data_of(sweep, trials, is_here=self._is_here)
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                say(note, quiet=self._quiet)

    @contextmanager
    def _shown(self, work: str) -> Iterator[ProgressCallback]:
        """Shows progress: on a terminal in the display that is there, as a second cannot be drawn; else by lines."""
        if not err.is_terminal:
            with progress_bar(work, quiet=self._quiet, lines=True) as progress:
                yield lambda done, total, text: progress(done, total, text) if total else None
            return

        def show(done: float, total: float, text: str) -> None:
            share = f"{math.floor(100 * done / total)}%" if total else ""
            self.doing = f"{work}: {', '.join(part for part in (share, text) if part)}"
            self.progress(done, total, f"{work} {text}")

        try:
            yield show
        finally:
            self.doing = "starting"


@contextmanager
def _of_file(file: Path, step: str = "") -> Iterator[None]:
    """Errors inside name the sweep file; a package that is not installed is no matter of it."""
    try:
        yield
    except MissingExtraError:
        raise
    except SurgeError as error:
        raise SurgeError(f"{file}: {error.what}", f"{error.hint} {step}".strip()) from error
