"""Storing a run's history artifact on a server, where it pays; a server that does not take it costs the run nothing."""

from __future__ import annotations

import logging
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.experiment import OpenExperiment
from surge_sweeps.trackers.mlflow.history import (
    HISTORY_PATH,
    TAG_HISTORY,
    Points,
    encode_history,
    history_tag,
)

#: Fetching a file takes a server as long (23 ms) as sending some 800 points by its bulk route (35,000 a second), so a
#: file of fewer saves nothing and costs a request when it is stored.
MIN_POINTS = 1000
#: Uploads that may fail one after another before no more are tried.
_MAX_FAILURES = 3
#: Artifacts that go through the server itself; others would need its cloud's credentials, or its disk, here.
_THROUGH_SERVER = "mlflow-artifacts:"

_log = logging.getLogger(__name__)


class RunHistory:
    """Every point of one open run, 24 bytes each."""

    def __init__(self) -> None:
        self._metrics: dict[str, tuple[array[int], array[float], array[int]]] = {}

    def add(self, points: Sequence[Any]) -> None:
        """Remember points, given as MLflow's `Metric`s."""
        for point in points:
            if point.key not in self._metrics:
                self._metrics[point.key] = (array("q"), array("d"), array("q"))
            step, value, timestamp = self._metrics[point.key]
            step.append(point.step)
            value.append(point.value)
            timestamp.append(point.timestamp)

    def points(self) -> dict[str, Points]:
        """Metric -> its points."""
        return {
            name: Points(np.array(step), np.array(value), np.array(timestamp))
            for name, (step, value, timestamp) in self._metrics.items()
        }


class HistoryArtifacts:
    """The history artifacts of one experiment's runs.

    Args:
        experiment: where the runs are; only behind a server do they get artifacts.
    """

    def __init__(self, experiment: OpenExperiment) -> None:
        self._experiment = experiment
        self._failures = 0

    def new_history(self) -> RunHistory | None:
        """What an open run collects its points in, or None where nothing will be stored."""
        return RunHistory() if self._experiment.is_server else None

    def store(self, run_id: str, artifact_uri: str, metrics: dict[str, Points]) -> dict[str, str]:
        """Store the artifact; returns the tag that says so, or nothing where there is none."""
        longest = max((len(points.step) for points in metrics.values()), default=0)
        wanted = self._experiment.is_server and artifact_uri.startswith(_THROUGH_SERVER)
        if not wanted or longest < MIN_POINTS or self._failures >= _MAX_FAILURES:
            return {}
        content = encode_history(metrics)
        tag = history_tag(metrics, content)
        if tag is None or not self._upload(run_id, content):
            return {}
        return {TAG_HISTORY: tag}

    def _upload(self, run_id: str, content: bytes) -> bool:
        name = PurePosixPath(HISTORY_PATH)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name.name
                path.write_bytes(content)
                self._experiment.log_artifact(run_id, str(path), str(name.parent))
        except (TrackerError, OSError) as error:
            if self._failures == 0:
                _log.warning(
                    "the history artifact of a run could not be stored (%s); runs without one are whole and read "
                    "by other ways, more slowly",
                    error,
                )
            self._failures += 1
            return False
        self._failures = 0
        return True
