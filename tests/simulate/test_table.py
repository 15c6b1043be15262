"""Simulated tables hold one number a run with the optimum of the truth, and survive a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.simulate import (
    Basin,
    Damage,
    FallingEdge,
    FinalLoss,
    Grid,
    Kinked,
    LogSkew,
    SignQuadratic,
    Truth,
    simulate_table,
    simulate_training,
    table_of,
)
from surge_sweeps.simulate.table import TableObservable
from surge_sweeps.trackers.base import ReadOptions, TableColumns
from surge_sweeps.trackers.tables.reader import read_table

SURGE = Truth("surge", {"eps_max": 0.02, "b_noise": 64.0}, b_crit=48.0)
FINE = np.geomspace(0.002, 0.04, 400).tolist()


@pytest.mark.parametrize("observable", ["final", "gain"])
@pytest.mark.parametrize("basin", [LogSkew(-2.0), LogSkew(2.0), Kinked()], ids=str)
def test_the_best_learning_rate_of_a_table_is_that_of_the_truth(
    observable: TableObservable, basin: Basin
) -> None:
    for truth in (
        Truth("surge", SURGE.parameters, basin=basin),
        SignQuadratic(*_parts(SignQuadratic.reference("surge")), basin=basin),
    ):
        grid = Grid([16, 64, 256], FINE, 1)
        curves = simulate_table(truth, grid, np.random.default_rng(0), observable=observable, noise=0.0)
        assert curves.observable == observable
        assert curves.points.empty
        score = curves.runs["response"] * (-1 if observable == "final" else 1)
        best = curves.runs.loc[score.groupby(curves.runs["batch_size"]).idxmax()]
        assert best["lr"].to_numpy() == pytest.approx(truth.optimal_lr(best["batch_size"]), rel=0.01)


def _parts(truth: SignQuadratic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return truth.mean, truth.sd, truth.hessian


def test_final_losses_follow_the_stated_form_and_stay_at_the_start_loss_without_progress() -> None:
    best = float(SURGE.optimal_lr(48))
    curves = simulate_table(
        SURGE, Grid([48], [best, 1.5 * best, 3 * best], 1), np.random.default_rng(0), noise=0.0,
        final=FinalLoss(floor=0.3, budget=7.0, exponent=2.0),
    )  # fmt: skip
    needed = np.array([2.0, 2.0 / 0.75])
    expected = [*(0.3 + 2.0 / (1 + 7.0 / needed) ** 2), 2.3]
    assert curves.runs["response"].to_numpy() == pytest.approx(expected)


def test_steps_of_a_table_are_those_of_the_truth_at_the_loss() -> None:
    curves = simulate_table(
        SURGE, Grid([8, 64], [], 3), np.random.default_rng(0), observable="steps", noise=0.0, loss=1.15
    )
    assert curves.runs["lr"].isna().all()
    assert curves.runs["response"].to_numpy() == pytest.approx(np.repeat(SURGE.steps([8, 64], 1.15), 3))


def test_tuned_learning_rates_scatter_about_the_truth_in_log() -> None:
    curves = simulate_table(
        SURGE, Grid([8, 64], [], 4000), np.random.default_rng(0), observable="given", noise=0.2
    )
    log_lr = np.log(curves.runs["lr"]).groupby(curves.runs["batch_size"])
    assert log_lr.mean().to_numpy() == pytest.approx(np.log(SURGE.optimal_lr([8, 64])), abs=0.015)
    assert log_lr.std().to_numpy() == pytest.approx([0.2, 0.2], rel=0.05)


def test_tuning_stops_at_the_edge_and_pays_in_steps() -> None:
    inner = Truth("sqrt", {"a": 0.001}, basin=LogSkew(0.0))
    truth, grid = FallingEdge(inner, 0.064, 0.5), Grid([16, 1024], [], 1)
    given = simulate_table(truth, grid, np.random.default_rng(0), observable="given", noise=0.0)
    steps = simulate_table(truth, grid, np.random.default_rng(0), observable="steps", noise=0.0, loss=1.0)
    assert given.runs["lr"].tolist() == pytest.approx([0.004, 0.002])
    slower = np.exp(np.log(0.032 / 0.002) ** 2)
    assert steps.runs["response"].to_numpy() == pytest.approx(inner.steps([16, 1024], 1.0) * [1.0, slower])


def test_diverged_cells_have_no_response_or_the_loss_they_ended_with() -> None:
    grid = Grid([16, 64], [0.01, 0.02, 0.2], 2)
    plain = simulate_table(SURGE, grid, np.random.default_rng(0)).runs
    assert plain.loc[plain["response"].isna(), "status"].eq("diverged").all()
    assert plain["response"].isna().sum() == 4
    for observable, told in (("final", 30.0), ("gain", 2.3 - 30.0)):
        runs = simulate_table(
            SURGE,
            grid,
            np.random.default_rng(0),
            observable=observable,
            damage=Damage(diverged_loss=30.0),  # type: ignore[arg-type]
        ).runs
        assert runs.loc[runs["lr"] == 0.2, "response"].eq(told).all()
        assert runs["status"].eq("finished").all()
    given = simulate_table(
        SURGE, Grid([16, 64], [], 2), np.random.default_rng(0), observable="given", damage=Damage(0.5)
    )
    assert len(given.runs) == 2


def test_same_seed_same_table_and_one_seed_will_do() -> None:
    grid = Grid([16, 64], [0.01, 0.02], 1)

    def table(seed: int) -> pd.DataFrame:
        return table_of(simulate_table(SURGE, grid, np.random.default_rng(seed), damage=Damage(0.25)))

    pd.testing.assert_frame_equal(table(1), table(1))
    assert not table(1).equals(table(2))
    assert len(table(1)) == 4


@pytest.mark.parametrize(
    ("observable", "column", "columns"),
    [
        ("final", "loss", TableColumns(group_by=("optimizer",))),
        ("gain", "gain", TableColumns(group_by=("optimizer",), gain="gain")),
        ("steps", "steps", TableColumns(group_by=("optimizer",), steps_to_goal="steps")),
        ("given", "optimal_lr", TableColumns(group_by=("optimizer",), optimal_lr="optimal_lr")),
    ],
)
def test_a_table_comes_back_from_its_file(
    tmp_path: Path, observable: TableObservable, column: str, columns: TableColumns
) -> None:
    grid = Grid([16, 64], [0.01, 0.02, 0.2], 3)
    curves = simulate_table(
        SURGE, grid, np.random.default_rng(0), observable=observable, config={"optimizer": "sign"}
    )
    path = tmp_path / "runs.csv"
    table = table_of(curves)
    assert column in table.columns
    table.to_csv(path, index=False)
    assert_same_runs(read_table(str(path), ReadOptions(table=columns)), curves)


def test_loss_curves_come_back_from_their_file(tmp_path: Path) -> None:
    grid = Grid([16, 64], [0.01, 0.02, 0.2], 2)
    curves = simulate_training(
        SURGE, grid, np.random.default_rng(0), max_steps=100, config={"optimizer": "sign"}
    )
    path = tmp_path / "curves.csv"
    table_of(curves).to_csv(path, index=False)
    read = read_table(str(path), ReadOptions(step="step", table=TableColumns(group_by=("optimizer",))))
    pd.testing.assert_frame_equal(
        read.points[["step", "examples", "loss"]], curves.points[["step", "examples", "loss"]], rtol=1e-12
    )
    assert (read.runs["status"] == "diverged").sum() == (curves.runs["status"] == "diverged").sum()
    assert (read.runs["optimizer"] == "sign").all()


def assert_same_runs(read: LossCurves, curves: LossCurves) -> None:
    columns = ["batch_size", "seed", "lr"] + ([] if curves.observable == "given" else ["response"])
    assert read.observable == curves.observable
    assert (read.runs["optimizer"] == "sign").all()

    def ordered(part: LossCurves) -> pd.DataFrame:
        return part.runs[columns].sort_values(columns).reset_index(drop=True)

    pd.testing.assert_frame_equal(ordered(read), ordered(curves), rtol=1e-12, check_dtype=False)
    assert (read.runs["status"] == "diverged").sum() == (curves.runs["status"] == "diverged").sum()


def test_impossible_tables_are_refused() -> None:
    grid, rng = Grid([16], [0.01], 1), np.random.default_rng(0)
    with pytest.raises(UnknownNameError, match="final, gain, given, steps"):
        simulate_table(SURGE, grid, rng, observable="loss_curve")  # type: ignore[arg-type]
    for loss in (0.0, -1.0, 5.0, float("nan")):
        with pytest.raises(SurgeError, match="start loss"):
            simulate_table(SURGE, grid, rng, loss=loss)
    with pytest.raises(SurgeError, match="positive budget"):
        FinalLoss(budget=0.0)
    with pytest.raises(SurgeError, match="not below the start loss"):
        simulate_table(SURGE, grid, rng, final=FinalLoss(floor=2.3))
