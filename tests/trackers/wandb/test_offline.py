"""Runs on disk: files that the real client wrote, cut, changed, resumed, killed, and read without a server."""

from __future__ import annotations

import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import MissingExtraError, TrackerError, UnknownNameError
from surge_sweeps.trackers import assemble
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.wandb.offline import file as offline_file
from surge_sweeps.trackers.wandb.offline import transaction_log
from surge_sweeps.trackers.wandb.offline.decode import decode
from surge_sweeps.trackers.wandb.offline.file import read_offline_file
from surge_sweeps.trackers.wandb.offline.find import find_files
from surge_sweeps.trackers.wandb.offline.folder import OfflineFolder, is_offline_folder
from surge_sweeps.trackers.wandb.offline.inspect import inspect
from surge_sweeps.trackers.wandb.offline.run import Column, OfflineFile
from surge_sweeps.trackers.wandb.offline.runs import OfflineRuns, merge
from surge_sweeps.trackers.wandb.offline.transaction_log import TransactionLog, UnknownLogError

wandb = pytest.importorskip("wandb")

BLOCK = 32768

#: A run that logs until it is killed; its client process goes with it.
KILLED = """
import os, signal, sys, wandb
settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
run = wandb.init(project="p", entity="e", id="killed", dir=sys.argv[1], mode="offline", settings=settings,
                 config={"lr": 0.1, "batch_size": 8})
for step in range(2000):
    run.log({"train/loss": 1 / (step + 1)}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""


def start(folder: Path, run_id: str, config: dict[str, Any], **more: Any) -> Any:
    settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
    return wandb.init(
        project="p",
        entity="e",
        id=run_id,
        dir=folder,
        mode="offline",
        settings=settings,
        config=config,
        **more,
    )


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the folder `wandb` in it, as a few runs of the real client left it."""
    folder = tmp_path_factory.mktemp("offline") / "work"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
            patch.setenv(f"WANDB_{name}", str(folder / ".client" / name))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        wandb.teardown()
        write_runs(folder)
        wandb.teardown()
        killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    return folder


def write_runs(folder: Path) -> None:
    config = {"lr": 0.1, "batch_size": 8, "optim": {"name": "adamw", "betas": [0.9, 0.99]}, "nothing": None}
    run = start(folder, "full", config, group="g", job_type="train")
    run.config.update({"later": 1e-5, "optim": {"name": "sgd", "lr": 0.2}}, allow_val_change=True)
    run.define_metric("examples")
    run.define_metric("train/loss", step_metric="examples", summary="min")
    for step in range(1, 6):
        run.log({"train/loss": 1 / step, "examples": 8 * step, "parts": {"a": step}}, step=step)
        run.log({"eval/loss": 2 / step}, step=step)
    run.log(
        {"train/loss": math.nan, "text": "NaN of sorts", "yes": True, "bars": wandb.Histogram([1, 2])},
        step=10,
    )
    run.log({"train/loss": math.inf}, step=11)
    run.log({"train/loss": -math.inf, "count": 2**60}, step=12)
    run.summary["dropped"] = 1
    run.summary["surge/dropped"] = 1
    del run.summary["surge/dropped"]
    run.summary["surge/start_loss"] = 1.5
    run.summary["surge/status"] = "diverged"
    run.finish()

    run = start(folder, "long", {"lr": 0.2, "batch_size": 8, "notes": "x" * 3 * BLOCK}, job_type="train")
    for step in range(600):
        run.log({"train/loss": 1 / (step + 1), "examples": 8 * step}, step=step)
    run.finish()

    run = start(folder, "failed", {"lr": 0.4, "batch_size": 8})
    run.log({"train/loss": 3.0})
    run.finish(exit_code=1)

    run = start(folder, "resumed", {"lr": 0.8, "batch_size": 8, "data": "a"})
    for step in range(5):
        run.log({"train/loss": 5.0 - step}, step=step)
    run.summary["surge/status"] = "crashed"
    run.mark_preempting()
    run.finish(exit_code=143)
    run = start(folder, "resumed", {"lr": 0.8, "batch_size": 8, "data": "b"}, resume="allow")
    for step in range(3, 8):
        run.log({"train/loss": 50.0 - step}, step=step)
    run.finish()

    run = start(folder, "report", {"lr": 0.8, "batch_size": 8}, job_type="surge-report")
    run.log({"train/loss": 0.0})
    run.finish()


def chunk(kind: int, data: bytes) -> bytes:
    return struct.pack("<IHB", zlib.crc32(bytes([kind]) + data), len(data), kind) + data


def file_of(home: Path, run_id: str) -> Path:
    return min(home.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))


def collect(path: Path, **options: Any) -> LossCurves:
    return OfflineFolder().collect(str(path), ReadOptions(**{"step": "_step", **options}))


def losses(curves: LossCurves, run: str) -> list[tuple[int, float]]:
    points = curves.points[curves.points["run"] == run]
    return list(zip(points["step"], points["loss"], strict=True))


def said(curves: LossCurves, run: str | None) -> str:
    return " ".join(what for name, what in curves.problems if name == run)


def assert_same(one: OfflineFile, other: OfflineFile) -> None:
    for name in (
        "run_id",
        "entity",
        "project",
        "group",
        "job_type",
        "start_ms",
        "exit_code",
        "config",
        "summary",
        "rows",
    ):
        assert getattr(one, name) == getattr(other, name), name
    assert one.columns.keys() == other.columns.keys()
    for metric, column in one.columns.items():
        np.testing.assert_array_equal(column.row, other.columns[metric].row)
        np.testing.assert_array_equal(column.value, other.columns[metric].value)
    assert one.ending.kind == other.ending.kind


class TestTransactionLog:
    @pytest.fixture
    def whole(self, home: Path) -> bytes:
        """Blocks enough for a record of a first, two middle and a last chunk."""
        return file_of(home, "long").read_bytes()[: 8 * BLOCK]

    @pytest.fixture
    def log(self, tmp_path: Path) -> TransactionLog:
        return TransactionLog(tmp_path / "run.wandb")

    def test_a_whole_file_is_complete(self, home: Path) -> None:
        log = TransactionLog(file_of(home, "full"))
        records = list(log.records())
        assert len(records) > 20
        assert log.ending == ("complete", log.path.stat().st_size, "")

    def test_a_record_over_several_blocks_comes_whole(self, home: Path) -> None:
        log = TransactionLog(file_of(home, "long"))
        assert any(b"x" * 3 * BLOCK in record for record in log.records())

    def test_wherever_it_is_cut_the_records_before_are_read(self, whole: bytes, log: TransactionLog) -> None:
        log.path.write_bytes(whole)
        records = list(log.records())
        size = len(whole)
        near = [at + off for at in range(0, size, BLOCK) for off in range(-9, 20) if 0 <= at + off < size]
        counts = []
        for cut in sorted({*range(200), *near, *range(0, size, 997), *range(size - 60, size)}):
            log.path.write_bytes(whole[:cut])
            found = list(log.records())
            assert found == records[: len(found)]
            assert log.ending is not None
            assert log.ending.kind in ("torn", "complete")
            assert log.ending.byte <= cut
            counts.append(len(found))
        assert counts == sorted(counts)
        assert len(records) - counts[-1] < 3

    def test_wherever_a_byte_is_changed_what_stands_before_is_read(
        self, whole: bytes, log: TransactionLog
    ) -> None:
        log.path.write_bytes(whole)
        records = list(log.records())
        for at in [*range(7, 100), *range(100, len(whole), 1499)]:
            changed = bytearray(whole)
            changed[at] ^= 0x55
            log.path.write_bytes(changed)
            found = list(log.records())
            assert found == records[: len(found)]
            assert log.ending is not None
            # Bytes that fill up a block belong to no record.
            assert log.ending.byte <= at or BLOCK - at % BLOCK < 7
            assert log.ending.kind != "complete" or BLOCK - at % BLOCK < 7

    def test_a_wrong_checksum_is_named_with_its_place(self, whole: bytes, log: TransactionLog) -> None:
        changed = bytearray(whole)
        changed[20] ^= 1
        log.path.write_bytes(changed)
        assert list(log.records()) == []
        assert log.ending == ("corrupt", 7, "the checksum of the record at byte 7 is wrong")

    def test_zeros_in_place_of_blocks_end_the_file(self, whole: bytes, log: TransactionLog) -> None:
        log.path.write_bytes(whole[: 5 * BLOCK] + bytes(BLOCK) + whole[6 * BLOCK :])
        found = list(log.records())
        assert found
        assert log.ending is not None
        assert (log.ending.kind, log.ending.reason) == ("torn", "there are zeros instead of a record")
        assert 4 * BLOCK < log.ending.byte <= 5 * BLOCK

    @pytest.mark.parametrize("size", [0, 3, 6])
    def test_a_file_without_its_whole_header_is_torn(
        self, whole: bytes, log: TransactionLog, size: int
    ) -> None:
        log.path.write_bytes(whole[:size])
        assert list(log.records()) == []
        assert log.ending == ("torn", 0, "the header is not whole")

    @pytest.mark.parametrize(
        ("kinds", "reason"),
        [
            ((1, 3), "fits no record"),
            ((1, 4), "fits no record"),
            ((1, 2, 1), "fits no record"),
            ((1, 2, 3, 2), "fits no record"),
            ((1, 9), "fits no record"),
            ((1, 2, 3), "is not whole"),
        ],
    )
    def test_pieces_that_make_no_record_end_the_file(
        self, log: TransactionLog, kinds: tuple[int, ...], reason: str
    ) -> None:
        header = b":W&B\xe1\xbe\x00"
        log.path.write_bytes(header + b"".join(chunk(kind, b"data") for kind in kinds))
        assert list(log.records()) == [b"data"]
        assert log.ending is not None
        assert log.ending.byte == len(header) + len(chunk(1, b"data"))
        assert reason in log.ending.reason

    def test_a_record_longer_than_its_block_ends_the_file(self, log: TransactionLog) -> None:
        long = struct.pack("<IHB", 1, BLOCK - 7, 1)
        log.path.write_bytes(b":W&B\xe1\xbe\x00" + chunk(1, b"data") + long + bytes(2 * BLOCK))
        assert list(log.records()) == [b"data"]
        assert log.ending == ("corrupt", 18, "the record at byte 18 is longer than its block")

    def test_a_file_that_grows_is_read_further_each_time(self, whole: bytes, log: TransactionLog) -> None:
        log.path.write_bytes(whole[: 4 * BLOCK])
        before = list(log.records())
        with log.path.open("ab") as file:
            file.write(whole[4 * BLOCK :])
        after = list(log.records())
        assert len(after) > len(before)
        assert after[: len(before)] == before

    @pytest.mark.parametrize("content", [b"no such thing", b":W&B\x00\x00\x00rest", b":W&X"])
    def test_another_file_is_refused(self, log: TransactionLog, content: bytes) -> None:
        log.path.write_bytes(content)
        with pytest.raises(UnknownLogError, match=r"is no \.wandb file"):
            list(log.records())

    def test_another_version_is_refused(self, whole: bytes, log: TransactionLog) -> None:
        log.path.write_bytes(whole[:6] + b"\x01" + whole[7:])
        with pytest.raises(UnknownLogError, match="version 1"):
            list(log.records())


class TestOneFile:
    def test_what_the_run_was_and_how_it_ended(self, home: Path) -> None:
        file = read_offline_file(file_of(home, "full"))
        assert (file.run_id, file.entity, file.project, file.group, file.job_type) == (
            "full",
            "e",
            "p",
            "g",
            "train",
        )
        assert (file.exit_code, file.ending.kind, file.problems) == (0, "complete", ())
        assert file.summary == {"surge/start_loss": 1.5, "surge/status": "diverged"}
        assert file.start_ms is not None

    def test_later_changes_of_the_configuration_count(self, home: Path) -> None:
        config = read_offline_file(file_of(home, "full")).config
        expected = {
            "lr": 0.1,
            "batch_size": 8,
            "nothing": None,
            "later": 1e-5,
            "optim.name": "sgd",
            "optim.lr": 0.2,
        }
        assert dict(config) == expected

    def test_every_metric_is_a_column_and_what_is_no_number_is_not_there(self, home: Path) -> None:
        columns = read_offline_file(file_of(home, "full")).columns
        assert columns["train/loss"].value.tolist()[:2] == [1.0, 0.5]
        assert str(columns["train/loss"].value.tolist()[-3:]) == "[nan, inf, -inf]"
        assert columns["eval/loss"].row.tolist() == [0, 1, 2, 3, 4]
        assert columns["parts.a"].value.tolist() == [1, 2, 3, 4, 5]
        assert columns["_step"].value.tolist() == [1, 2, 3, 4, 5, 10, 11, 12]
        assert columns["count"].value.tolist() == [2.0**60]
        assert not {"text", "yes", "bars", "bars._type"} & columns.keys()

    @pytest.mark.parametrize("run", ["full", "long", "failed", "killed"])
    def test_the_official_reader_finds_the_same(self, home: Path, run: str) -> None:
        path = file_of(home, run)
        assert_same(decode(path), inspect(path))

    def test_a_torn_file_gives_the_same_with_both(self, home: Path, tmp_path: Path) -> None:
        whole = file_of(home, "long").read_bytes()
        (tmp_path / "run.wandb").write_bytes(whole[: len(whole) * 2 // 3])
        mine = decode(tmp_path / "run.wandb")
        assert 0 < mine.rows < 600
        assert mine.exit_code is None
        assert_same(mine, inspect(tmp_path / "run.wandb"))

    def test_an_unknown_version_is_left_to_the_official_reader_and_said(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = decode(file_of(home, "full"))
        monkeypatch.setattr(transaction_log, "VERSION", 7)
        other = read_offline_file(file_of(home, "full"))
        assert_same(mine, other)
        assert "has version 0" in other.problems[0]
        assert "read by `wandb leet inspect`" in other.problems[0]

    def test_a_client_without_its_schema_is_left_to_the_official_reader(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = decode(file_of(home, "full"))
        monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
        other = read_offline_file(file_of(home, "full"))
        assert_same(mine, other)
        assert "brings no schema" in other.problems[0]

    def test_a_file_that_neither_knows_is_an_error_with_a_next_step(self, home: Path, tmp_path: Path) -> None:
        whole = file_of(home, "full").read_bytes()
        (tmp_path / "run.wandb").write_bytes(whole[:6] + b"\x01" + whole[7:])
        with pytest.raises(TrackerError, match="newer wandb version") as caught:
            read_offline_file(tmp_path / "run.wandb")
        assert "Upgrade wandb" in caught.value.hint

    def test_a_file_that_is_gone_is_an_error_with_a_next_step(self, tmp_path: Path) -> None:
        with pytest.raises(TrackerError, match="cannot be read") as caught:
            read_offline_file(tmp_path / "run.wandb")
        assert "Check the path" in caught.value.hint

    def test_without_wandb_the_pip_line_is_named(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(MissingExtraError, match=r"surge-sweeps\[wandb\]"):
            read_offline_file(file_of(home, "full"))


class TestDecode:
    """Records that today's client does not write, made with its schema."""

    def record(self, item: dict[str, Any]) -> bytes:
        from wandb.proto import wandb_internal_pb2 as schema

        history = schema.HistoryRecord(item=[item, {"key": "eval", "value_json": "2"}], step={"num": 4})
        record = schema.Record(num=300, history=history)
        # Fields in another order: what comes first is not what the record is.
        body = record.SerializeToString()
        info = schema.Record(num=300, **{"uuid": "u"}).SerializeToString()
        return bytes(info[3:] + body[3:])

    def read(self, item: dict[str, Any]) -> Any:
        from wandb.proto import wandb_internal_pb2 as schema

        from surge_sweeps.trackers.wandb.offline.decode import _Decoder

        decoder = _Decoder(schema)
        decoder.read(self.record(item))
        return decoder

    @pytest.mark.parametrize(
        ("item", "value"),
        [
            ({"value_json": '"Infinity"'}, [math.inf]),
            ({"number": 0.25}, [0.25]),
            ({"integer": 3}, [3.0]),
            ({"text": "-Infinity"}, [-math.inf]),
            ({"boolean": True}, None),
            ({"json": "[1]"}, None),
            ({"value_json": "[1, 2]"}, None),
        ],
    )
    def test_every_form_of_a_value(self, item: dict[str, Any], value: list[float] | None) -> None:
        decoder = self.read({"key": "loss", **item})
        found = decoder.run.series.get("loss")
        assert (None if found is None else found[1].tolist()) == value
        assert decoder.run.series["_step"][1].tolist() == [4.0]
        assert decoder.unknown_values == 0

    def test_a_value_in_no_known_form_is_counted(self) -> None:
        assert self.read({"key": "loss"}).unknown_values == 1


class TestFolder:
    def test_the_folder_its_parent_a_run_a_link_and_a_file_all_lead_to_the_runs(self, home: Path) -> None:
        everything = collect(home)
        assert sorted(everything.runs["run"]) == ["failed", "full", "killed", "long", "resumed"]
        file = file_of(home, "long")
        for path in (home / "wandb", home.parent):
            assert collect(path).points.equals(everything.points)
        for path in (file.parent, file):
            assert losses(collect(path), "long") == losses(everything, "long")
        assert collect(home / "wandb" / "latest-run").runs["run"].tolist() == ["killed"]
        assert len(find_files(home)) == 7

    def test_runs_have_their_configuration_their_points_and_their_states(self, home: Path) -> None:
        curves = collect(home)
        runs = curves.runs.set_index("run")
        assert runs["lr"].to_dict() == {
            "failed": 0.4,
            "full": 0.1,
            "killed": 0.1,
            "long": 0.2,
            "resumed": 0.8,
        }
        assert runs["status"].to_dict() == {
            "failed": "crashed", "full": "diverged", "killed": "running", "long": "finished", "resumed": "finished",
        }  # fmt: skip
        assert runs.loc["full", ["optim.name", "optim.lr", "later", "start_loss"]].tolist() == [
            "sgd",
            0.2,
            1e-5,
            1.5,
        ]
        assert "nothing" not in runs
        assert losses(curves, "full")[:5] == [(step, 1 / step) for step in range(1, 6)]
        assert [step for step, _ in losses(curves, "full")[5:]] == [10, 11, 12]
        assert curves.points.loc[curves.points["run"] == "long", "examples"].tolist() == [
            8.0 * k for k in range(600)
        ]

    def test_a_resumed_run_is_one_and_the_later_of_two_points_counts(self, home: Path) -> None:
        curves = collect(home)
        assert losses(curves, "resumed") == [
            (0, 5.0),
            (1, 4.0),
            (2, 3.0),
            *((k, 50.0 - k) for k in range(3, 8)),
        ]
        assert curves.runs.set_index("run").loc["resumed", "data"] == "b"
        assert "2 points" in said(curves, "resumed")

    def test_a_killed_run_is_read_as_far_as_it_goes_and_an_old_one_is_stale(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        curves = collect(home)
        points = losses(curves, "killed")
        assert points == [(step, 1 / (step + 1)) for step in range(len(points))]
        assert points
        assert f"{len(points):,} rows could be read" in said(curves, "killed")
        now = assemble.time.time()
        monkeypatch.setattr(assemble.time, "time", lambda: now + 7200)
        assert collect(home).runs.set_index("run").loc["killed", "status"] == "stale"

    def test_names_of_the_users_own_are_found(self, home: Path) -> None:
        curves = collect(file_of(home, "full"), lr="optim.lr", loss="eval/loss")
        assert curves.runs["lr"].tolist() == [0.2]
        assert losses(curves, "full") == [(step, 2 / step) for step in range(1, 6)]
        with pytest.raises(UnknownNameError, match=r"optim\.lr"):
            collect(file_of(home, "full"), lr="optim.lrr")

    def test_a_copy_of_a_file_is_left_out_and_the_longer_one_kept(self, home: Path, tmp_path: Path) -> None:
        whole = file_of(home, "long").read_bytes()
        for folder, content in (("a", whole[: len(whole) // 2]), ("b", whole)):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "run-long.wandb").write_bytes(content)
        curves = collect(tmp_path)
        assert len(losses(curves, "long")) == 600
        assert "is a copy of" in said(curves, "long")

    def test_the_sweep_of_an_agents_run_is_kept_unless_the_run_names_its_own(self, home: Path) -> None:
        file = replace(read_offline_file(file_of(home, "failed")), sweep_id="w1")
        assert OfflineRuns(merge([file], [])).stored()[0].params["sweep_id"] == "w1"
        named = replace(file, config={**file.config, "sweep_id": "s1"})
        assert OfflineRuns(merge([named], [])).stored()[0].params["sweep_id"] == "s1"

    @pytest.mark.parametrize(("loss", "status"), [(math.nan, "diverged"), (1.0, "crashed")])
    def test_a_program_that_fails_at_a_nan_has_diverged(self, home: Path, loss: float, status: str) -> None:
        file = read_offline_file(file_of(home, "failed"))
        column = Column(np.array([0]), np.array([loss]))
        runs = merge([replace(file, columns={**file.columns, "train/loss": column})], [])
        assert OfflineRuns(runs).stored()[0].ended == status

    @pytest.mark.parametrize(
        ("name", "loss", "status"),
        [
            ("val_loss", math.nan, "diverged"),
            ("best_val_loss", math.inf, "crashed"),
            ("kl_loss", math.nan, "crashed"),
        ],
    )
    def test_only_the_loss_that_is_read_tells_that_a_failed_run_diverged(
        self, home: Path, name: str, loss: float, status: str
    ) -> None:
        file = read_offline_file(file_of(home, "failed"))
        row = np.arange(2)
        columns = {
            "val_loss": Column(row, np.array([2.0, 1.0])),
            "step": Column(row, row + 1.0),
        } | {name: Column(row, np.array([1.0, loss]))}
        source = OfflineRuns(merge([replace(file, columns={**file.columns, **columns})], []))
        assert (source.stored()[0].ended, source.stored()[0].failed) == ("crashed", True)
        origin = assemble.Origin("p", "memory", ("p",))
        curves = assemble.assemble(source.stored(), source, origin, ReadOptions(loss="val_loss", step="step"))
        assert curves.runs["status"].tolist() == [status]

    def test_the_same_id_in_two_projects_is_two_runs(self, home: Path) -> None:
        file = read_offline_file(file_of(home, "failed"))
        problems: list[Any] = []
        runs = merge([file, replace(file, project="q")], problems)
        assert list(runs) == ["e/p/failed", "e/q/failed"]
        assert "runs of 2 projects" in problems[0].what

    def test_files_that_are_no_runs_are_named_and_do_no_harm(self, home: Path, tmp_path: Path) -> None:
        shutil.copy(file_of(home, "long"), tmp_path / "long.wandb")
        (tmp_path / "other.wandb").write_text("something else")
        (tmp_path / "begun.wandb").write_bytes(file_of(home, "long").read_bytes()[:7])
        (tmp_path / "empty.wandb").touch()
        curves = collect(tmp_path)
        assert curves.runs["run"].tolist() == ["long"]
        for name, reason in (("other", "neither can"), ("begun", "nothing was written"), ("empty", "header")):
            assert any(f"{name}.wandb" in what and reason in what for _, what in curves.problems), name
        with pytest.raises(TrackerError, match=r"other\.wandb"):
            collect(tmp_path / "other.wandb")

    def test_progress_is_told_file_by_file(self, home: Path) -> None:
        told: list[tuple[float, float, str]] = []
        OfflineFolder(lambda *step: told.append(step)).collect(str(home), ReadOptions(step="_step"))
        assert [done for done, _, _ in told] == list(range(8))
        assert {(total, text) for _, total, text in told} == {(7, "reading 7 files of W&B runs")}

    def test_nothing_to_read_is_an_error_with_a_next_step(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(TrackerError, match="no W&B runs in") as caught:
                collect(path)
            assert "Give the folder" in caught.value.hint

    def test_what_is_a_folder_of_runs(self, home: Path, tmp_path: Path) -> None:
        assert is_offline_folder(home)
        assert is_offline_folder(home / "wandb" / "latest-run")
        assert is_offline_folder(file_of(home, "full"))
        assert not is_offline_folder(tmp_path)
        assert not is_offline_folder("entity/project")
        deep = tmp_path / "1" / "2" / "3" / "4"
        deep.mkdir(parents=True)
        (deep / "run.wandb").touch()
        assert not is_offline_folder(tmp_path)
        assert is_offline_folder(tmp_path / "1")

    def test_a_folder_that_links_to_itself_is_walked_once(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "runs").symlink_to(home)
        (tmp_path / "loop").symlink_to(tmp_path)
        assert len(find_files(tmp_path)) == 7
        assert offline_file.read_offline_file(find_files(tmp_path)[0]).run_id

    def test_the_local_copy_of_an_online_run_is_read_too(self, wandb_server: Any, tmp_path: Path) -> None:
        settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
        config = {"lr": 0.1, "batch_size": 8}
        run = wandb.init(project="p", id="online", dir=tmp_path, config=config, settings=settings)
        for step in range(3):
            run.log({"eval/loss": math.inf if step else 1.0}, step=step)
        run.finish()
        wandb.teardown()  # `finish` may return before the file is written
        curves = collect(tmp_path)
        assert losses(curves, "online") == [(0, 1.0), (1, math.inf), (2, math.inf)]
        assert curves.runs["status"].tolist() == ["diverged"]
        assert curves.problems == ()
