"""Runs that make room and go on: the same bits as without a break."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from surge_sweeps.curves import Status
from surge_sweeps.errors import TrainingError
from surge_sweeps.trackers.base import ResumableRun, Scalar
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.checkpoint import Checkpoint, save_checkpoint
from surge_sweeps.training.optimizers import OPTIMIZERS
from surge_sweeps.training.preemption import Preempted, StopRequest, room_on_signals
from surge_sweeps.training.resume import checkpoint_path, train_resumable
from surge_sweeps.training.trace import log_steps
from surge_sweeps.training.workloads.digits import Digits

STEPS = 400  # so many that not all are logged


class Store:
    """One run as a server keeps it, whoever fills it."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.ends: list[str] = []

    def open(self) -> Opened:
        return Opened(self)


class Opened:
    run_id = "given123"

    def __init__(self, store: Store) -> None:
        self.store = store
        self.logged_step = max(store.rows, default=-1)
        self.done = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self.logged_step:
            assert step not in self.store.rows
            self.store.rows[step] = dict(values)

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        self.end(status)

    def preempt(self) -> None:
        self.end("preempted")

    def end(self, how: str) -> None:
        if not self.done:
            self.store.ends.append(how)
        self.done = True


class StopAfter(StopRequest):
    """Asks for room after some looks at it, one a step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.steps -= 1
        return self.steps < 0


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


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_run_stopped_anywhere_goes_on_with_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    config, store = settings(optimizer=optimizer), Store()
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
    config, store, path = settings(), Store(), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(config, store.open(), path, StopAfter(30))
    for step in [step for step in store.rows if step > 11]:
        del store.rows[step]
    train_resumable(config, store.open(), path, StopRequest())
    assert store.rows == reference(config)


def test_without_its_state_a_run_starts_over_and_says_so(tmp_path: Path) -> None:
    config, store, path, said = settings(), Store(), tmp_path / "x.pt", []
    with pytest.raises(Preempted):
        train_resumable(config, store.open(), path, StopAfter(30), said.append)
    assert said == []
    path.unlink()
    train_resumable(config, store.open(), path, StopRequest(), said.append)
    assert len(said) == 1
    assert "starting over from step 0" in said[0]
    assert store.rows == reference(config)


def test_a_diverged_run_ends_as_ever(tmp_path: Path) -> None:
    config, store, path = settings(lr=1e25, optimizer="sgd"), Store(), tmp_path / "x.pt"
    assert train_resumable(config, store.open(), path, StopRequest()).status == "diverged"
    assert store.ends == ["diverged"]
    assert [repr(sorted(row.items())) for row in store.rows.values()] == [
        repr(sorted(row.items())) for row in reference(config).values()
    ]


def test_a_branch_goes_on_as_one(tmp_path: Path, digits: Digits) -> None:
    model = digits.build_model("mlp", torch.Generator().manual_seed(5))
    save_checkpoint(tmp_path / "start.pt", Checkpoint(model.state_dict(), "digits", "mlp", 2.3, 0))
    config, store, path = settings(init_from=str(tmp_path / "start.pt")), Store(), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(config, store.open(), path, StopAfter(99))
    trace = train_resumable(config, store.open(), path, StopRequest())
    assert store.rows == reference(config)
    (record,) = train([("t", config)], mode="loop")
    assert trace.summary() == dict(record.summary)
    assert set(trace.summary()) == {"start_checkpoint", "start_loss"}


def test_the_state_of_other_settings_or_a_torn_one_is_refused(tmp_path: Path) -> None:
    store, path = Store(), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(settings(), store.open(), path, StopAfter(9))
    with pytest.raises(TrainingError, match="other settings"):
        train_resumable(settings(lr=0.1), store.open(), path, StopRequest())
    content = path.read_bytes()
    for broken in (content[:1000], b"", b"nothing"):
        path.write_bytes(broken)
        with pytest.raises(TrainingError, match="torn"):
            train_resumable(settings(), store.open(), path, StopRequest())
    assert store.ends == ["preempted"] + ["crashed"] * 4


def test_nothing_in_a_state_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"format": 1, "settings": Evil()}, tmp_path / "x.pt")
    with pytest.raises(TrainingError, match="torn"):
        train_resumable(settings(), Store().open(), tmp_path / "x.pt", StopRequest())
    assert not (tmp_path / "evil").exists()


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
