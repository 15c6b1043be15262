"""Trials as tasks of a Ray cluster: of a running one by its address, or of one of our own on this machine."""

from surge_sweeps.launch.ray.launcher import RayLauncher
from surge_sweeps.launch.ray.options import RayOptions

__all__ = ["RayLauncher", "RayOptions"]
