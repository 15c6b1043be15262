"""The whole way on W&B: runs logged online, collected, fitted, published, and read back from the server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps.cli.report import app
from surge_sweeps.curves import LossCurves
from surge_sweeps.simulate import Truth, simulate_training
from surge_sweeps.simulate.grid import Grid
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, RunRecord
from surge_sweeps.trackers.wandb.client import connect

PROJECT = "test-entity/flow"


def as_records(curves: LossCurves) -> list[RunRecord]:
    points = dict(list(curves.points.groupby("run")))
    records = []
    for row in curves.runs.itertuples():
        own = points[row.run]
        config = {
            "lr": row.lr,
            "batch_size": row.batch_size,
            "seed": int(row.seed),
            "optimizer": "adamw",
        }
        metrics: dict[str, Sequence[tuple[int, float]]] = {
            EVAL_LOSS: list(zip(own["step"], own["loss"], strict=True)),
            EXAMPLES: list(zip(own["step"], own["examples"], strict=True)),
        }
        records.append(RunRecord(config, str(row.run), row.status, metrics))
    return records


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, [PROJECT, "--tracker=wandb", "--draws=200", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_logged_online_collected_fitted_published_and_read_back(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    truth = Truth("sqrt", {"a": 0.003})
    grid = Grid([4, 16, 64, 256], list(np.geomspace(1e-3, 0.3, 7)), 1)
    simulated = simulate_training(truth, grid, np.random.default_rng(0))
    store = open_tracker("wandb", PROJECT)
    store.open_sweep("s1", "flow", {})
    store.write_runs("s1", as_records(simulated))
    store.close()

    read = collect(PROJECT, tracker="wandb")
    assert len(read.runs) == len(simulated.runs)
    losses = np.sort(simulated.points["loss"].to_numpy())
    np.testing.assert_array_equal(np.sort(read.points["loss"].to_numpy()), losses)

    assert "Published: " in call("--publish")
    fit = json.loads((tmp_path / "reports/flow/fit.json").read_text())
    api = connect()
    (run,) = api.runs(PROJECT, filters={"jobType": "surge-report"})
    (artifact,) = [one for one in run.logged_artifacts() if one.type == "surge-fit"]
    folder = Path(artifact.download(str(tmp_path / "artifact")))
    assert json.loads((folder / "fit.json").read_text()) == fit
    (key,) = [key for key in run.summary.keys() if key.endswith("b_crit")][:1]  # noqa: SIM118 - no mapping
    estimates = {target["tradeoff"]["b_crit"]["estimate"] for target in fit["groups"][0]["targets"]}
    assert run.summary[key] in estimates

    before = len(wandb_server.runs)
    assert "nothing has changed" in call("--publish")
    assert len(wandb_server.runs) == before
