"""A server that fails at every operation of a collect: nothing is lost, nothing comes twice, and it ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
import wandb
from wandb_server import ENTITY, Exports, WandbServer
from wandb_server.faults import Kind

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import TrackerError
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.wandb import client, failures
from surge_sweeps.trackers.wandb import runs as runs_module
from surge_sweeps.trackers.wandb.client import WandbProject
from surge_sweeps.trackers.wandb.reader import WandbReader
from surge_sweeps.trackers.wandb.sweeps import register

PROJECT = f"{ENTITY}/digits"
LOSSES = [3.0, 2.0, 1.0]
#: Operation -> whether it takes part where histories are exported, and where they are scanned.
OPERATIONS = {
    "Viewer": ("export", "scan"),
    "GetDefaultEntity": ("export", "scan"),
    "Runs": ("export", "scan"),
    "GetSweep": ("export", "scan"),
    "RunParquetHistory": ("export", "scan"),
    "GET": ("export",),
    "RunHistoryKeys": ("scan",),
    "SampledHistoryPage": ("scan",),
}
KINDS: tuple[Kind, ...] = (429, 500, "drop", "slow", "drop_after")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(runs_module, "PER_PAGE", 3)


@pytest.fixture
def project(wandb_server: WandbServer) -> Callable[[str], LossCurves]:
    """Five runs of a sweep that do not name their trials; called with a route, collects them."""
    sweep = Sweep(lr=(0.1, 0.2, 0.3, 0.4, 0.5), batch_size=(8,), seed=(0,))
    name = register(WandbProject(ENTITY, "digits"), sweep)
    for index, trial in enumerate(sweep.trials()):
        rows = [{"eval/loss": loss + index, "examples": 8.0 * step} for step, loss in enumerate(LOSSES)]
        wandb_server.add_run(ENTITY, "digits", f"r{index}", config=trial.parameters, history=rows, sweep=name)
    wandb.teardown()
    wandb_server.operations.clear()

    def collect(route: str) -> LossCurves:
        wandb_server.store.exports = Exports(available=route == "export")
        return WandbReader().collect(PROJECT, ReadOptions(loss="eval/loss", step="_step"))

    return collect


def operations(route: str) -> list[str]:
    return [operation for operation, routes in OPERATIONS.items() if route in routes]


def check_whole(curves: LossCurves) -> None:
    assert curves.problems == ()
    assert curves.runs["run"].tolist() == [f"r{index}" for index in range(5)]
    assert curves.runs["trial_id"].nunique() == 5
    assert curves.points["loss"].tolist() == [loss + index for index in range(5) for loss in LOSSES]
    assert curves.points["examples"].tolist() == [0.0, 8.0, 16.0] * 5


@pytest.mark.parametrize("route", ["export", "scan"])
def test_one_fault_of_some_kind_at_every_operation_changes_nothing(
    wandb_server: WandbServer, project: Callable[[str], LossCurves], route: str
) -> None:
    kinds = itertools.cycle(KINDS)
    faults = [wandb_server.faults.add(name, next(kinds), seconds=0.1) for name in operations(route)]
    check_whole(project(route))
    assert [fault.happened for fault in faults] == [1] * len(faults)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["export", "scan"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_of_every_kind_at_every_operation_changes_nothing(
    wandb_server: WandbServer, project: Callable[[str], LossCurves], route: str, kind: Kind
) -> None:
    faults = [wandb_server.faults.add(name, kind, seconds=0.3) for name in operations(route)]
    check_whole(project(route))
    assert [fault.happened for fault in faults] == [1] * len(faults)


@pytest.mark.parametrize(("kind", "times"), [("truncate", 2), ("corrupt", 1), ("corrupt", 2), (404, 2)])
def test_a_damaged_download_is_done_again_then_scanned(
    wandb_server: WandbServer, project: Callable[[str], LossCurves], kind: str, times: int
) -> None:
    def is_third(variables: dict[str, object]) -> bool:
        return "/r2/" in str(variables["path"])

    fault = wandb_server.faults.add("GET", kind, times=times, where=is_third)
    check_whole(project("export"))
    assert fault.happened == times


@pytest.mark.parametrize(("operation", "kind"), [("Runs", 500), ("RunParquetHistory", "drop")])
def test_a_server_that_stays_away_ends_in_a_sentence(
    wandb_server: WandbServer,
    project: Callable[[str], LossCurves],
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    kind: Kind,
) -> None:
    monkeypatch.setitem(client.BOUNDS, "x_graphql_retry_max", 1)
    monkeypatch.setattr(failures, "ATTEMPTS", 2)
    wandb_server.faults.add(operation, kind, times=1000, seconds=0.1)
    wandb_server.faults.add(
        f"{operation}Legacy", kind, times=1000, seconds=0.1
    )  # what GetSweep falls back on
    began = time.monotonic()
    with pytest.raises(TrackerError, match="W&B cannot be read: the server") as caught:
        project("export")
    assert "call the same command again" in caught.value.hint
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("status", "said"), [(403, "your key may not do that"), (401, "does not know your key")]
)
@pytest.mark.parametrize("operation", ["Runs", "RunParquetHistory"])
def test_a_refusal_is_not_asked_twice(
    wandb_server: WandbServer, project: Callable[[str], LossCurves], operation: str, status: int, said: str
) -> None:
    fault = wandb_server.faults.add(operation, status, times=1000)
    with pytest.raises(TrackerError, match=said):
        project("export")
    assert fault.happened <= 6
