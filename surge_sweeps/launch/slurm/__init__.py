"""Trials as elements of SLURM job arrays."""

from surge_sweeps.launch.slurm.launcher import SlurmLauncher
from surge_sweeps.launch.slurm.options import SlurmOptions

__all__ = ["SlurmLauncher", "SlurmOptions"]
