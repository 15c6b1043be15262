"""Published results: what a right analysis finds there, found. Nothing in the fit is tuned to these files."""

from __future__ import annotations

from pathlib import Path

import pytest

import surge_sweeps as ss
from surge_sweeps.fitting.result import TargetFit

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "published"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="published results of others are not part of this project and not at hand"
)


def target_of(group: int, **columns: object) -> TargetFit:
    name = str(columns.pop("file"))
    horizon = columns.pop("horizon_steps", None)
    curves = ss.collect(str(FOLDER / name), **columns)  # type: ignore[arg-type]
    fit = ss.fit(curves, n_draws=500, horizon_steps=horizon)  # type: ignore[arg-type]
    return fit.groups[group].targets[0]


def step_law(group: int) -> TargetFit:
    return target_of(
        group, file="steplaw_dense_215M_4B_20B.csv", batch_size="bs", loss="smooth loss", group_by=["D"],
        batch_unit="sequences",
    )  # fmt: skip


def test_language_models_of_one_run_a_cell_are_no_confident_surge() -> None:
    at_4b, at_20b = step_law(0), step_law(1)
    assert at_20b.verdict != "surge"
    assert at_4b.verdict != "surge"
    lr = {one.batch_size: one.lr for one in at_20b.optimal_lr}
    # Rises from 32 to 192 by far more than a factor 3, then turns about 256.
    assert lr[192] > 3 * lr[32]
    assert max(lr, key=lambda size: lr[size] or 0.0) in (192, 256, 512)
    flat = [one.lr for one in at_4b.optimal_lr if one.batch_size >= 192]
    assert max(flat) < 1.5 * min(flat)


def test_runs_that_diverged_at_a_finite_loss_are_recognised() -> None:
    curves = ss.collect(
        str(FOLDER / "steplaw_dense_215M_4B_20B.csv"), batch_size="bs", loss="smooth loss", group_by=["D"]
    )
    found = " ".join(problem.what for problem in ss.fit(curves, n_draws=200).problems)
    diverged = curves.runs["response"] > 5
    assert diverged.sum() == 34
    assert "12 runs ended at a finite loss far above" in found
    assert "22 runs ended at a finite loss far above" in found


@pytest.mark.parametrize(("group", "b_crit", "s_min"), [(0, 5433, 2095.3), (1, 2191, 1293.8)])
def test_steps_to_goal_give_the_authors_hyperbola(group: int, b_crit: float, s_min: float) -> None:
    target = target_of(
        group, file="zhang_steps_to_goal_85M_302M.csv", batch_size="batch_size_seqs", group_by=["model"],
        steps_to_goal="min_steps_to_goal", batch_unit="sequences",
    )  # fmt: skip
    tradeoff = target.tradeoff
    assert tradeoff is not None
    assert tradeoff.b_crit.estimate == pytest.approx(b_crit, rel=0.03)
    assert tradeoff.s_min == pytest.approx(s_min, rel=0.03)
    assert tradeoff.b_crit.low < b_crit < tradeoff.b_crit.high


def test_one_sgd_step_saturates_at_the_published_noise_scale() -> None:
    target = target_of(
        0, file="mnist_sgd_one_step_checkpoint100.csv", lr="epsilon", seed="sample_id", gain="delta_loss",
        group_by=[], horizon_steps=1,
    )  # fmt: skip
    law = next(law for law in target.laws if law.name == "sgd_saturation")
    assert target.verdict == "saturation"
    assert law.parameters["eps_max"] == pytest.approx(0.1475, abs=2 * 0.0024)
    assert law.parameters["b_noise"] == pytest.approx(49.8, abs=2 * 4.3)
    assert target.b_noise.low < 49.8 < target.b_noise.high


def test_tuned_sign_descent_is_a_power() -> None:
    target = target_of(
        0, file="signsgd_toy_tuned_eta.csv", batch_size="batch", optimal_lr="eta_tuned", group_by=[]
    )
    law = next(law for law in target.laws if law.name == "power")
    assert target.verdict == "power"
    assert law.parameters["alpha"] == pytest.approx(0.588, abs=0.02)
