"""A sweep file that was edited after its launch changes nothing behind anyone's back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from surge_sweeps.errors import SweepFileError
from surge_sweeps.launch.frozen import freeze, read_frozen
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Sweep

SWEEP = Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0,), constants={"max_steps": 10}, name="mine")


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Target.of("project", "mlflow")


def launched(file: Path, sweep: Sweep, target: Target) -> None:
    sweep.write(file)
    freeze(file, target, sweep)


def test_a_file_that_was_never_launched_is_read_as_it_is(target: Target) -> None:
    file = Path("mine.yaml")
    SWEEP.write(file)
    assert read_frozen(file, target) == (SWEEP, [])


def test_the_plan_as_launched_wins_and_the_difference_is_named(target: Target) -> None:
    file = Path("mine.yaml")
    launched(file, SWEEP, target)
    replace(SWEEP, lr=(0.2, 0.4), constants={"max_steps": 10, "model": "cnn"}).write(file)
    sweep, changes = read_frozen(file, target)
    assert sweep.trials() == SWEEP.trials()
    assert changes == ["lr: 0.4 added, 0.1 removed", "model: unset is now cnn"]


def test_asked_for_anew_the_file_counts(target: Target) -> None:
    file = Path("mine.yaml")
    launched(file, SWEEP, target)
    changed = replace(SWEEP, seed=(0, 1))
    changed.write(file)
    assert read_frozen(file, target, anew=True) == (changed, [])
    assert read_frozen(file, target).changes
    freeze(file, target, changed)
    assert read_frozen(file, target) == (changed, [])


def test_another_project_has_a_plan_of_its_own(target: Target) -> None:
    file = Path("mine.yaml")
    launched(file, SWEEP, target)
    changed = replace(SWEEP, seed=(0, 1))
    changed.write(file)
    assert read_frozen(file, Target.of("other", "mlflow")) == (changed, [])


def test_a_new_name_is_no_change_of_the_trials(target: Target) -> None:
    file = Path("mine.yaml")
    launched(file, SWEEP, target)
    renamed = replace(SWEEP, name="new")
    renamed.write(file)
    assert read_frozen(file, target) == (renamed, [])


def test_a_torn_plan_is_named(target: Target) -> None:
    file = Path("mine.yaml")
    launched(file, SWEEP, target)
    (kept,) = (target.working_folder / ".surge" / "plans").iterdir()
    kept.write_text("lr: [")
    with pytest.raises(SweepFileError, match=kept.name):
        read_frozen(file, target)


def test_what_a_plan_says_of_its_store_holds_no_secret(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Target.of("p", "mlflow", "http://team:5000").uri == "http://team:5000"
    secret = "postgresql://me:hunter2@host/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert Target.of("p", "mlflow", secret).uri is None
    import os

    assert os.environ["MLFLOW_TRACKING_URI"] == secret
