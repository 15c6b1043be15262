"""Runs whose optimal learning rates are known: to test a fit, and to see what a planned sweep could tell.

A truth (`Truth` for every law of `theory.LAWS`, `SignQuadratic` for the exact one-step theory, `FallingEdge` around
either) says how the optimal learning rate and the pace of training depend on the batch size. `simulate_training`,
`simulate_branches` and `simulate_table` turn it into the same `LossCurves` that a tracker or a table is read into,
with a `Noise` between runs and with `Damage` to them.
"""

from surge_sweeps.simulate.assemble import join_curves
from surge_sweeps.simulate.basins import Basin, Kinked, LogSkew, Parabola
from surge_sweeps.simulate.branches import simulate_branches
from surge_sweeps.simulate.damage import Damage
from surge_sweeps.simulate.edge import FallingEdge
from surge_sweeps.simulate.grid import Grid
from surge_sweeps.simulate.noise import Noise
from surge_sweeps.simulate.quadratic import SignQuadratic
from surge_sweeps.simulate.table import FinalLoss, simulate_table, table_of
from surge_sweeps.simulate.training import simulate_training
from surge_sweeps.simulate.truth import KnownTruth, Truth

__all__ = [
    "Basin",
    "Damage",
    "FallingEdge",
    "FinalLoss",
    "Grid",
    "Kinked",
    "KnownTruth",
    "LogSkew",
    "Noise",
    "Parabola",
    "SignQuadratic",
    "Truth",
    "join_curves",
    "simulate_branches",
    "simulate_table",
    "simulate_training",
    "table_of",
]
