"""What is refused before anything is started or written: trials that cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.launch.stop import StopRequest
from surge_sweeps.sweep import AXES, Sweep, Trial

#: Called with those trials of a sweep that are to be done, before anything is registered or started. It raises where
#: they cannot run, and where a stop was asked for.
Check = Callable[[Sweep, Sequence[Trial], StopRequest], object]


def no_check(_sweep: Sweep, _trials: Sequence[Trial], _stop: StopRequest) -> None:
    """Look at nothing."""


def check_trials(sweep: Sweep) -> None:
    """See that the sweep's trials can be started from this folder. No data are read.

    Raises:
        SurgeError: a parameter that the built-in trainer does not take, or a program that is not there.
    """
    if sweep.is_builtin:
        from surge_sweeps.training import TrialConfig

        first = sweep.trials()[0].parameters
        # Every value of every axis: some settings fit one batch size and not another.
        for axis in AXES:
            for value in getattr(sweep, axis):
                TrialConfig.from_parameters({**first, axis: value})
    elif "${program}" in sweep.command and not Path(sweep.program or "").is_file():
        raise SurgeError(
            f"the sweep {sweep.name!r} runs {sweep.program!r}, which is not there.",
            f"Paths count from the folder you are in, {Path.cwd()}.",
        )


def check_data_of(sweep: Sweep, trials: Sequence[Trial], *, is_here: bool) -> list[str]:
    """Look at what some trials of a built-in sweep train on; see `training.preflight.check_data`.

    Args:
        is_here: they run on this machine.

    Returns:
        A sentence for each batch size that is larger than the data set.

    Raises:
        SurgeError: they cannot run.
    """
    if not sweep.is_builtin:
        return []
    require("torch", "train")
    from surge_sweeps.training.config import TrialConfig
    from surge_sweeps.training.preflight import check_data

    # Of trials that differ in learning rate and seed alone, one tells of all.
    by_batch_size = {trial.batch_size: trial for trial in trials}
    configs = [TrialConfig.from_parameters(by_batch_size[size].parameters) for size in sorted(by_batch_size)]
    return check_data(configs, is_here=is_here)
