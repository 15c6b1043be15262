"""Measure the optimal learning rate at every batch size on your own runs, and get a schedule with intervals.

    import surge_sweeps as ss

    curves = ss.collect("my-project")                     # LossCurves: .runs, .points, .problems
    fit = ss.fit(curves)                                  # SurgeFit: fit.to_dict() is fit.json
    schedule = ss.recommend(fit, budget_examples=1e9)     # Schedule: .batch_size(examples), .lr(examples)

Importing this package imports neither torch nor a tracker's client; each is loaded when it is first used.
"""

from __future__ import annotations

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
