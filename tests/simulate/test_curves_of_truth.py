"""Simulated loss curves follow their declared truth and come out the same for the same seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.fitting.observables.responses import running_minimum, steps_to_losses
from surge_sweeps.simulate import (
    Damage,
    FallingEdge,
    Grid,
    Kinked,
    KnownTruth,
    LogSkew,
    Noise,
    SignQuadratic,
    Truth,
    join_curves,
    simulate_branches,
    simulate_table,
    simulate_training,
)
from surge_sweeps.theory import decrease_per_step, mean_field_critical_batch, mean_field_peak

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


def test_the_numbers_of_a_seed_stay_what_they_are() -> None:
    truth = Truth(
        "surge_plateau",
        {"a": 0.02, "b_s": 600.0, "kappa": 9.0},
        peak_drift=0.5,
        b_crit_drift=1.0,
        basin="skewed",
    )
    grid, rng = Grid([8, 64], [0.001, 0.003, 0.05], 2), np.random.default_rng(7)
    training = simulate_training(truth, grid, rng, noise=0.2, max_steps=500)
    branches = simulate_branches(truth, grid, rng, start_losses=[1.0], noise=0.2)

    nan = np.nan
    for curves, expected in (
        (training, [2.2557118736100907, 2.2581962279128263, 2.2412771884024822, 2.233996466000148, nan, nan,
                    2.2205267456759654, 2.2378448235164727, 2.080415025406305, 2.0754384253663374, nan, nan]),
        (branches, [0.9929624195228514, 0.9947904470999798, 0.9939332417528828, 0.9926546152524329, nan, nan,
                    0.9998981693759945, 0.9947770856549315, 0.9737658285470342, 0.960314856304752, nan, nan]),
    ):  # fmt: skip
        third = curves.points.groupby("run")["loss"].nth(3).to_numpy()
        assert third == pytest.approx(expected, rel=1e-12, nan_ok=True)
        assert (curves.runs["status"] == "diverged").tolist() == np.isnan(expected).tolist()
    assert (len(training.points), len(branches.points)) == (608, 104)


def test_sgd_gains_as_its_noise_scale_says() -> None:
    truth = Truth("sgd_saturation", {"eps_max": 0.1, "b_noise": 100.0}, b_crit=100.0)
    for batch_size in (10, 100, 1000):
        grid = Grid([batch_size], [float(truth.optimal_lr(batch_size))], 1)
        branch = simulate_branches(truth, grid, np.random.default_rng(0), start_losses=[1.0], noise=0.0)
        gain = 1.0 - branch.points["loss"].iloc[-1]
        assert gain == pytest.approx(float(decrease_per_step(batch_size, 0.3, 100.0)))
    assert truth.peak() is None


def test_the_plateau_law_peaks_where_the_mean_field_says() -> None:
    kappa, b_s = 9.0, 628.3
    truth = Truth(
        "surge_plateau", {"a": 0.04, "b_s": b_s, "kappa": kappa}, b_crit=mean_field_critical_batch(b_s, kappa)
    )
    assert truth.peak() == mean_field_peak(b_s, kappa)
    assert float(truth.optimal_lr(1e9)) == pytest.approx(0.04 / 10, rel=1e-6)
    assert truth.peak() / float(truth.critical_batch(1.0)) == pytest.approx((kappa + 1) / (kappa - 1))


@pytest.mark.parametrize(
    "truth",
    [SURGE, SignQuadratic.reference("surge"), FallingEdge(SURGE, 1.0, 0.3)],
    ids=["law", "exact", "edge"],
)
def test_every_truth_trains_and_branches(truth: KnownTruth) -> None:
    best = float(truth.optimal_lr(64))
    grid = Grid([64], [0.7 * best, best, 1.3 * best], 1)
    curves = simulate_training(truth, grid, np.random.default_rng(0), noise=0.0, max_steps=20000)
    steps = np.exp(steps_to_losses(running_minimum(curves), [1.0]).values[:, 0])
    assert steps == pytest.approx(float(truth.steps(64, 1.0)) / np.array([0.91, 1.0, 0.91]), rel=0.01)
    branch = simulate_branches(truth, grid, np.random.default_rng(0), start_losses=[1.0], noise=0.0)
    gain = 1.0 - branch.points.groupby("run")["loss"].last().to_numpy()
    assert gain == pytest.approx(0.3 / float(truth.overhead(64, 1.0)) * np.array([0.91, 1.0, 0.91]), rel=1e-6)


def test_below_a_falling_edge_runs_train_and_at_it_they_diverge_though_the_law_still_rises() -> None:
    truth = FallingEdge(Truth("sqrt", {"a": 0.001}), edge_at_one=0.064, exponent=0.5)
    batch_sizes = [4, 16, 64, 256, 1024]
    lrs = np.geomspace(1e-4, 0.06, 40)
    grid = Grid(batch_sizes, lrs.tolist(), 1)
    curves = simulate_table(truth, grid, np.random.default_rng(0), noise=0.0)
    trained = curves.runs[curves.runs["status"] == "finished"]
    assert (trained["lr"] < 0.064 * trained["batch_size"] ** -0.5).all()

    best = trained.loc[trained.groupby("batch_size")["response"].idxmin()].set_index("batch_size")["lr"]
    assert np.log(best.to_numpy()) == pytest.approx(
        np.log(truth.best_stable_lr(batch_sizes)), abs=np.log(lrs[1] / lrs[0])
    )
    assert truth.best_stable_lr(batch_sizes).argmax() == 2
    assert truth.peak() is None
    assert np.all(np.diff(truth.optimal_lr(batch_sizes)) > 0)


def test_diverged_missing_and_lost_runs_are_as_many_as_asked() -> None:
    grid = Grid([8, 16, 32, 64, 128], np.geomspace(0.002, 0.02, 8).tolist(), 5)
    damage = Damage(diverged_cells=0.1, missing_cells=0.2, lost_runs=0.25)
    truth = Truth("constant", {"a": 0.02}, basin=LogSkew(0.0))
    curves = simulate_training(truth, grid, np.random.default_rng(0), damage=damage)
    by_cell = curves.runs.groupby(["batch_size", "lr"])["status"]
    diverged = by_cell.agg(lambda status: (status == "diverged").all())
    assert len(curves.runs) == 200 * 0.8 * 0.75
    assert by_cell.agg(lambda status: status.nunique()).max() <= 2
    assert diverged.sum() == 4
    assert set(curves.points["run"]) == set(curves.runs["run"])


def test_a_finite_divergence_leaves_a_high_loss_and_no_status() -> None:
    grid = Grid([8, 16], [0.004, 0.01, 0.2], 2)
    damage = Damage(diverged_loss=30.0)
    training = simulate_training(SURGE, grid, np.random.default_rng(0), damage=damage, max_steps=300)
    branches = simulate_branches(SURGE, grid, np.random.default_rng(0), start_losses=[1.0], damage=damage)
    for curves, status in ((training, "capped"), (branches, "finished")):
        runs = curves.runs[curves.runs["lr"] == 0.2]
        assert set(runs["status"]) == {status}
        last = curves.points[curves.points["run"].isin(runs["run"])].groupby("run").last()
        assert (last["loss"] == 30.0).all()
        assert (last["step"] == curves.runs["max_steps"].iloc[0]).all()


def test_a_sweep_of_which_nothing_is_left_is_an_empty_one() -> None:
    grid = Grid([8], [0.01], 3)
    damage = Damage(missing_cells=1.0)
    for curves in (
        simulate_training(SURGE, grid, np.random.default_rng(0), damage=damage),
        simulate_branches(SURGE, grid, np.random.default_rng(0), start_losses=[1.0], damage=damage),
        simulate_table(SURGE, grid, np.random.default_rng(0), damage=damage),
    ):
        assert curves.runs.empty
        assert curves.points.empty


def test_what_does_not_go_together_is_not_joined() -> None:
    grid, rng = Grid([8], [0.01], 1), np.random.default_rng(0)
    with pytest.raises(SurgeError, match="final and loss_curve"):
        join_curves(simulate_training(SURGE, grid, rng), simulate_table(SURGE, grid, rng))
    with pytest.raises(SurgeError, match="'target_loss' is filled"):
        simulate_training(SURGE, grid, rng, config={"target_loss": 1.0})
    with pytest.raises(SurgeError, match="at least one start loss"):
        simulate_branches(SURGE, grid, rng, start_losses=[])


@settings(max_examples=30, deadline=None)
@given(
    truth=st.sampled_from([
        SURGE, FallingEdge(SURGE, 0.02, 0.2), SignQuadratic.two_groups(),
        Truth("sqrt", {"a": 0.002}, basin=LogSkew(-3.0), peak_drift=1.0),
        Truth("constant", {"a": 0.01}, basin=Kinked()),
    ]),
    diverged=st.floats(0, 0.5), missing=st.floats(0, 0.5), lost=st.floats(0, 1),
    diverged_loss=st.sampled_from([np.nan, 50.0]), seed=st.integers(0, 99), heavy=st.booleans(),
)  # fmt: skip
def test_whatever_is_asked_the_tables_are_whole(
    truth: KnownTruth,
    diverged: float,
    missing: float,
    lost: float,
    diverged_loss: float,
    seed: int,
    heavy: bool,
) -> None:
    damage = Damage(diverged, missing, lost, diverged_loss)
    noise = Noise(0.1, tails="student_t3" if heavy else "normal", seed_share=0.5)
    grid = Grid([4, 32, 256], [0.001, 0.01, 0.1], 2)
    training = simulate_training(
        truth, grid, np.random.default_rng(seed), noise=noise, damage=damage, max_steps=100
    )
    branches = simulate_branches(
        truth, grid, np.random.default_rng(seed), noise=noise, damage=damage, start_losses=[2.0, 1.0]
    )
    for curves in (training, branches):
        runs, points = curves.runs, curves.points
        assert set(points["run"]) == set(runs["run"])
        broken = set(points.loc[points["loss"].isna(), "run"])
        assert broken == set(runs.loc[runs["status"] == "diverged", "run"])
        assert (
            points["examples"]
            == points["step"] * points["run"].astype(str).map(runs.set_index("run")["batch_size"])
        ).all()
        assert not curves.problems
    assert len(branches.runs) == 2 * len(training.runs)
