"""A folder of runs read as it is: the same as from MLflow, and what is damaged named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.files.layout import FORMAT
from surge_sweeps.trackers.files.reader import stored_runs
from surge_sweeps.trackers.files.record import FileRun
from surge_sweeps.trackers.files.run_file import Points, read_metrics, read_whole, write_run
from surge_sweeps.trackers.files.writer import FilesTracker

Record = Callable[..., RunRecord]


@pytest.fixture
def four(store: FilesTracker, folder: Path, record: Record) -> list[Path]:
    """The files of four runs of other learning rates."""
    store.write_runs("s1", [record(f"t{number}", lr=0.1 * (number + 1)) for number in range(4)])
    return sorted((folder / "runs").iterdir())


def test_curves_and_problems_are_those_of_mlflow(
    store: FilesTracker, folder: Path, uri: str, record: Record
) -> None:
    records = [
        record("t1"),
        record("t2", "diverged", lr=9.0),
        record("t3", "crashed", seed=1),
        record("t4", "capped", optimizer="sgd", nesterov=True),
        RunRecord({"lr": 0.3, "batch_size": 8, "seed": 0}, "t5", "crashed", {"train/loss": [(0, 3.0)]}),
    ]
    mlflow = open_tracker("mlflow", "same", uri)
    mlflow.open_sweep("s1", "demo", {})
    for target in (store, mlflow):
        target.write_runs("s1", records)
        target.close()
    ours, theirs = collect(folder), collect("same", uri=uri)
    keys = [column for column in theirs.runs if column != "run"]
    assert_frame_equal(
        ours.runs[keys].sort_values("trial_id", ignore_index=True),
        theirs.runs[keys].sort_values("trial_id", ignore_index=True),
        check_like=True,
    )
    trials = [
        dict(zip(curves.runs["run"], curves.runs["trial_id"], strict=True)) for curves in (ours, theirs)
    ]
    points = [
        curves.points.assign(run=curves.points["run"].map(trial).astype(str)).sort_values(
            ["run", "step"], ignore_index=True
        )
        for curves, trial in zip((ours, theirs), trials, strict=True)
    ]
    assert_frame_equal(points[0], points[1])
    assert [problem.what for problem in ours.problems] == [problem.what for problem in theirs.problems]
    assert ours.read_as == theirs.read_as
    assert ours.route == "the run files themselves"


@pytest.mark.parametrize("damage", ["cut", "empty", "points", "footer"])
def test_a_damaged_file_is_named_and_the_others_are_read(four: list[Path], folder: Path, damage: str) -> None:
    content = bytearray(four[1].read_bytes())
    if damage == "points":
        column = pq.read_metadata(four[1]).row_group(0).column(1)
        content[column.data_page_offset + column.total_compressed_size - 1] ^= 0xFF
    elif damage == "footer":
        at = content.index(b"surge_sweeps") + 20
        content[at : at + 8] = b"xxxxxxxx"
    four[1].write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(damage, len(content))])
    curves = collect(folder)
    assert sorted(curves.runs["trial_id"]) == ["t0", "t2", "t3"]
    assert len(curves.points) == 9
    (problem,) = curves.problems
    assert problem.what.startswith(f"left out: {str(four[1])!r} holds no run that can be read: ")
    assert problem.run is not None
    assert problem.run.startswith("t1-")


def test_foreign_files_are_named_and_other_names_passed_over(four: list[Path], folder: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(folder / "runs" / "other.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(folder / "runs" / "t9-0123456789ab.finished.parquet")
    (folder / "runs" / ".t1-0123456789ab.parquet.x1").write_bytes(b"half")
    (folder / "runs" / "README").write_text("mine")
    curves = collect(folder)
    assert len(curves.runs) == 4
    assert sorted(problem.what for problem in curves.problems) == [
        f"left out: {str(folder / 'runs' / 'other.parquet')!r} is no file of a run that this tool wrote",
        f"left out: {str(folder / 'runs' / 't9-0123456789ab.finished.parquet')!r} holds no run that can be read: "
        "it was not written by this tool.",
    ]


def test_a_run_of_a_newer_version_is_named(
    four: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_whole(four[0])
    monkeypatch.setattr("surge_sweeps.trackers.files.record.FORMAT", FORMAT + 1)
    write_run(four[0], whole.run, whole.points)
    monkeypatch.undo()
    curves = collect(folder)
    assert len(curves.runs) == 3
    assert "it is of format 2, and this version knows 1" in curves.problems[0].what


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path: Path, four: list[Path], folder: Path) -> None:
    for path, why in ((tmp_path / "no", "is no folder"), (tmp_path, "is no folder of runs")):
        with pytest.raises(TrackerError, match=why):
            collect(path, tracker="files")
    for path in four:
        path.write_bytes(b"PAR1")
    with pytest.raises(TrackerError, match=r"no run in .* can be read"):
        collect(folder)
    (folder / "surge-runs.json").write_text(json.dumps({"format": 7}))
    with pytest.raises(TrackerError, match="of format 7"):
        collect(folder)
    with pytest.raises(TrackerError, match="of format 7"):
        stored_runs(folder)
    (folder / "surge-runs.json").write_text("{")
    with pytest.raises(TrackerError, match="cannot be read"):
        collect(folder)


def test_an_empty_folder_has_no_runs(store: FilesTracker, folder: Path) -> None:
    curves = collect(folder)
    assert curves.runs.empty
    assert curves.problems == ()
    with pytest.raises(SurgeError, match="is no table"):
        collect(folder, gain="x")


def test_two_results_of_a_trial_count_once_and_are_told(
    store: FilesTracker, folder: Path, record: Record
) -> None:
    for owner in ("launch/0", "launch/1"):
        run = store.resume_run("s1", "t1", record().config, owner)
        run.log(0, {"eval/loss": 1.0})
        run.finish("finished")
    curves = collect(folder)
    assert len(curves.runs) == 1
    assert "the trial 't1' ended before" in curves.problems[0].what


def test_of_a_long_run_only_the_metric_asked_for_is_read(tmp_path: Path) -> None:
    rows = np.arange(400_000)
    points = {
        name: Points(rows[:size], np.sqrt(rows[:size]) + number, rows[:size] + 10**12)
        for number, (name, size) in enumerate({"a": 100_000, "b": 400_000, "c": 3, "d": 400_000}.items())
    }
    run = write_run(
        tmp_path / "t1.parquet",
        FileRun("t1-0", "t1", None, {}, 0),
        {**points, "none": Points(*[rows[:0]] * 3)},
    )
    assert [metric.rows for metric in run.metrics.values()] == [100_000, 400_000, 3, 400_000]
    for name in points:
        found = read_metrics(tmp_path / "t1.parquet", [name])[name]
        assert all(np.array_equal(one, other) for one, other in zip(found, points[name], strict=True)), name
    assert len(read_metrics(tmp_path / "t1.parquet", ["none"])["none"].step) == 0
