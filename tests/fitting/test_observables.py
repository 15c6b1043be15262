"""What a run says about a target: crossings, censoring, gains, and which targets are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.curves import LossCurves, build_curves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.fitting.observables.loss_choice import choose_losses
from surge_sweeps.fitting.observables.plan import measured_cells, plan_fit
from surge_sweeps.fitting.observables.responses import (
    common_last_step,
    loss_decrease,
    running_minimum,
    steps_to_losses,
)
from surge_sweeps.simulate import Grid, Truth, join_curves, simulate_branches, simulate_training

BATCH_SIZES = (4, 8, 16, 32)


def curves_of(
    *runs: list[tuple[int, float]], loss_name: str = "eval/loss", status: str = "finished"
) -> LossCurves:
    table = pd.DataFrame(
        {
            "run": [f"run-{i}" for i in range(len(runs))],
            "lr": 0.1,
            "batch_size": 8,
            "seed": range(len(runs)),
            "status": status,
        }
    )
    points = pd.DataFrame(
        [(f"run-{i}", step, loss) for i, points in enumerate(runs) for step, loss in points],
        columns=["run", "step", "loss"],
    )
    return build_curves(table, points, loss_name=loss_name)


def steps_to(curves: LossCurves, loss: float) -> list[float]:
    return np.exp(steps_to_losses(running_minimum(curves), [loss]).values[:, 0]).tolist()


def test_crossing_is_interpolated_in_log_step_and_log_loss() -> None:
    curves = curves_of([(1, 4.0), (10, 2.0), (1000, 0.5)])
    assert steps_to(curves, 1.0) == pytest.approx([100.0])


def test_first_crossing_counts_even_if_the_loss_rises_again() -> None:
    curves = curves_of([(1, 4.0), (10, 1.0), (20, 3.0), (30, 0.5)])
    assert steps_to(curves, 1.0) == pytest.approx([10.0])


def test_runs_that_never_reach_the_loss_are_censored() -> None:
    curves = curves_of([(1, 4.0), (10, 2.0)], [(1, 4.0), (10, 1.0)])
    responses = steps_to_losses(running_minimum(curves), [1.5])
    assert responses.censored[:, 0].tolist() == [True, False]
    assert np.isnan(responses.values[0, 0])


def test_run_that_diverges_before_the_loss_is_censored_and_one_after_is_not() -> None:
    curves = curves_of([(1, 4.0), (2, np.nan)], [(1, 4.0), (10, 1.0), (11, np.inf)], status="diverged")
    assert steps_to_losses(running_minimum(curves), [2.0]).censored[:, 0].tolist() == [True, False]


def test_run_that_starts_below_the_loss_says_nothing() -> None:
    assert steps_to_losses(running_minimum(curves_of([(0, 1.0), (5, 0.5)])), [2.0]).censored.all()


def test_run_without_points_is_censored() -> None:
    curves = curves_of([], [(0, 2.0), (4, 1.0)])
    assert steps_to_losses(running_minimum(curves), [1.5]).censored[:, 0].tolist() == [True, False]


def test_crossing_from_step_zero_is_interpolated_in_plain_steps() -> None:
    assert steps_to(curves_of([(0, 4.0), (8, 1.0)]), 2.0) == pytest.approx([4.0])


def test_crossing_of_a_negative_loss_is_interpolated_in_plain_loss() -> None:
    assert steps_to(curves_of([(1, 1.0), (100, -1.0)]), 0.0) == pytest.approx([10.0])


def test_only_a_training_loss_is_smoothed() -> None:
    points = [(1, 4.0), (2, 0.9), (3, 4.0), (4, 4.0), (5, 4.0)]
    assert np.isfinite(steps_to(curves_of(points), 1.0)).all()
    assert np.isnan(steps_to(curves_of(points, loss_name="train/loss"), 1.0)).all()


def test_training_loss_is_averaged_over_five_points_within_a_run() -> None:
    curves = curves_of([(step, 5.0 - step) for step in range(1, 6)], [(1, 9.0)], loss_name="train/loss")
    lowest = running_minimum(curves)
    assert lowest.losses.tolist() == pytest.approx([4.0, 3.5, 3.0, 2.5, 2.0, 9.0])


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=20), st.floats(0.02, 9.0), st.floats(0.02, 9.0))
def test_a_lower_loss_never_takes_fewer_steps(losses: list[float], one: float, other: float) -> None:
    lowest = running_minimum(curves_of([(0, 11.0), *((step + 1, loss) for step, loss in enumerate(losses))]))
    values = steps_to_losses(lowest, [max(one, other), min(one, other)]).values[0]
    assert np.isnan(values[1]) or values[0] <= values[1] + 1e-9


def branches(noise: float = 0.0) -> LossCurves:
    truth = Truth("surge", {"eps_max": 0.1, "b_noise": 16.0}, b_crit=16.0)
    grid = Grid(BATCH_SIZES, [0.02, 0.05, 0.1], 2)
    return simulate_branches(truth, grid, np.random.default_rng(0), start_losses=[1.0, 0.5], noise=noise)


def test_gain_is_the_loss_decrease_at_exactly_the_horizon() -> None:
    curves = branches()
    optimal = curves.select((curves.runs["batch_size"] == 16) & (curves.runs["lr"] == 0.1))
    expected = 0.3 * optimal.runs["start_loss"] / 2
    assert loss_decrease(optimal, 10).values[:, 0] == pytest.approx(expected.to_numpy())
    assert loss_decrease(optimal, 5).values[:, 0] == pytest.approx(expected.to_numpy() / 2)
    assert loss_decrease(optimal, 11).censored.all()


def test_horizon_is_the_last_step_most_branches_share() -> None:
    assert common_last_step(branches()) == 10


def test_one_gain_target_per_checkpoint_in_the_order_of_training() -> None:
    targets = plan_fit(branches()).groups[0].targets()
    assert [(target.protocol, target.loss, target.horizon_steps) for target in targets] == [
        ("gain", 1.0, 10),
        ("gain", 0.5, 10),
    ]


def training(max_steps: int = 5000, lrs: int = 8, noise: float = 0.05) -> LossCurves:
    truth = Truth("sqrt", {"a": 0.01})
    grid = Grid(BATCH_SIZES, np.geomspace(0.005, 0.2, lrs).tolist(), 2)
    return simulate_training(truth, grid, np.random.default_rng(0), max_steps=max_steps, noise=noise)


def test_chosen_losses_fall_and_have_two_digits() -> None:
    curves = training()
    losses = choose_losses(curves, running_minimum(curves))
    assert 2 <= len(losses) <= 4
    assert list(losses) == sorted(losses, reverse=True)
    assert all(loss == float(f"{loss:.2g}") for loss in losses)


def test_every_batch_size_reaches_every_chosen_loss_at_three_learning_rates() -> None:
    cells = measured_cells(training(max_steps=500))
    reached = cells[cells["response"].notna()].groupby(["target", "batch_size"]).size().unstack(fill_value=0)
    assert set(reached.columns) == set(BATCH_SIZES)
    assert (reached >= 3).all(axis=None)


def test_chosen_losses_lie_past_the_first_steps() -> None:
    cells = measured_cells(training())
    assert cells["response"].min() >= 8


def test_batch_size_that_does_not_learn_is_left_out_of_the_choice() -> None:
    curves = training()
    stuck = curves.runs["run"][curves.runs["batch_size"] == 32]
    points = curves.points.copy()
    points.loc[points["run"].isin(stuck), "loss"] = 2.3
    curves = build_curves(curves.runs, points, loss_name="eval/loss")
    assert choose_losses(curves, running_minimum(curves))


def test_no_loss_is_chosen_when_nothing_is_learnt() -> None:
    curves = training()
    flat = build_curves(curves.runs, curves.points.assign(loss=2.3))
    plan = plan_fit(flat)
    assert not plan.groups[0].parts
    assert "train longer" in " ".join(plan.problems)


def learnt(
    points: list[tuple[int, float]], *, batch_sizes: int = 3, lrs: int = 3, worse: float = 1.02
) -> LossCurves:
    """The same curve at every batch size, the loss of each learning rate so much worse than of the one before."""
    rows, table = [], []
    for batch_size in [8 * 4**place for place in range(batch_sizes)]:
        for place in range(lrs):
            name = f"{batch_size}-{place}"
            rows.append((name, 0.01 * 2**place, batch_size, 0, "finished"))
            table += [(name, step, loss * (worse**place if step else 1.0)) for step, loss in points]
    runs = pd.DataFrame(rows, columns=["run", "lr", "batch_size", "seed", "status"])
    return build_curves(runs, pd.DataFrame(table, columns=["run", "step", "loss"]), loss_name="eval/loss")


def test_a_loss_that_takes_three_digits_to_say_is_chosen() -> None:
    curves = learnt([(0, 5.5), (4, 5.0), (8, 3.9), (12, 3.498), (60, 3.425)], worse=1.0)
    assert choose_losses(curves, running_minimum(curves)) == (3.43,)
    assert plan_fit(curves).problems == ()


def test_a_batch_size_is_kept_rather_than_a_round_loss() -> None:
    curves = learnt([(0, 5.5), (4, 5.0), (8, 3.9), (12, 3.498), (60, 3.3)], batch_sizes=4, worse=1.0)
    slowest = curves.points["run"].str.startswith("512-") & (curves.points["step"] == 60)
    points = curves.points.assign(loss=curves.points["loss"].mask(slowest, 3.425))
    curves = build_curves(curves.runs, points, loss_name="eval/loss")
    assert choose_losses(curves, running_minimum(curves)) == (3.43,)


def test_several_losses_are_worth_more_than_a_batch_size_that_hardly_learns() -> None:
    curves = learnt([(0, 5.5), (4, 5.0), (8, 3.9), (12, 3.4254), (60, 1.0)], batch_sizes=4, worse=1.0)
    slowest = curves.points["run"].str.startswith("512-") & (curves.points["step"] == 60)
    points = curves.points.assign(loss=curves.points["loss"].mask(slowest, 3.4253))
    curves = build_curves(curves.runs, points, loss_name="eval/loss")
    losses = choose_losses(curves, running_minimum(curves))
    assert (len(losses), losses[0], losses[-1]) == (4, 3.4, 1.0)


HALVING = [(0, 9.0), (2, 5.0), (4, 4.0), (8, 3.0), (16, 2.0), (32, 1.0), (64, 0.7)]


@pytest.mark.parametrize(
    ("curves", "fails", "run"),
    [
        (learnt(HALVING, batch_sizes=2), "learning rates each, and 2 have as many", "--target-losses"),
        (learnt(HALVING, lrs=2), "learning rates each, and none has as many", "add what is missing"),
        (learnt(HALVING[:3]), "no run is longer than 4 steps", "train longer"),
        (learnt(HALVING[::6]), "no run logged its loss 3 times after step 0", "log more often"),
        (
            learnt([(step, 5.5 - 0.01 * step) for step in range(11)]),
            "is not 5% below the first one logged",
            "train longer",
        ),
        (
            learnt(HALVING, worse=2.2),
            "reached at batch size 8 within 8 steps",
            "train longer",
        ),
        (learnt(HALVING[::2], worse=3.0), "by the third logged point, at step 64", "log more often"),
    ],
)
def test_where_no_loss_can_be_chosen_the_condition_that_fails_is_said(
    curves: LossCurves, fails: str, run: str
) -> None:
    assert choose_losses(curves, running_minimum(curves)) == ()
    (problem,) = plan_fit(curves).problems
    found, _, mend = problem.rpartition(": ")
    assert fails in found
    assert run in mend


def test_losses_that_are_not_positive_ask_for_target_losses() -> None:
    curves = training()
    below = build_curves(curves.runs, curves.points.assign(loss=curves.points["loss"] - 5.0))
    problems = " ".join(plan_fit(below).problems)
    assert "--target-losses" in problems
    assert "train longer" not in problems
    assert plan_fit(below, target_losses=[-4.0]).groups[0].parts


def test_missing_start_losses_are_told_from_missing_end_points() -> None:
    curves = branches()
    none = plan_fit(build_curves(curves.runs.assign(start_loss=np.nan), curves.points))
    assert not none.groups[0].parts
    assert "do not record their start loss" in " ".join(none.problems)
    assert "without a loss at step" not in " ".join(none.problems)
    runs = curves.runs.copy()
    runs.loc[runs.index[0], "start_loss"] = np.nan
    ended = (curves.points["run"] == runs["run"].iloc[1]) & (curves.points["step"] == 10)
    some = plan_fit(build_curves(runs, curves.points[~ended]))
    problems = " ".join(some.problems)
    assert "1 run from checkpoint" in problems
    assert "without a start loss (`start_loss`): left out" in problems
    assert "without a loss at step 10: left out" in problems


def test_target_at_or_above_the_start_is_refused_with_a_reason() -> None:
    plan = plan_fit(training(), target_losses=[2.5, 1.0])
    assert [target.loss for target in plan.groups[0].targets()] == [1.0]
    assert "2.5 is not below the loss at the start" in " ".join(plan.problems)


def test_cells_count_every_run_the_diverged_ones_too() -> None:
    curves = training()
    cells = measured_cells(curves, target_losses=[1.0])
    assert cells["runs"].sum() == len(curves.runs)
    assert cells["diverged"].sum() == (curves.runs["status"] == "diverged").sum() > 0
    diverged = cells[cells["diverged"] == cells["runs"]]
    assert diverged["response"].isna().all()
    assert (diverged["censored"] == diverged["runs"]).all()


def test_cell_response_is_the_median_number_of_steps() -> None:
    curves = training(noise=0.0)
    cells = measured_cells(curves, target_losses=[1.0])
    truth = Truth("sqrt", {"a": 0.01})
    row = cells[(cells["batch_size"] == 16)].sort_values("response").iloc[0]
    expected = truth.steps(16, 1.0) / truth.progress(row["lr"] / truth.optimal_lr(16))
    assert row["response"] == pytest.approx(float(expected), rel=0.01)


def test_groups_are_the_varying_hyper_parameters_without_those_that_repeat_others() -> None:
    parts = [
        simulate_training(
            Truth("sqrt", {"a": 0.01}),
            Grid(BATCH_SIZES, [0.01, 0.03, 0.1], 1),
            np.random.default_rng(0),
            project=name,
            config={"beta1": beta1, "optimizer": name, "model": "mlp"},
        )
        for name, beta1 in (("sign", 0.0), ("adamw", 0.9))
    ]
    plan = plan_fit(join_curves(*parts))
    assert [group.group.key for group in plan.groups] == [{"optimizer": "adamw"}, {"optimizer": "sign"}]


def test_how_often_a_run_was_looked_at_makes_no_group() -> None:
    curves = simulate_training(
        Truth("sqrt", {"a": 0.01}), Grid(BATCH_SIZES, [0.01, 0.03, 0.1], 2), np.random.default_rng(0)
    )
    often = np.where(curves.runs["seed"] == 0, 30.0, np.nan)
    plan = plan_fit(replace(curves, runs=curves.runs.assign(log_points=often)))
    assert [group.group.key for group in plan.groups] == [{}]


def test_optimizers_with_learning_rates_of_their_own_are_groups_of_their_own() -> None:
    parts = [
        simulate_training(
            Truth("sqrt", {"a": 0.01}), Grid(BATCH_SIZES, lrs, 1), np.random.default_rng(0), project=name,
            config={"optimizer": name, "depth": depth},
        )
        for name, lrs, depth in (("sign", [0.01, 0.03, 0.1], 1), ("adamw", [0.02, 0.06, 0.2], 2))
    ]  # fmt: skip
    groups = plan_fit(join_curves(*parts)).groups
    assert [group.group.key for group in groups] == [{"optimizer": "adamw"}, {"optimizer": "sign"}]


def test_column_that_stands_for_the_batch_size_does_not_tear_the_grid_apart() -> None:
    curves = training()
    runs = curves.runs.assign(steps_a_pass=4096 // curves.runs["batch_size"])
    plan = plan_fit(build_curves(runs, curves.points))
    assert [group.group.key for group in plan.groups] == [{}]
    assert "'steps_a_pass' changes one to one with the batch size" in " ".join(plan.problems)


def test_unfinished_runs_are_left_out_and_counted() -> None:
    curves = training()
    runs = curves.runs.copy()
    runs.loc[:2, "status"] = "crashed"
    plan = plan_fit(build_curves(runs, curves.points))
    assert sum(len(part.curves.runs) for part in plan.groups[0].parts) == len(runs) - 3
    assert "3 runs left out: crashed" in " ".join(plan.problems)


def test_bad_options_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="Valid: final, gain, given, reach, steps"):
        plan_fit(training(), protocol="rech")
    with pytest.raises(SurgeError, match="not a finite number"):
        plan_fit(training(), target_losses=[float("nan")])
    with pytest.raises(SurgeError, match="not positive"):
        plan_fit(training(), horizon_steps=0)
    with pytest.raises(SurgeError, match="not several numbers"):
        plan_fit(training(), target_losses=0.5)  # type: ignore[arg-type]
    with pytest.raises(SurgeError, match="not a whole number"):
        plan_fit(training(), horizon_steps=2.5)  # type: ignore[arg-type]


def test_repeated_target_losses_are_one_target() -> None:
    targets = plan_fit(training(), target_losses=[1.0, 0.5, 1.0]).groups[0].targets()
    assert [target.loss for target in targets] == [1.0, 0.5]


def test_a_horizon_that_nothing_uses_is_said() -> None:
    assert "not used by any target" in " ".join(plan_fit(training(), horizon_steps=10).problems)
    assert "not used" not in " ".join(plan_fit(branches(), horizon_steps=10).problems)


def test_groups_stand_in_the_order_of_their_numbers() -> None:
    curves = training()
    runs = pd.concat(
        [curves.runs.assign(run=curves.runs["run"] + f"-{width}", width=width) for width in (128, 16, 8)]
    )
    groups = plan_fit(build_curves(runs, curves.points)).groups
    assert [group.group.key["width"] for group in groups] == [8, 16, 128]


def coarse(every: int, *, from_zero: bool, steps: int = 1000) -> LossCurves:
    """Curves logged every so many steps, whose true steps to half the loss are 20 (1 + 128 / B) at the optimum."""
    rows, points = [], []
    for batch_size in (8, 32, 128, 512):
        for lr in np.geomspace(0.01, 0.4, 8):
            ratio = lr / (0.01 * np.sqrt(batch_size))
            name = f"{batch_size}-{lr:.3g}"
            rows.append((name, batch_size, lr, 0, "finished"))
            halving = 20 * (1 + 128 / batch_size) * np.exp(2 * (ratio - 1 - np.log(ratio)))
            at = np.arange(0 if from_zero else every, steps + 1, every)
            points.append(pd.DataFrame({"run": name, "step": at, "loss": 2.3 / (1 + at / halving)}))
    runs = pd.DataFrame(rows, columns=["run", "batch_size", "lr", "seed", "status"])
    return build_curves(runs, pd.concat(points), loss_name="eval/loss")


def test_a_run_already_there_at_its_first_logged_step_is_the_fastest_not_the_slowest() -> None:
    responses = steps_to_losses(running_minimum(curves_of([(50, 1.0), (100, 0.5)])), [2.0])
    assert not responses.censored.any()
    assert np.exp(responses.values[0, 0]) == pytest.approx(50)


@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize("every", [25, 50])
def test_no_loss_is_chosen_that_is_reached_before_the_third_logged_point(every: int, from_zero: bool) -> None:
    cells = measured_cells(coarse(every, from_zero=from_zero))
    assert len(cells)
    assert cells["response"].min() >= 3 * every - 1e-6


@pytest.mark.parametrize("from_zero", [True, False])
def test_target_losses_that_the_logging_does_not_resolve_are_said_or_left_out(from_zero: bool) -> None:
    plan = plan_fit(coarse(50, from_zero=from_zero), target_losses=[1.5, 0.5, 0.2])
    assert [target.loss for target in plan.groups[0].targets()] == [0.5, 0.2]
    left_out, coarse_steps = plan.problems
    assert "that reach loss 1.5 do so before their first logged point" in left_out
    assert "runs reach loss 0.5 before their third logged point: their steps are interpolated" in coarse_steps


def test_the_loss_at_the_start_is_only_named_where_it_was_logged() -> None:
    late = " ".join(plan_fit(coarse(50, from_zero=False), target_losses=[2.5]).problems)
    assert "not below the loss at the first logged step" in late
    early = " ".join(plan_fit(coarse(50, from_zero=True), target_losses=[2.5]).problems)
    assert "not below the loss at the start (2.3)" in early


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-308, 1e-150, 1e55])
def test_losses_of_any_size_are_measured_without_a_warning(scale: float) -> None:
    curves = training()
    plan = plan_fit(build_curves(curves.runs, curves.points.assign(loss=curves.points["loss"] * scale)))
    assert plan.groups[0].parts


@pytest.mark.filterwarnings("error")
def test_a_loss_that_falls_to_nearly_nothing_is_measured_without_a_warning() -> None:
    assert np.isfinite(steps_to(curves_of([(1, 1e50), (10, 1e-308)]), 1e-300)).all()
