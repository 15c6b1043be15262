"""Differences between runs of one cell: how large, how heavy their tails, and how much of them the seed decides.

What a standard deviation is relative to is said by each simulation: the log of the pace, the largest gain, the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate.grid import FloatArray, Runs

TAILS = ("normal", "student_t3")


@dataclass(frozen=True)
class Noise:
    """Noise of mean 0, one number a run.

    Attributes:
        sd: standard deviation, whatever the tails.
        tails: `normal`, or `student_t3`: Student's t with 3 degrees of freedom, divided by its standard deviation
            sqrt(3). Half of its draws lie within 0.44 sd (normal: 0.67), 1.4% beyond 3 sd (normal: 0.3%).
        seed_share: share of the variance that all runs with the same seed number have in common (common random
            numbers), such as the data order or the starting weights; 0: runs are independent.

    Raises:
        SurgeError: `sd` is negative or not finite, or `seed_share` lies outside 0 to 1.
        UnknownNameError: of the tails.
    """

    sd: float = 0.1
    tails: Literal["normal", "student_t3"] = "normal"
    seed_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sd < np.inf:
            raise SurgeError(
                f"the standard deviation {self.sd} of the noise must be finite and not negative."
            )
        if self.tails not in TAILS:
            raise UnknownNameError("noise", self.tails, TAILS)
        if not 0 <= self.seed_share <= 1:
            raise SurgeError(f"the share {self.seed_share} of a seed in the noise must lie between 0 and 1.")

    def draw(self, rng: np.random.Generator, runs: Runs) -> FloatArray:
        """(n_runs,) the noise of each run; one draw a run in their order, then one a seed where seeds share noise.

        >>> from surge_sweeps.simulate.grid import Grid
        >>> runs = Grid([4, 8], [0.1], 2).runs("demo")
        >>> noise = Noise(0.1, seed_share=1.0).draw(np.random.default_rng(0), runs)
        >>> bool((noise[:2] == noise[2:]).all())
        True
        """
        own = self._unit(rng, runs.seed.size)
        if self.seed_share == 0 or runs.seed.size == 0:
            return np.asarray(self.sd * own)
        common = self._unit(rng, int(runs.seed.max()) + 1)[runs.seed]
        mixed = np.sqrt(1 - self.seed_share) * own + np.sqrt(self.seed_share) * common
        return np.asarray(self.sd * mixed)

    def _unit(self, rng: np.random.Generator, count: int) -> FloatArray:
        if self.tails == "normal":
            return rng.standard_normal(count)
        return np.asarray(rng.standard_t(3, count) / np.sqrt(3))


def noise_of(noise: float | Noise) -> Noise:
    """The noise itself, or the normal one of that standard deviation.

    >>> noise_of(0.2)
    Noise(sd=0.2, tails='normal', seed_share=0.0)
    """
    return noise if isinstance(noise, Noise) else Noise(noise)
