"""The whole fit: known truth found again, thin data answered with what to run, the contract of fit.json kept."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from surge_sweeps.curves import LossCurves, Problem, build_curves
from surge_sweeps.fitting import SurgeFit, fit, json_schema, measured_cells, summarize
from surge_sweeps.simulate import Grid, Truth, join_curves, simulate_branches, simulate_training

BATCH_SIZES = [4, 8, 16, 32, 64, 128, 256, 512]
SURGE = Truth("surge", {"eps_max": 0.012, "b_noise": 32.0}, b_crit=48.0)
SQRT = Truth("sqrt", {"a": 0.002}, b_crit=48.0)
LRS = {"surge": np.geomspace(0.0006, 0.06, 12).tolist(), "sqrt": np.geomspace(0.001, 0.15, 12).tolist()}


def training(truth: Truth, *, seeds: int = 4, noise: float = 0.08, **config: str) -> LossCurves:
    return simulate_training(
        truth, Grid(BATCH_SIZES, LRS[truth.law], seeds), np.random.default_rng(0), noise=noise, max_steps=20000,
        target_loss=0.2, config=config, project="-".join(config.values()) or "demo",
    )  # fmt: skip


def branches(truth: Truth, *, seeds: int = 8, noise: float = 0.1, **config: str) -> LossCurves:
    return simulate_branches(
        truth, Grid(BATCH_SIZES, LRS[truth.law], seeds), np.random.default_rng(1), start_losses=[1.8, 0.8, 0.35],
        noise=noise, config=config,
    )  # fmt: skip


def texts(found: SurgeFit) -> str:
    return " | ".join(problem.what for problem in found.problems)


def assert_valid(found: SurgeFit) -> dict[str, Any]:
    """Strict JSON, valid against the shipped schema, and the same after a round trip."""
    data = found.to_dict()
    text = json.dumps(data, allow_nan=False)
    schema = json.loads(files("surge_sweeps.fitting").joinpath("fit.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    assert SurgeFit.from_dict(json.loads(text)) == found
    assert summarize(found)
    return data


@pytest.fixture(scope="module")
def surge_fit() -> SurgeFit:
    return fit(
        join_curves(
            training(SURGE, optimizer="sign"),
            branches(SURGE, optimizer="sign"),
            training(SQRT, optimizer="sgd"),
        ),
        n_draws=500,
    )


def test_shipped_schema_is_that_of_the_models() -> None:
    shipped = files("surge_sweeps.fitting").joinpath("fit.schema.json").read_text(encoding="utf-8")
    assert json.loads(shipped) == json_schema()


def test_fit_keeps_the_contract_of_fit_json(surge_fit: SurgeFit) -> None:
    data = assert_valid(surge_fit)
    assert data["schema"] == 1
    assert [group["group"] for group in data["groups"]] == [{"optimizer": "sgd"}, {"optimizer": "sign"}]
    assert all(group["schedule"] is None for group in data["groups"])


def test_reach_targets_come_first_then_gain_in_the_order_of_training(surge_fit: SurgeFit) -> None:
    sign = surge_fit.groups[1]
    protocols = [target.protocol for target in sign.targets]
    assert protocols == sorted(protocols, reverse=True)
    gains = [target for target in sign.targets if target.protocol == "gain"]
    assert [(target.loss, target.horizon_steps, target.start) for target in gains] == [
        (1.8, 10, "checkpoint"),
        (0.8, 10, "checkpoint"),
        (0.35, 10, "checkpoint"),
    ]
    assert all(target.tradeoff is None for target in gains)
    reach = [target for target in sign.targets if target.protocol == "reach"]
    assert len(reach) >= 3
    assert all(target.start == "scratch" and target.horizon_steps is None for target in reach)


@pytest.mark.parametrize(("index", "truth"), [(0, SQRT), (1, SURGE)])
def test_optimal_learning_rates_are_those_of_the_truth(surge_fit: SurgeFit, index: int, truth: Truth) -> None:
    found = 0
    for target in surge_fit.groups[index].targets:
        for record in target.optimal_lr:
            if record.status != "ok":
                continue
            true = float(truth.optimal_lr(record.batch_size))
            assert record.lr == pytest.approx(true, rel=0.2)
            assert record.low is not None
            assert record.high is not None
            assert record.low <= (record.lr or 0) <= record.high
            # A good deal wider than the interval: its coverage is measured in test_optimum.
            assert record.low / 1.2 <= true <= record.high * 1.2
            found += 1
    assert found >= 24


def test_surge_is_called_a_surge_and_a_square_root_is_not(surge_fit: SurgeFit) -> None:
    sgd, sign = surge_fit.groups
    assert {target.verdict for target in sign.targets} == {"surge"}
    assert all(target.verdict != "surge" for target in sgd.targets)
    for target in sign.targets:
        assert target.b_peak.status == "identified"
        assert (target.b_peak.low or 0) <= 32 <= (target.b_peak.high or math.inf)


def test_critical_batch_size_is_that_of_the_truth(surge_fit: SurgeFit) -> None:
    for group in surge_fit.groups:
        for target in group.targets:
            if target.protocol == "reach":
                assert target.tradeoff is not None
                assert target.tradeoff.b_crit.estimate == pytest.approx(48.0, rel=0.3)
                assert target.tradeoff.s_min == pytest.approx(float(SURGE.steps(1e12, target.loss)), rel=0.3)


def test_steady_truth_has_no_drift(surge_fit: SurgeFit) -> None:
    drift = surge_fit.groups[1].drift
    assert drift.b_crit.exponent == pytest.approx(0.0, abs=0.4)
    assert drift.b_peak.p_value is None or drift.b_peak.p_value > 0.01


def test_peak_that_moves_with_the_loss_is_seen_to_move() -> None:
    truth = Truth("surge", {"eps_max": 0.012, "b_noise": 16.0}, peak_drift=1.0)
    drift = fit(branches(truth, seeds=12), n_draws=500).groups[0].drift.b_peak
    assert drift.exponent == pytest.approx(1.0, abs=0.4)
    assert (drift.low or 0) > 0


def test_same_seed_same_result_and_another_seed_another() -> None:
    curves = branches(SURGE, seeds=3)
    curves = curves.select(curves.runs["start_loss"] == 0.8)
    assert fit(curves, n_draws=200, seed=1).to_dict() == fit(curves, n_draws=200, seed=1).to_dict()
    assert fit(curves, n_draws=200, seed=1).to_dict() != fit(curves, n_draws=200, seed=2).to_dict()


def test_order_of_the_runs_does_not_matter() -> None:
    curves = training(SURGE, seeds=2)
    shuffled = build_curves(
        curves.runs.sample(frac=1, random_state=0), curves.points.sample(frac=1, random_state=1),
        project=curves.project, source=curves.source, loss_name=curves.loss_name,
    )  # fmt: skip
    assert fit(shuffled, target_losses=[0.5], n_draws=100) == fit(curves, target_losses=[0.5], n_draws=100)


def test_options_choose_the_observable() -> None:
    gains = branches(SURGE, seeds=3)
    curves = join_curves(training(SURGE, seeds=2), gains.select(gains.runs["start_loss"] == 0.8))
    reach = fit(curves, protocol="reach", target_losses=[0.4, 0.9], n_draws=50).groups[0].targets
    assert [(target.protocol, target.loss) for target in reach] == [("reach", 0.9), ("reach", 0.4)]
    gain = fit(curves, protocol="gain", horizon_steps=5, n_draws=50).groups[0].targets
    assert {(target.protocol, target.horizon_steps) for target in gain} == {("gain", 5)}


def test_cells_are_numbered_as_the_fit_numbers_them(surge_fit: SurgeFit) -> None:
    curves = join_curves(
        training(SURGE, optimizer="sign"), branches(SURGE, optimizer="sign"), training(SQRT, optimizer="sgd")
    )
    cells = measured_cells(curves)
    for group_index, group in enumerate(surge_fit.groups):
        for target_index, target in enumerate(group.targets):
            mine = cells[(cells["group"] == group_index) & (cells["target"] == target_index)]
            runs = mine.groupby("batch_size")["runs"].sum().to_dict()
            assert runs == {record.batch_size: record.runs for record in target.optimal_lr}
            assert (mine["response"].max() < 2) == (target.protocol == "gain")
    assert cells["group"].max() == len(surge_fit.groups) - 1


def test_empty_project_gives_no_group_and_says_so() -> None:
    curves = training(SURGE, seeds=1)
    found = fit(curves.select(curves.runs["lr"] < 0))
    assert_valid(found)
    assert found.groups == []
    assert "there are no runs: launch a sweep" in texts(found)


def test_project_without_a_finished_run_says_so() -> None:
    curves = training(SURGE, seeds=1)
    found = fit(build_curves(curves.runs.assign(status="running"), curves.points))
    assert_valid(found)
    assert found.groups == []
    assert "no run has a result yet" in texts(found)


def test_one_batch_size_is_inconclusive_and_asks_for_more() -> None:
    curves = join_curves(training(SURGE, seeds=3), branches(SURGE, seeds=3))
    found = fit(curves.select(curves.runs["batch_size"] == 32), target_losses=[0.5], n_draws=100)
    assert_valid(found)
    assert "only batch size 32 was run, and B_crit takes 3, fitting laws 4, telling laws apart 5" in texts(
        found
    )
    assert {target.verdict for target in found.groups[0].targets} == {"inconclusive"}


def test_two_learning_rates_give_no_optimum_and_ask_for_more() -> None:
    curves = join_curves(training(SURGE, seeds=3), branches(SURGE, seeds=3))
    found = fit(curves.select(curves.runs["lr"].isin(LRS["surge"][5:7])), target_losses=[1.0], n_draws=100)
    assert_valid(found)
    assert "fewer than three learning rates" in texts(found)
    for target in found.groups[0].targets:
        assert target.verdict == "inconclusive"
        assert all(record.status == "too_few" and record.lr is None for record in target.optimal_lr)


def test_all_diverged_gives_no_number_and_asks_for_smaller_learning_rates() -> None:
    for curves in (training(SURGE, seeds=2), branches(SURGE, seeds=2)):
        found = fit(curves.select(curves.runs["status"] == "diverged"), n_draws=50)
        assert_valid(found)
        assert "every run diverged: run learning rates below" in texts(found)
        assert all(record.lr is None for target in found.groups[0].targets for record in target.optimal_lr)


def test_loss_nobody_reaches_gives_no_number() -> None:
    found = fit(training(SURGE, seeds=2), target_losses=[1e-9], n_draws=50)
    assert_valid(found)
    target = found.groups[0].targets[0]
    assert target.verdict == "inconclusive"
    assert {record.status for record in target.optimal_lr} == {"too_few"} or all(
        record.lr is None for record in target.optimal_lr
    )


def test_grid_below_the_optimum_is_a_bound_and_says_where_to_go_on() -> None:
    curves = branches(SURGE, seeds=4)
    found = fit(curves.select(curves.runs["lr"] < 0.003), n_draws=100)
    assert_valid(found)
    record = next(r for r in found.groups[0].targets[0].optimal_lr if r.batch_size == 32)
    assert record.status == "edge_high"
    assert record.high is None
    assert record.lr == pytest.approx(max(lr for lr in LRS["surge"] if lr < 0.003))
    assert "run learning rates above" in texts(found)
    assert found.groups[0].targets[0].verdict != "surge"


def random_table(rng: np.random.Generator) -> LossCurves:
    """Runs as a project in disorder may hold them: few, unfinished, without seeds, with broken losses."""
    n = int(rng.integers(1, 60))
    statuses = ["finished", "capped", "diverged", "crashed", "running"]
    runs = pd.DataFrame(
        {
            "run": [f"run-{i}" for i in range(n)],
            "lr": rng.choice(10.0 ** rng.uniform(-4, 0, rng.integers(1, 7)), n),
            "batch_size": rng.choice(2 ** rng.integers(0, 8, rng.integers(1, 6)), n),
            "seed": pd.array(rng.choice([0, 1, 2], n), dtype="Int64") if rng.random() < 0.8 else pd.NA,
            "status": rng.choice(statuses, n, p=[0.5, 0.2, 0.15, 0.1, 0.05]),
            "weight_decay": rng.choice([0.1, np.nan], n),
        }
    )  # fmt: skip
    if rng.random() < 0.5:
        runs["start_checkpoint"] = rng.choice(np.array(["a", "b", None], dtype=object), n)
        runs["start_loss"] = rng.choice([1.0, 2.0, np.nan], n)
    points = []
    for run in runs["run"]:
        steps = np.sort(rng.choice(40, rng.integers(0, 12), replace=False))
        loss = rng.choice([1, -1], steps.size, p=[0.95, 0.05]) * np.exp(
            rng.normal(0, 1, steps.size) - steps / 20
        )
        if steps.size and rng.random() < 0.2:
            loss[rng.integers(steps.size)] = rng.choice([np.nan, np.inf, 0.0])
        points.append(pd.DataFrame({"run": run, "step": steps, "loss": loss}))
    return build_curves(runs, pd.concat(points), loss_name=str(rng.choice(["eval/loss", "train/loss"])))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(12))
def test_any_table_of_runs_gets_an_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = random_table(rng)
    losses = None if rng.random() < 0.5 else [0.5, 0.1]
    found = fit(curves, n_draws=50, target_losses=losses)
    assert_valid(found)
    assert len(measured_cells(curves, target_losses=losses).columns) == 8
    if not any(group.targets for group in found.groups):
        assert found.problems


def test_problems_of_the_data_reach_the_fit() -> None:
    curves = training(SURGE, seeds=1)
    found = fit(
        build_curves(curves.runs, curves.points, problems=[Problem("demo-1", "left out: no loss")]),
        n_draws=50,
    )
    assert ("demo-1", "left out: no loss") in [(problem.run, problem.what) for problem in found.problems]


def test_summary_names_every_verdict_and_batch_size(surge_fit: SurgeFit) -> None:
    text = summarize(surge_fit)
    for group in surge_fit.groups:
        assert group.label() in text
    assert text.count("SURGE") == len(surge_fit.groups[1].targets)
    assert "steps to loss" in text
    assert "loss decrease over 10 steps from loss 1.8" in text


def test_the_same_runs_under_other_names_give_the_same_bits() -> None:
    grid = Grid([4, 8, 16, 32, 64, 128], np.geomspace(0.01, 0.4, 8), 3)
    curves = simulate_training(Truth("sqrt", {"a": 0.02}), grid, np.random.default_rng(0), noise=0.1)
    names = list(curves.runs["run"])
    other = dict(zip(names, np.random.default_rng(1).permutation(names), strict=True))
    renamed = build_curves(
        curves.runs.assign(run=curves.runs["run"].map(other)),
        curves.points.assign(run=curves.points["run"].map(other)),
        project=curves.project,
        source=curves.source,
        loss_name=curves.loss_name,
    )
    one, two = (fit(each, target_losses=[0.5], n_draws=200) for each in (curves, renamed))
    assert one.to_dict()["groups"] == two.to_dict()["groups"]
