"""Noise has the spread it says, whatever its tails, and seeds share as much of it as asked."""

from __future__ import annotations

import numpy as np
import pytest

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate import Damage, Grid, Noise, Truth, simulate_table

WIDE = Grid(list(range(1, 201)), np.linspace(0.1, 1.0, 50).tolist(), 5)


def test_normal_and_heavy_tails_have_the_spread_they_say() -> None:
    runs = WIDE.runs("x")
    normal = Noise(0.2).draw(np.random.default_rng(0), runs)
    heavy = Noise(0.2, tails="student_t3").draw(np.random.default_rng(0), runs)
    assert normal.std() == pytest.approx(0.2, rel=0.02)
    assert heavy.std() == pytest.approx(0.2, rel=0.15)
    assert np.median(abs(heavy)) == pytest.approx(0.4416 * 0.2, rel=0.03)
    assert np.median(abs(normal)) == pytest.approx(0.6745 * 0.2, rel=0.03)
    assert np.mean(abs(heavy) > 0.6) == pytest.approx(0.0138, rel=0.1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tails", ["normal", "student_t3"])
def test_seeds_share_the_variance_they_say(share: float, tails: str) -> None:
    grid = Grid([1, 2], [0.1], 40_000)
    noise = Noise(1.0, tails="normal" if tails == "normal" else "student_t3", seed_share=share)
    one, other = noise.draw(np.random.default_rng(1), grid.runs("x")).reshape(2, -1)
    both = np.clip(one, -4, 4), np.clip(other, -4, 4)
    tolerance = 0.02 if tails == "normal" else 0.06
    assert np.corrcoef(*both)[0, 1] == pytest.approx(share, abs=tolerance)
    assert np.std(both[0]) == pytest.approx(1.0 if tails == "normal" else 0.9, abs=0.1)


def test_common_noise_cancels_between_learning_rates() -> None:
    truth, grid = Truth("constant", {"a": 0.1}), Grid([16], [0.08, 0.1], 6)
    noise = Noise(0.1, seed_share=1.0)
    runs = simulate_table(truth, grid, np.random.default_rng(0), noise=noise).runs
    by_seed = runs.pivot_table("response", "seed", "lr")
    assert np.ptp(by_seed[0.08] - by_seed[0.1]) < 1e-12 < np.ptp(by_seed[0.1])


def test_damage_changes_no_number_of_the_runs_it_spares() -> None:
    truth, grid = Truth("constant", {"a": 0.1}), Grid([16, 32, 64], [0.08, 0.1, 0.12], 4)
    whole = simulate_table(truth, grid, np.random.default_rng(3)).runs.set_index("run")["response"]
    hurt = simulate_table(
        truth, grid, np.random.default_rng(3), damage=Damage(diverged_cells=0.3, lost_runs=0.2)
    ).runs.set_index("run")["response"]
    spared = hurt.dropna()
    assert 0 < len(spared) < len(hurt) < len(whole)
    assert spared.equals(whole[spared.index])


def test_impossible_noise_and_damage_are_refused() -> None:
    with pytest.raises(SurgeError, match="not negative"):
        Noise(-0.1)
    with pytest.raises(SurgeError, match="not negative"):
        Noise(float("nan"))
    with pytest.raises(UnknownNameError, match="student_t3"):
        Noise(0.1, tails="cauchy")  # type: ignore[arg-type]
    with pytest.raises(SurgeError, match="between 0 and 1"):
        Noise(0.1, seed_share=1.5)
    with pytest.raises(SurgeError, match="lost_runs"):
        Damage(lost_runs=-0.1)
    with pytest.raises(SurgeError, match="more than 1"):
        Damage(diverged_cells=0.6, missing_cells=0.6)
