"""Real MLflow stores in temporary folders, and what programs log there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from surge_sweeps.trackers.base import RunRecord


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    return make_record


def make_record(trial: str = "t1", status: str = "finished", steps: int = 3, **config: Any) -> RunRecord:
    points = {
        "train/loss": [(step, 3.0 / (step + 1)) for step in range(steps)],
        "eval/loss": [(step, 2.0 / (step + 1)) for step in range(steps)],
        "examples": [(step, 8.0 * step) for step in range(steps)],
    }
    defaults = {"lr": 0.1, "batch_size": 8, "seed": 0, "optimizer": "adamw"}
    return RunRecord(defaults | config, trial, status, points)


@pytest.fixture
def foreign_run(client: MlflowClient) -> Callable[..., str]:
    """Log a run as any program would: no tags of ours, flat, its own names."""

    def log(
        params: dict[str, Any],
        metrics: dict[str, list[tuple[int, float]]],
        *,
        project: str = "foreign",
        status: str | None = "FINISHED",
        time_ms: int | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        experiment = client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else client.create_experiment(project)
        run = client.create_run(number, start_time=time_ms).info.run_id
        points = [
            Metric(name, value, time_ms or 1_700_000_000_000 + index, step)
            for name, series in metrics.items()
            for index, (step, value) in enumerate(series)
        ]
        client.log_batch(
            run,
            points,
            [Param(key, str(value)) for key, value in params.items()],
            [RunTag(key, value) for key, value in (tags or {}).items()],
        )
        if status is not None:
            client.set_terminated(run, status)
        return run

    return log
