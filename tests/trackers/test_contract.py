"""The contract of reading, on every place that runs can lie."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from mlflow_stores import MlflowServer
from reader_contract import ReaderContract

from surge_sweeps.curves import LossCurves
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS, RunRecord


@dataclass
class TrackerPlace:
    """A project on a tracker, written through this tool's own writer."""

    tracker: str
    project: str
    uri: str | None = None

    def write(self, records: Sequence[RunRecord]) -> None:
        store = open_tracker(self.tracker, self.project, self.uri)
        store.open_sweep("s1", "contract", {})
        store.write_runs("s1", records)
        store.close()

    def read(
        self, *, loss: str | None = None, lr: str | None = None, cache_dir: Path | None = None
    ) -> LossCurves:
        return collect(
            self.project, tracker=self.tracker, uri=self.uri, loss=loss, lr=lr, cache_dir=cache_dir
        )


@dataclass
class OfflinePlace(TrackerPlace):
    """A folder of offline W&B runs."""

    folder: Path = field(default_factory=Path)

    def read(
        self, *, loss: str | None = None, lr: str | None = None, cache_dir: Path | None = None
    ) -> LossCurves:
        return collect(self.folder, loss=loss, lr=lr, cache_dir=cache_dir)


@dataclass
class TablePlace:
    """A CSV table of loss curves."""

    path: Path

    def write(self, records: Sequence[RunRecord]) -> None:
        rows = [
            {**record.config, "run": record.trial_id, "step": step, EVAL_LOSS: loss, TRAIN_LOSS: train}
            for record in records
            for (step, loss), (_, train) in zip(
                record.metrics[EVAL_LOSS], record.metrics[TRAIN_LOSS], strict=True
            )
        ]
        table = pd.DataFrame(rows)
        if self.path.exists():
            table = pd.concat([pd.read_csv(self.path), table])
        table.to_csv(self.path, index=False, na_rep="nan")

    def read(
        self, *, loss: str | None = None, lr: str | None = None, cache_dir: Path | None = None
    ) -> LossCurves:
        group_by = ["optimizer"]
        return collect(
            self.path, loss=loss or EVAL_LOSS, lr=lr, step="step", group_by=group_by, cache_dir=cache_dir
        )


class TestMlflow(ReaderContract):
    @pytest.fixture
    def place(self, uri: str) -> TrackerPlace:
        return TrackerPlace("mlflow", "contract", uri)


class TestMlflowOnPostgres(ReaderContract):
    @pytest.fixture
    def place(self, postgres_uri: str) -> TrackerPlace:
        return TrackerPlace("mlflow", "contract", postgres_uri)


class TestMlflowServer(ReaderContract):
    @pytest.fixture
    def place(self, shared_server: MlflowServer) -> TrackerPlace:
        return TrackerPlace("mlflow", f"contract-{uuid.uuid4().hex[:8]}", shared_server.uri)


class TestFiles(ReaderContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> TrackerPlace:
        return TrackerPlace("files", str(tmp_path / "contract"))


class TestTable(ReaderContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> TablePlace:
        return TablePlace(tmp_path / "runs.csv")


class TestWandb(ReaderContract):
    @pytest.fixture
    def place(self, wandb_server: object) -> TrackerPlace:
        return TrackerPlace("wandb", "test-entity/contract")


class TestOfflineWandb(ReaderContract):
    @pytest.fixture
    def place(self, wandb_server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OfflinePlace:
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / "offline"))
        (tmp_path / "offline").mkdir()
        return OfflinePlace("wandb", "test-entity/contract", folder=tmp_path / "offline" / "wandb")
