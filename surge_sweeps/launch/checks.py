"""What is refused before anything is started or written: trials that cannot run."""

from __future__ import annotations

from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.sweep import Sweep


def check_trials(sweep: Sweep) -> None:
    """See that the sweep's trials can be started from this folder.

    Raises:
        SurgeError: a parameter that the built-in trainer does not take, or a program that is not there.
    """
    if sweep.is_builtin:
        from surge_sweeps.training import TrialConfig

        TrialConfig.from_parameters(sweep.trials()[0].parameters)
    elif "${program}" in sweep.command and not Path(sweep.program or "").is_file():
        raise SurgeError(
            f"the sweep {sweep.name!r} runs {sweep.program!r}, which is not there.",
            f"Paths count from the folder you are in, {Path.cwd()}.",
        )
