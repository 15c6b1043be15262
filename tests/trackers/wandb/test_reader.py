"""Collecting from a W&B server: what was logged is what is read, from exports and by scanning, and only once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from wandb_server import API_KEY, ENTITY, Exports, WandbServer

from surge_sweeps.curve_cache import Series
from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.wandb import history
from surge_sweeps.trackers.wandb.client import WandbProject, connect
from surge_sweeps.trackers.wandb.exports import Points
from surge_sweeps.trackers.wandb.history import RunHistories
from surge_sweeps.trackers.wandb.reader import WandbReader
from surge_sweeps.trackers.wandb.runs import list_runs

PROJECT = f"{ENTITY}/digits"
CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
NAN, INF = math.nan, math.inf
#: Reading where names are plain: the record's own metric by W&B's own step.
OPTIONS = ReadOptions(loss="eval/loss", step="_step")

ROUTES = {
    "export": Exports(),
    "export in parts": Exports(part_rows=2),
    "scan": Exports(available=False),
    "scan of an unfinished export": Exports(live_tail=2),
}


def each_route(server: WandbServer) -> Iterator[str]:
    """The same runs, once for each way that their histories are to be had."""
    for name, exports in ROUTES.items():
        server.store.exports = exports
        yield name


def collect(project: str = PROJECT, **options: Any) -> LossCurves:
    given = {"loss": "eval/loss", "step": "_step"} | options
    return WandbReader().collect(project, ReadOptions(**given))


def log(rows: Sequence[tuple[int | None, Mapping[str, Any]]], **settings: Any) -> str:
    """Log a run by the real client; rows are (step, values)."""
    quiet = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
    with wandb.init(
        entity=ENTITY, project="digits", settings=quiet, **({"config": CONFIG} | settings)
    ) as run:
        for step, values in rows:
            run.log(dict(values), step=step)
        return str(run.id)


def fetch(metric: str, axis: str | None = None) -> tuple[Series, RunHistories]:
    listing = list_runs(connect(), WandbProject(ENTITY, "digits"))
    with RunHistories(listing.runs) as histories:
        return histories.fetch(list(listing.runs), metric, axis), histories


def points_of(series: Series) -> list[list[float]]:
    return np.column_stack([series.step, series.value]).tolist()


def test_what_was_logged_online_is_what_is_read(wandb_server: WandbServer) -> None:
    losses = [3.0, NAN, INF, -INF, 1e-300, 2 / 3, 7]
    name = log([(step, {"eval/loss": loss, "examples": 8.0 * step}) for step, loss in enumerate(losses)])
    for route in each_route(wandb_server):
        curves = collect()
        assert curves.problems == (), route
        read = curves.runs[["run", "lr", "batch_size", "status"]].values.tolist()
        assert read == [[name, 0.1, 8, "finished"]]
        assert str(curves.points["loss"].tolist()) == str([float(loss) for loss in losses]), route
        assert curves.points["step"].tolist() == list(range(7)), route
        assert curves.points["examples"].tolist() == [8.0 * step for step in range(7)], route
        assert curves.source == f"wandb {wandb_server.url} {PROJECT}"
        assert API_KEY not in repr(curves)


def test_a_row_without_the_axis_has_no_step(wandb_server: WandbServer) -> None:
    rows = [
        {"loss": 4.0, "train/global_step": 10},
        {"loss": 3.0},
        {"acc": 0.5, "train/global_step": 20},
        {"loss": "NaN", "train/global_step": 30},
        {"loss": 2.0},
        {"loss": 2.0, "train/global_step": 40},
    ]
    wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=rows)
    expected = [[10.0, 4.0], [NAN, 3.0], [30.0, NAN], [NAN, 2.0], [40.0, 2.0]]
    for route in each_route(wandb_server):
        series, _ = fetch("loss", "train/global_step")
        assert str(points_of(series)) == str(expected), route
        assert series.timestamp.tolist() == [0, 1, 2, 3, 4], route


def test_an_axis_that_is_never_in_the_same_row(wandb_server: WandbServer) -> None:
    rows = [{"loss": 4.0}, {"iter": 1}, {"loss": 3.0}, {"iter": 2}]
    wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=rows)
    for route in each_route(wandb_server):
        series, _ = fetch("loss", "iter")
        assert str(points_of(series)) == str([[NAN, 4.0], [NAN, 3.0]]), route


def test_texts_among_numbers(wandb_server: WandbServer) -> None:
    rows = [{"loss": value} for value in (1.0, "warmup", "NaN", 2, "Infinity", None)]
    wandb_server.add_run(
        *PROJECT.split("/"), "a", config=CONFIG, history=[row for row in rows if row["loss"] is not None]
    )
    for route in each_route(wandb_server):
        series, _ = fetch("loss")
        assert str(points_of(series)) == str([[0.0, 1.0], [2.0, NAN], [3.0, 2.0], [4.0, INF]]), route


def test_repeated_and_skipped_steps_after_a_resume(wandb_server: WandbServer) -> None:
    steps, losses = [0, 1, 2, 2, 5, 6], [9.0, 8.0, 7.0, 6.5, 5.0, 4.0]
    rows = [
        {"_step": step, "_timestamp": 100.0 + n, "eval/loss": loss}
        for n, (step, loss) in enumerate(zip(steps, losses, strict=True))
    ]
    wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=rows)
    for route in each_route(wandb_server):
        curves = collect()
        points = curves.points[["step", "loss"]].values.tolist()
        assert points == [[0, 9], [1, 8], [2, 6.5], [5, 5], [6, 4]], route
        assert [problem.what for problem in curves.problems] == [
            "1 point of 'eval/loss' left out: a newer one stands at the same step"
        ]


def test_a_resumed_run_is_read_whole(wandb_server: WandbServer) -> None:
    name = log([(step, {"eval/loss": 9.0 - step}) for step in range(4)])
    log([(step, {"eval/loss": 9.0 - step}) for step in range(4, 7)], id=name, resume="must")
    for route in each_route(wandb_server):
        assert collect().points["loss"].tolist() == [9.0 - step for step in range(7)], route


def test_steps_as_large_as_tokens_take_few_requests(wandb_server: WandbServer) -> None:
    wandb_server.store.exports = Exports(available=False)
    rows = [{"_step": n * 10**9, "eval/loss": 1.0 / (n + 1)} for n in range(40)]
    wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=rows)
    series, _ = fetch("eval/loss")
    assert points_of(series) == [[n * 1e9, 1.0 / (n + 1)] for n in range(40)]
    assert wandb_server.operations.counts()["SampledHistoryPage"] <= 20


def test_fewer_rows_than_the_listing_counts_are_named(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb_server.store.exports = Exports(available=False)
    run = wandb_server.add_run(
        *PROJECT.split("/"), "a", config=CONFIG, history=[{"loss": 1.0}, {"loss": 2.0}]
    )
    monkeypatch.setattr(run.history, "key_counts", lambda: {"loss": 3, "_step": 3})
    _, histories = fetch("loss")
    assert [problem.what for problem in histories.problems] == [
        "W&B gave 2 of the 3 points of 'loss' that it counts"
    ]


def test_an_export_that_lacks_points_is_not_taken_for_the_whole(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files lack the last rows and nothing says so; the listing counts them."""
    rows = [{"eval/loss": 1.0 / (n + 1), "iter": n} for n in range(10)]
    wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=rows)
    whole = history.read_points

    def shorter(files: Sequence[Path], metric: str, axis: str | None) -> Points | None:
        found = whole(files, metric, axis)
        return found and Points(found.step[:6], found.value[:6], 6)

    monkeypatch.setattr(history, "read_points", shorter)
    for axis in (None, "iter"):
        series, histories = fetch("eval/loss", axis)
        assert points_of(series) == [[n, 1.0 / (n + 1)] for n in range(10)]
        assert histories.problems == []
    # Where the scan has no more either, what is missing is said.
    monkeypatch.setattr(history, "_scan", lambda *_: [])
    series, histories = fetch("eval/loss")
    assert len(points_of(series)) == 6
    assert [p.what for p in histories.problems] == [
        "W&B gave 6 of the 10 points of 'eval/loss' that it counts"
    ]


def test_a_short_series_is_asked_for_and_named_again(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=[{"eval/loss": 1.0}] * 2)
    counts = run.history.key_counts
    monkeypatch.setattr(run.history, "key_counts", lambda: {"eval/loss": 3, "_step": 3})
    for _ in range(2):
        curves = collect(cache_dir=tmp_path)
        assert len(curves.points) == 2
        assert "2 of the 3 points" in curves.problems[0].what
    monkeypatch.setattr(run.history, "key_counts", counts)
    assert collect(cache_dir=tmp_path).problems == ()
    wandb_server.operations.clear()
    collect(cache_dir=tmp_path)
    assert "RunParquetHistory" not in wandb_server.operations.counts()


def test_values_that_are_not_finite_keep_their_step_in_overlapping_pages(wandb_server: WandbServer) -> None:
    values = [3.0, NAN, INF, 2, -INF, 1.0, NAN, 0.5]
    rows: list[dict[str, Any]] = [
        {"_step": 2 * n, "_timestamp": 100.0 + n, "eval/loss": value} | ({"iter": n} if n != 3 else {})
        for n, value in enumerate(values)
    ]
    wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=rows)
    read = []
    for exports in (Exports(), Exports(live_tail=3, live_overlap=True)):
        wandb_server.store.exports = exports
        curves = collect(step="iter")
        read.append(str(curves.points[["step", "loss"]].values.tolist()))
        assert curves.points["step"].tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert read[0] == read[1]


@pytest.mark.parametrize("named", [True, False])
def test_a_sweep_that_ends_runs_early_is_named(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    for name, value in zip(("WANDB_ENTITY", "WANDB_PROJECT"), PROJECT.split("/"), strict=True):
        monkeypatch.setenv(name, value)  # wandb.sweep would, and leave it so
    grid = {"method": "grid", "parameters": {"lr": {"values": [0.1, 0.2]}}}
    stopping = grid | {"early_terminate": {"type": "hyperband", "min_iter": 3}}
    names = [
        wandb.sweep(sweep, entity=ENTITY, project="digits") for sweep in (grid, stopping, stopping, stopping)
    ]
    # The last one has no runs.
    for index, sweep in enumerate([*names[:3], names[1]]):
        config = CONFIG | ({"trial_id": f"t{index}"} if named else {})
        wandb_server.add_run(
            *PROJECT.split("/"), f"r{index}", config=config, history=[{"eval/loss": 1.0}], sweep=sweep
        )
    wandb_server.operations.clear()
    told = {problem.what for problem in collect().problems}
    for name, runs in ((names[1], "2 runs"), (names[2], "1 run")):
        (found,) = (what for what in told if f"the sweep {name}" in what)
        assert f"ends runs early (early_terminate: hyperband): of its {runs}" in found
    assert len(told) == 2
    # One request a sweep that has runs, whether the listing needs its definition or not.
    assert wandb_server.operations.counts()["GetSweep"] == 3


def test_downloads_leave_nothing_behind(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = {path.name for path in tmp_path.iterdir()}
    wandb_server.add_run(*PROJECT.split("/"), "../a b", config=CONFIG, history=[{"eval/loss": 1.0}])
    assert collect().points["loss"].tolist() == [1.0]
    with pytest.raises(UnknownNameError):
        collect(loss="nope")
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.fixture
def grid(wandb_server: WandbServer) -> WandbServer:
    """Six runs, two metrics, exported."""
    for index in range(6):
        rows = [{"eval/loss": 5.0 - step, "examples": 8.0 * step} for step in range(5)]
        config = {**CONFIG, "lr": 0.1 * (index + 1)}
        wandb_server.add_run(*PROJECT.split("/"), f"r{index}", config=config, history=rows)
    return wandb_server


def test_one_download_serves_all_metrics(grid: WandbServer) -> None:
    collect()
    assert grid.operations.counts() == {
        "Viewer": 1,
        "GetDefaultEntity": 1,
        "Runs": 1,
        "RunParquetHistory": 6,
        "GET": 6,
    }


def test_a_second_collect_lists_and_reads_no_history(grid: WandbServer, tmp_path: Path) -> None:
    first = collect(cache_dir=tmp_path)
    grid.operations.clear()
    second = collect(cache_dir=tmp_path)
    assert grid.operations.counts() == {"Viewer": 1, "GetDefaultEntity": 1, "Runs": 1}
    assert first.points.equals(second.points)
    assert first.runs.equals(second.runs)


def test_a_run_that_grows_is_read_again_and_one_that_ended_is_not(grid: WandbServer, tmp_path: Path) -> None:
    growing = grid.add_run(
        *PROJECT.split("/"),
        "new",
        config=CONFIG,
        history=[{"eval/loss": 3.0, "examples": 0.0}],
        state="running",
    )
    collect(cache_dir=tmp_path)
    growing.history.append([{"eval/loss": 2.0, "examples": 8.0}])
    grid.operations.clear()
    curves = collect(cache_dir=tmp_path)
    assert curves.points.loc[curves.points["run"] == "new", "loss"].tolist() == [3.0, 2.0]
    asked = {entry.variables["runName"] for entry in grid.operations.of("RunParquetHistory")}
    assert asked == {"new"}
    grid.set_state(growing, "finished")
    grid.operations.clear()
    curves = collect(cache_dir=tmp_path)
    assert curves.runs.set_index("run")["status"]["new"] == "finished"
    assert {entry.variables["runName"] for entry in grid.operations.of("RunParquetHistory")} == {"new"}


def test_a_sweep_and_filters_choose_runs(grid: WandbServer, tmp_path: Path) -> None:
    for run in grid.runs[:2]:
        run.sweep = "s1"
    assert sorted(collect(f"{PROJECT}/s1", cache_dir=tmp_path).runs["run"]) == ["r0", "r1"]
    assert len(collect(cache_dir=tmp_path).runs) == 6
    filters = {"config.lr": {"$gt": 0.45}}
    assert sorted(collect(filters=filters, cache_dir=tmp_path).runs["run"]) == ["r4", "r5"]
    assert sorted(collect(f"https://wandb.example/{PROJECT}/sweeps/s1").runs["run"]) == ["r0", "r1"]
    assert len(collect("digits").runs) == 6


def test_runs_without_the_metric_and_foreign_runs_are_named(grid: WandbServer) -> None:
    grid.add_run(*PROJECT.split("/"), "other", config=CONFIG, history=[{"acc": 1.0}])
    grid.add_run(*PROJECT.split("/"), "bare", history=[{"eval/loss": 1.0}])
    curves = collect()
    assert len(curves.runs) == 6
    assert {problem.run for problem in curves.problems} == {"other", "bare"}


def test_an_unknown_project_names_the_nearest(grid: WandbServer) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown W&B project 'digit'\. Valid: digits\. Did you mean"):
        collect(f"{ENTITY}/digit")
    with pytest.raises(TrackerError, match="no project 'nobody/digits' that your key may read"):
        collect("nobody/digits")
    with pytest.raises(SurgeError, match="entity/project"):
        collect("a/b/c/d")


def test_a_deleted_sweep_and_projects_without_runs(wandb_server: WandbServer) -> None:
    wandb_server.store.make_project(*PROJECT.split("/"))
    empty = WandbReader().collect(PROJECT, ReadOptions())
    assert empty.runs.empty
    assert "has no runs yet" in empty.problems[0].what
    with pytest.raises(TrackerError, match="has no sweep 'ab12': it was deleted"):
        collect(f"{PROJECT}/ab12")
    wandb_server.add_run(*PROJECT.split("/"), "a", config=CONFIG, history=[{"eval/loss": 1.0}])
    none = WandbReader().collect(PROJECT, ReadOptions(filters={"state": "killed"}))
    assert "passes the filters" in none.problems[0].what


def test_progress_is_told(grid: WandbServer) -> None:
    told: list[tuple[float, float, str]] = []
    WandbReader(lambda *what: told.append(what)).collect(PROJECT, OPTIONS)
    assert told[0] == (0, 1, "listing runs")
    assert told[1:7] == [(done, 6, "reading eval/loss") for done in range(1, 7)]


@pytest.fixture(autouse=True)
def no_progress_of_the_client(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing is written to the terminal by reading."""
    yield
    assert "Downloading" not in capfd.readouterr().err
