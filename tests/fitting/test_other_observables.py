"""Final loss, gain after a crossing, and tables of one number a run: each finds the truth it was made with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from surge_sweeps.curves import LossCurves, build_curves
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting import fit
from surge_sweeps.fitting.observables.budgets import crossing_targets, final_target
from surge_sweeps.fitting.observables.divergence import diverged_at_finite_loss
from surge_sweeps.fitting.observables.plan import plan_fit
from surge_sweeps.fitting.result import TargetFit
from surge_sweeps.simulate import (
    Damage,
    Grid,
    LogSkew,
    Truth,
    simulate_branches,
    simulate_table,
    simulate_training,
)

BATCH_SIZES = [8, 16, 32, 64, 128, 256]
GRID = Grid(BATCH_SIZES, np.geomspace(0.004, 0.4, 14).tolist(), 4)
TRUTH = Truth("sqrt", {"a": 0.006}, basin=LogSkew(1.0), diverge_ratio=30.0)


def only_target(curves: LossCurves, **options: object) -> TargetFit:
    return fit(curves, n_draws=300, **options).groups[0].targets[0]  # type: ignore[arg-type]


def check_optima(target: TargetFit, truth: Truth, within: float) -> None:
    for record in target.optimal_lr:
        assert record.status in ("ok", "given")
        assert np.log(record.lr / float(truth.optimal_lr(record.batch_size))) == pytest.approx(0, abs=within)


@pytest.mark.parametrize("observable", ["final", "gain"])
def test_a_table_of_final_losses_or_gains_gives_the_true_optima(observable: str) -> None:
    curves = simulate_table(TRUTH, GRID, np.random.default_rng(0), observable=observable, noise=0.01)  # type: ignore[arg-type]
    target = only_target(curves)
    assert (target.protocol, target.start, target.tradeoff) == (observable, None, None)
    assert target.verdict == "sqrt"
    check_optima(target, TRUTH, 0.1)


def test_a_table_of_steps_gives_the_trade_off_and_no_law() -> None:
    truth = Truth("sqrt", {"a": 0.006}, b_crit=40.0)
    batch_sizes = [2, 4, *BATCH_SIZES, 512, 1024]
    grid = Grid(batch_sizes, [], 3)
    target = only_target(
        simulate_table(truth, grid, np.random.default_rng(0), observable="steps", noise=0.05)
    )
    assert target.tradeoff.b_crit.estimate == pytest.approx(40.0, rel=0.15)
    assert target.tradeoff.b_crit.low < 40 < target.tradeoff.b_crit.high
    assert (target.verdict, target.laws) == ("inconclusive", [])
    assert "no learning rates" in target.reasons[0]
    assert {record.status for record in target.optimal_lr} == {"given"}


def test_steps_at_several_learning_rates_are_a_sweep() -> None:
    steps = [
        (batch, lr, float(TRUTH.steps(batch, 0.5) / TRUTH.progress(lr / TRUTH.optimal_lr(batch))))
        for batch in BATCH_SIZES for lr in GRID.lrs
    ]  # fmt: skip
    runs = pd.DataFrame(steps, columns=["batch_size", "lr", "response"])
    runs = runs.assign(run=[f"r{i}" for i in range(len(runs))], seed=pd.NA, status="finished")
    nothing = pd.DataFrame({"run": pd.Series(dtype=str), "step": [], "loss": []})
    target = only_target(build_curves(runs, nothing, observable="steps"))
    check_optima(target, TRUTH, 0.05)
    assert target.tradeoff is not None


def test_a_table_of_tuned_rates_has_their_law_and_honest_noise() -> None:
    grid = Grid([4, *BATCH_SIZES, 512, 1024], [], 3)
    truth = Truth("surge", {"eps_max": 0.1, "b_noise": 64.0})
    target = only_target(simulate_table(truth, grid, np.random.default_rng(1), observable="given", noise=0.1))
    assert target.verdict == "surge"
    assert target.b_peak.low < 64 < target.b_peak.high
    assert all(record.low < record.lr < record.high for record in target.optimal_lr)


def test_the_final_loss_of_curves_is_taken_at_the_budget_that_most_runs_share() -> None:
    curves = simulate_training(
        TRUTH, GRID, np.random.default_rng(0), noise=0.02, max_steps=300, target_loss=1e-6
    )
    by_default = only_target(curves, protocol="final")
    assert (by_default.protocol, by_default.horizon_steps, by_default.start) == ("final", 300, "scratch")
    check_optima(by_default, TRUTH, 0.15)
    earlier = only_target(curves, protocol="final", horizon_steps=100)
    assert earlier.horizon_steps == 100
    check_optima(earlier, TRUTH, 0.15)


def test_runs_of_another_budget_are_left_out_of_the_final_loss_and_counted() -> None:
    runs = pd.DataFrame({
        "run": list("abcde"), "lr": 0.1, "batch_size": [8, 8, 16, 32, 8], "seed": 0, "status": "finished",
    })  # fmt: skip
    # The same examples at every batch size but for the last run.
    ends = {"a": 80, "b": 80, "c": 40, "d": 20, "e": 30}
    points = pd.DataFrame(
        [(run, step, 3.0 - step / 100) for run, last in ends.items() for step in (0, last)],
        columns=["run", "step", "loss"],
    )
    target, problems = final_target(build_curves(runs, points))
    assert target.curves.runs["run"].tolist() == list("abcd")
    assert target.responses.values[:, 0].tolist() == pytest.approx([2.2, 2.2, 2.6, 2.8])
    assert problems == ["1 run ended at another budget than most: left out of the final loss (e)"]


def ended_at(ends: dict[str, tuple[int, int, float]]) -> LossCurves:
    """Runs by name: batch size, last step, and the loss there, falling from 3 in a straight line."""
    runs = pd.DataFrame({
        "run": list(ends), "lr": 0.1, "batch_size": [end[0] for end in ends.values()], "seed": 0,
        "status": "finished",
    })  # fmt: skip
    points = pd.DataFrame(
        [(run, at, loss) for run, (_, last, low) in ends.items() for at, loss in ((0, 3.0), (last, low))],
        columns=["run", "step", "loss"],
    )
    return build_curves(runs, points)


def test_the_best_runs_that_stopped_early_stay_in_the_final_loss() -> None:
    slow = {"a": (8, 80, 2.0), "b": (8, 80, 1.0), "c": (16, 40, 1.0), "d": (32, 20, 2.0)}
    best, poor = {"e": (8, 40, 0.5)}, {f"x{i}": (8, 10 + i, 2.9) for i in range(7)}
    target, problems = final_target(ended_at(slow | best))
    assert target.curves.runs["run"].tolist() == list("abcde")
    assert target.responses.values[:, 0].tolist() == pytest.approx([2.5, 2.0, 2.0, 2.5, 0.5])
    assert problems == [
        "1 run stopped early at a low loss, so the final loss is taken after 320 examples, which all runs have"
    ]
    target, problems = final_target(ended_at(slow | best | poor))
    assert target.curves.runs["run"].tolist() == list("abcde")
    assert problems[1] == (
        "7 runs have no loss after 320 examples: left out of the final loss (x0, x1, x2, x3, x4 and 2 more)"
    )


def test_a_horizon_that_leaves_out_the_best_runs_is_said() -> None:
    _, problems = final_target(ended_at({"a": (8, 80, 2.0), "b": (8, 80, 1.0), "c": (8, 40, 0.5)}), 80)
    assert "1 run stopped before step 80 at a low loss" in problems[0]
    assert "1 run ended before step 80: left out of the final loss (c)" in problems[1]


def test_a_tuned_row_without_steps_is_said_to_have_missed_the_goal() -> None:
    runs = pd.DataFrame({"lr": 0.1, "batch_size": [8, 16, 32], "response": [90.0, 50.0, np.nan], "seed": 0})
    nothing = pd.DataFrame({"run": pd.Series(dtype=str), "step": [], "loss": []})
    runs = runs.assign(run=["a", "b", "c"], status="finished")
    problems = plan_fit(build_curves(runs, nothing, observable="steps")).problems
    assert problems == ("1 row says only that the goal was not reached, and is not used",)


def test_unfinished_rows_of_a_table_are_not_asked_to_be_launched_again() -> None:
    table = simulate_table(TRUTH, GRID, np.random.default_rng(0))
    runs = table.runs.copy()
    runs.loc[:1, "status"] = "crashed"
    problems = plan_fit(build_curves(runs, table.points, observable=table.observable)).problems
    assert problems[0] == "2 rows left out: crashed"


def test_the_hint_for_a_wrong_protocol_names_none_that_fails_too() -> None:
    table = simulate_table(TRUTH, GRID, np.random.default_rng(0))
    with pytest.raises(SurgeError) as refused:
        plan_fit(table, protocol="given")
    assert refused.value.hint == "Leave --protocol out."
    truth = Truth("surge", {"eps_max": 0.1, "b_noise": 16.0})
    branches = simulate_branches(
        truth, Grid([8, 16, 32], [0.02, 0.05], 1), np.random.default_rng(0), start_losses=[1.0]
    )
    with pytest.raises(SurgeError) as refused:
        plan_fit(branches, protocol="steps")
    assert refused.value.hint == "Leave --protocol out, or choose gain."
    with pytest.raises(SurgeError) as refused:
        plan_fit(simulate_training(TRUTH, GRID, np.random.default_rng(0)), protocol="given")
    assert "gain with --horizon-steps" in refused.value.hint


def test_the_gain_after_a_crossing_counts_from_the_loss_itself() -> None:
    runs = pd.DataFrame(
        {"run": list("abc"), "lr": 0.1, "batch_size": 8, "seed": [0, 1, 2], "status": "finished"}
    )
    # Each falls by 0.1 a step from another start, so each gains the same after the loss 1.0; the last ends too early.
    points = pd.DataFrame(
        [
            (run, step, start - 0.1 * step)
            for run, start, last in (("a", 2.0, 30), ("b", 3.0, 30), ("c", 2.0, 12)) for step in range(last)
        ],
        columns=["run", "step", "loss"],
    )  # fmt: skip
    found, problems = crossing_targets(build_curves(runs, points), 5, [1.0])
    assert [target.label() for target in found.targets] == ["loss decrease over 5 steps from loss 1"]
    assert found.targets[0].start == "crossing"
    # The crossing is interpolated in log step against log loss, which a straight line is not quite.
    assert found.responses.values[:2, 0] == pytest.approx([0.5, 0.5], abs=0.01)
    assert np.isnan(found.responses.values[2, 0])
    assert "1 run ended before 5 steps after loss 1" in problems[0]


def test_the_gain_of_runs_from_scratch_asks_for_its_horizon() -> None:
    curves = simulate_training(TRUTH, GRID, np.random.default_rng(0))
    problems = " ".join(plan_fit(curves, protocol="gain").problems)
    assert "give --horizon-steps" in problems


def test_a_run_that_diverged_to_a_large_finite_loss_is_censored_and_said() -> None:
    truth = Truth("sqrt", {"a": 0.006}, basin=LogSkew(1.0), diverge_ratio=3.0)
    damaged = simulate_table(truth, GRID, np.random.default_rng(0), damage=Damage(diverged_loss=9.0))
    result = fit(damaged, n_draws=200)
    told = " ".join(problem.what for problem in result.problems)
    assert (
        f"{(damaged.runs['response'] == 9.0).sum()} runs ended at a finite loss far above all others" in told
    )
    edges = {edge.batch_size: edge.lr for edge in result.groups[0].targets[0].stability_edge}
    for batch_size, lr in edges.items():
        assert lr < 3.0 * float(truth.optimal_lr(batch_size))


def test_no_run_is_called_diverged_where_losses_only_spread() -> None:
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        {"lr": np.tile(np.geomspace(0.01, 1, 12), 4), "batch_size": np.repeat([8, 16, 32, 64], 12)}
    )
    for scale in (0.01, 1.0, 100.0):
        losses = scale * (3 + np.log(runs["lr"] / 0.1) ** 2 + 0.05 * rng.standard_normal(48))
        assert not diverged_at_finite_loss(runs, losses.to_numpy()).any()


@pytest.mark.parametrize(
    ("observable", "protocol", "words"),
    [("final", "reach", "final alone"), ("loss_curve", "given", "for tables with one number a run")],
)
def test_a_protocol_that_the_data_cannot_answer_is_refused(
    observable: str, protocol: str, words: str
) -> None:
    if observable == "loss_curve":
        curves = simulate_training(TRUTH, GRID, np.random.default_rng(0))
    else:
        curves = simulate_table(TRUTH, GRID, np.random.default_rng(0))
    with pytest.raises(SurgeError, match=words):
        fit(curves, protocol=protocol)
    if observable == "final":
        with pytest.raises(SurgeError, match="target losses need loss curves"):
            fit(curves, target_losses=[1.0])
