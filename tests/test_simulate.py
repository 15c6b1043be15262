"""Simulated runs follow their declared truth and come out the same for the same seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.fitting.observables import running_minimum, steps_to_losses
from surge_sweeps.simulate import Grid, Truth, join_curves, simulate_branches, simulate_training

SURGE = Truth("surge", {"eps_max": 0.02, "b_noise": 32.0}, b_crit=32.0)


@pytest.mark.parametrize("basin", ["parabola", "skewed"])
def test_steps_to_a_loss_are_those_of_the_truth(basin: str) -> None:
    truth = Truth("surge", SURGE.parameters, basin="parabola" if basin == "parabola" else "skewed")
    curves = simulate_training(
        truth, Grid([8, 64], [0.005, 0.01, 0.015], 1), np.random.default_rng(0), noise=0.0, max_steps=20000
    )
    for loss in (1.0, 0.3):
        found = np.exp(steps_to_losses(running_minimum(curves), [loss]).values[:, 0])
        batch_size, lr = curves.runs["batch_size"].to_numpy(), curves.runs["lr"].to_numpy()
        expected = truth.steps(batch_size, loss) / truth.progress(lr / truth.optimal_lr(batch_size))
        assert found == pytest.approx(expected, rel=0.01)


def test_learning_rates_from_twice_the_optimum_never_arrive_and_large_ones_diverge() -> None:
    best = float(SURGE.optimal_lr(32))
    curves = simulate_training(SURGE, Grid([32], [best, 2.5 * best, 5 * best], 1), np.random.default_rng(0))
    assert curves.runs.set_index("lr")["status"].sort_index().tolist() == ["finished", "capped", "diverged"]


def test_skewed_and_parabola_agree_near_the_optimum_and_differ_away_from_it() -> None:
    skewed = Truth("surge", SURGE.parameters, basin="skewed")
    near, far = np.exp(np.array([-0.02, 0.02])), 2.0
    assert skewed.progress(near) == pytest.approx(SURGE.progress(near), abs=1e-4)
    assert skewed.progress(far) > SURGE.progress(far)


def test_peak_moves_to_larger_batches_as_the_loss_falls() -> None:
    truth = Truth("surge", SURGE.parameters, peak_drift=2.0)
    batch_sizes = np.geomspace(1, 10000, 4001)
    for loss in (2.3, 1.15):
        peak = truth.peak(loss)
        assert peak == pytest.approx(batch_sizes[truth.optimal_lr(batch_sizes, loss).argmax()], rel=0.01)
    assert truth.peak(1.15) == pytest.approx(4 * 32.0)


def test_branches_gain_most_at_the_optimal_learning_rate() -> None:
    best = float(SURGE.optimal_lr(16))
    curves = simulate_branches(
        SURGE,
        Grid([16], [0.5 * best, best, 1.5 * best], 1),
        np.random.default_rng(0),
        start_losses=[1.0],
        noise=0.0,
    )
    last = curves.points.groupby("run")["loss"].last()
    gain = 1.0 - last.reindex(curves.runs.sort_values("lr")["run"]).to_numpy()
    assert gain / gain[1] == pytest.approx([0.75, 1.0, 0.75])
    assert gain[1] == pytest.approx(0.3 / 3)


def test_same_seed_same_runs() -> None:
    def run(seed: int) -> pd.DataFrame:
        grid = Grid([8, 16], [0.005, 0.01], 2)
        training = simulate_training(SURGE, grid, np.random.default_rng(seed))
        return join_curves(
            training, simulate_branches(SURGE, grid, np.random.default_rng(seed), start_losses=[1.0])
        ).points

    pd.testing.assert_frame_equal(run(3), run(3))
    assert not run(3).equals(run(4))


def test_unknown_laws_and_parameters_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="surge_plateau"):
        Truth("surg", {})
    with pytest.raises(SurgeError, match="It takes: eps_max, b_noise"):
        Truth("surge", {"a": 1.0})
