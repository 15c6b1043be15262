"""Runs that make room and go on: the same bits as without a break."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from kept_run import KeptRun, OpenedRun, StopAfter

from surge_sweeps.errors import TrainingError
from surge_sweeps.trackers.base import ResumableRun
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.checkpoint import Checkpoint, save_checkpoint
from surge_sweeps.training.preemption import Preempted, StopRequest, room_on_signals
from surge_sweeps.training.resume import checkpoint_path, train_resumable
from surge_sweeps.training.trace import log_steps
from surge_sweeps.training.workloads.digits import Digits

STEPS = 400  # so many that not all are logged


def reference(config: TrialConfig) -> dict[int, dict[str, float]]:
    (record,) = train([("t", config)], mode="loop")
    rows: dict[int, dict[str, float]] = {}
    for name, points in record.metrics.items():
        for step, value in points:
            rows.setdefault(step, {})[name] = value
    return rows


def settings(**changes: object) -> TrialConfig:
    plain: dict[str, object] = {"lr": 0.002, "batch_size": 8, "seed": 2, "max_steps": STEPS}
    return TrialConfig.from_parameters(plain | changes)


# The states of all of them are saved and read in test_optimizers.
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon", "soap", "sophia"])
def test_a_run_stopped_anywhere_goes_on_with_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    config, store = settings(optimizer=optimizer), KeptRun()
    path = checkpoint_path("given123", tmp_path)
    assert isinstance(store.open(), ResumableRun)
    assert 362 not in log_steps(STEPS)
    for steps in (0, 1, 17, 340):  # stops at the steps 1, 3, 21 and 362
        with pytest.raises(Preempted) as made_room:
            train_resumable(config, store.open(), path, StopAfter(steps))
        assert made_room.value.checkpoint == path
        assert path.exists()
    trace = train_resumable(config, store.open(), path, StopRequest())
    assert store.ends == ["preempted"] * 4 + ["finished"]
    assert trace.last_step == STEPS
    assert store.rows == reference(config)
    assert list(tmp_path.iterdir()) == []


def test_points_that_did_not_reach_the_store_are_logged_again(tmp_path: Path) -> None:
    config, store, path = settings(), KeptRun(), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(config, store.open(), path, StopAfter(30))
    for step in [step for step in store.rows if step > 11]:
        del store.rows[step]
    train_resumable(config, store.open(), path, StopRequest())
    assert store.rows == reference(config)


def test_without_its_state_a_run_starts_over_and_says_so(tmp_path: Path) -> None:
    config, store, path = settings(), KeptRun(), tmp_path / "x.pt"
    said: list[str] = []
    with pytest.raises(Preempted):
        train_resumable(config, store.open(), path, StopAfter(30), said.append)
    assert said == []
    path.unlink()
    train_resumable(config, store.open(), path, StopRequest(), said.append)
    assert len(said) == 1
    assert "starting over from step 0" in said[0]
    assert store.rows == reference(config)


def test_a_diverged_run_ends_as_ever(tmp_path: Path) -> None:
    config, store, path = settings(lr=1e25, optimizer="sgd"), KeptRun(), tmp_path / "x.pt"
    assert train_resumable(config, store.open(), path, StopRequest()).status == "diverged"
    assert store.ends == ["diverged"]
    assert [repr(sorted(row.items())) for row in store.rows.values()] == [
        repr(sorted(row.items())) for row in reference(config).values()
    ]


def test_a_branch_goes_on_as_one(tmp_path: Path, digits: Digits) -> None:
    model = digits.build_model("mlp", torch.Generator().manual_seed(5))
    save_checkpoint(tmp_path / "start.pt", Checkpoint(model.state_dict(), "digits", "mlp", 2.3, 0))
    config, store, path = settings(init_from=str(tmp_path / "start.pt")), KeptRun(), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(config, store.open(), path, StopAfter(99))
    trace = train_resumable(config, store.open(), path, StopRequest())
    assert store.rows == reference(config)
    (record,) = train([("t", config)], mode="loop")
    assert trace.summary() == dict(record.summary)
    assert set(trace.summary()) == {"start_checkpoint", "start_loss"}


def test_the_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    store, path = KeptRun(), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(settings(), store.open(), path, StopAfter(9))
    with pytest.raises(TrainingError, match="other settings"):
        train_resumable(settings(lr=0.1), store.open(), path, StopRequest())
    assert path.exists()
    assert store.ends == ["preempted", "crashed"]


def test_from_a_torn_state_a_run_starts_over_and_says_so(tmp_path: Path) -> None:
    config, path = settings(), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(config, KeptRun().open(), path, StopAfter(9))
    content = path.read_bytes()
    parts = torch.load(path, weights_only=True)
    del parts["optimizer"]
    torch.save(parts, tmp_path / "half.pt")
    half = (tmp_path / "half.pt").read_bytes()
    for broken in (content[:1000], content[:-100], b"", b"nothing", half):
        store = KeptRun()
        said: list[str] = []
        path.write_bytes(broken)
        train_resumable(config, store.open(), path, StopRequest(), said.append)
        assert len(said) == 1
        assert "torn, or of another version: starting over from step 0" in said[0]
        assert store.rows == reference(config)


def test_a_state_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    store = KeptRun()
    with pytest.raises(TrainingError, match="cannot be read: Is a directory"):
        train_resumable(settings(), store.open(), tmp_path, StopRequest())
    assert store.ends == ["crashed"]


def test_nothing_in_a_state_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "evil"),)

    said: list[str] = []
    torch.save({"format": 2, "settings": Evil()}, tmp_path / "x.pt")
    train_resumable(settings(), KeptRun().open(), tmp_path / "x.pt", StopRequest(), said.append)
    assert "torn" in said[0]
    assert not (tmp_path / "evil").exists()


class Killed(BaseException):
    """What a SIGKILL leaves of a run: nothing is closed."""


class KilledAt(OpenedRun):
    """A run whose process is gone at some step: neither it nor its state is touched after that."""

    def __init__(self, store: KeptRun, step: int) -> None:
        super().__init__(store)
        self.step = step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.step:
            self.done = True
            raise Killed
        super().log(step, values)


def test_a_killed_run_goes_on_from_its_last_state(tmp_path: Path) -> None:
    config, store, path = settings(), KeptRun(), tmp_path / "x.pt"
    with pytest.raises(Killed):
        train_resumable(config, KilledAt(store, 200), path, StopRequest(), every_minutes=1e-9)
    saved = torch.load(path, weights_only=True)
    assert 190 <= saved["step"] < 210  # the newest: one a step, as so little time is between them
    assert store.ends == []
    said: list[str] = []
    train_resumable(config, store.open(), path, StopRequest(), said.append)
    assert said == []
    assert store.rows == reference(config)
    assert not path.exists()


def test_states_are_saved_as_often_as_asked(tmp_path: Path) -> None:
    for minutes, is_there in ((0.0, False), (60.0, False), (1e-9, True)):
        path = tmp_path / f"{minutes}.pt"
        with pytest.raises(Killed):
            train_resumable(settings(), KilledAt(KeptRun(), 20), path, StopRequest(), every_minutes=minutes)
        assert path.exists() == is_there


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, less than one state."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_training_goes_on_and_making_room_is_refused(small_disk: Path) -> None:
    config, store, path = settings(), KeptRun(), small_disk / "x.pt"
    said: list[str] = []
    train_resumable(config, store.open(), path, StopRequest(), said.append, every_minutes=1e-9)
    assert len(said) == 1
    assert "is not saved, and training goes on: " in said[0]
    assert "No space left on device" in said[0]
    assert store.rows == reference(config)
    with pytest.raises(
        TrainingError, match=r"cannot make room: .* No space left on device\. Free space there"
    ):
        train_resumable(config, store.open(), path, StopAfter(3))
    assert store.ends == ["finished", "crashed"]
    assert list(small_disk.iterdir()) == []


def test_ids_from_a_server_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run_id in ("../../x", "/etc/x", "a" * 300, "", "x\0y"):
        assert checkpoint_path(run_id, tmp_path).resolve().parent == tmp_path.resolve()
    monkeypatch.setenv("SURGE_CHECKPOINT_DIR", "/shared")
    assert checkpoint_path("ab12") == Path("/shared/ab12.pt")
    monkeypatch.delenv("SURGE_CHECKPOINT_DIR")
    assert checkpoint_path("ab12") == Path(".surge/checkpoints/ab12.pt")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_ask_for_room_and_are_put_back(sent: signal.Signals) -> None:
    before = signal.getsignal(sent)
    with room_on_signals() as stop:
        assert not stop.requested
        signal.raise_signal(sent)
        assert stop.requested
    assert signal.getsignal(sent) == before
