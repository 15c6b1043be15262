"""Measure the optimal learning rate at every batch size on your own runs, and get a schedule with intervals.

    import surge_sweeps as ss

    curves = ss.collect("my-project")                     # LossCurves: .runs, .points, .problems
    fit = ss.fit(curves)                                  # SurgeFit: fit.to_dict() is fit.json
    schedule = ss.recommend(fit, budget_examples=1e9)     # Schedule: .batch_size(examples), .lr(examples)

Importing this package imports neither torch nor a tracker's client; each is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surge_sweeps.curves import LossCurves as LossCurves
    from surge_sweeps.errors import SurgeError as SurgeError
    from surge_sweeps.fitting import SurgeFit as SurgeFit
    from surge_sweeps.fitting import fit as fit
    from surge_sweeps.schedule import Schedule as Schedule
    from surge_sweeps.schedule import recommend as recommend
    from surge_sweeps.sweep import Sweep as Sweep
    from surge_sweeps.sweep import Trial as Trial
    from surge_sweeps.trackers import collect as collect

__version__ = "0.1.0"

__all__ = [
    "LossCurves",
    "Schedule",
    "SurgeError",
    "SurgeFit",
    "Sweep",
    "Trial",
    "collect",
    "fit",
    "recommend",
]

_HOMES = {
    "LossCurves": "surge_sweeps.curves",
    "SurgeError": "surge_sweeps.errors",
    "SurgeFit": "surge_sweeps.fitting",
    "fit": "surge_sweeps.fitting",
    "Schedule": "surge_sweeps.schedule",
    "recommend": "surge_sweeps.schedule",
    "Sweep": "surge_sweeps.sweep",
    "Trial": "surge_sweeps.sweep",
    "collect": "surge_sweeps.trackers",
}


def __getattr__(name: str) -> object:
    """Load a public name at its first use, so that the commands start, and stop, at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
