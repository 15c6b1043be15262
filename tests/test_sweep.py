"""Sweep files: what is written is read back the same, and what cannot be right is refused with the mended line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.errors import SurgeError, SweepFileError, UnknownNameError
from surge_sweeps.sweep import Sweep, Trial, trial_id

TEXT = """
program: train.py
method: grid
metric: {name: eval/loss, goal: minimize}
parameters:
  optimizer: {value: adamw}
  lr: {values: [0.001, 0.01]}
  batch_size: {values: [8, 16, 32]}
  seed: {values: [0, 1]}
"""


@given(
    lr=st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=5, unique=True),
    batch=st.lists(st.integers(1, 2**30), min_size=1, max_size=4, unique=True),
    decay=st.floats(0, 1e6, allow_nan=False),
)
def test_values_survive_the_round_trip_through_yaml(lr: list[float], batch: list[int], decay: float) -> None:
    sweep = Sweep(
        lr=tuple(lr), batch_size=tuple(batch), seed=(0,), constants={"weight_decay": decay, "tag": "1.e5x"}
    )
    assert Sweep.from_yaml(sweep.to_yaml()) == sweep
    read = yaml.safe_load(sweep.to_yaml())["parameters"]
    assert read["lr"]["values"] == lr
    assert all(isinstance(value, float) for value in read["lr"]["values"])


def test_number_that_yaml_reads_as_text_is_refused_with_its_line_and_the_mended_one() -> None:
    with pytest.raises(SweepFileError) as caught:
        Sweep.from_yaml(TEXT.replace("[0.001, 0.01]", "[1e-3, 0.01]"))
    assert "line 7" in caught.value.what
    assert caught.value.hint == "Write: lr: {values: [0.001, 0.01]}"
    mended = TEXT.replace("lr: {values: [0.001, 0.01]}", caught.value.hint.removeprefix("Write: "))
    assert Sweep.from_yaml(mended).lr == (0.001, 0.01)


def test_constant_number_that_yaml_reads_as_text_is_refused_too() -> None:
    with pytest.raises(SweepFileError, match=r"value: 0\.0001"):
        Sweep.from_yaml(TEXT.replace("{value: adamw}", "{value: 1e-4}"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("method: grid", "method: bayes", "write 'method: grid'"),
        ("method: grid", "method: grid\nearly_terminate: {type: hyperband}", "biases"),
        ("method: grid", "method: grid\ntags: [a]", "unknown top-level key 'tags'"),
        ("  seed: {values: [0, 1]}\n", "", "'seed' is missing"),
        ("{values: [0, 1]}", "{min: 0, max: 1}", "must have 'values'"),
        ("{values: [8, 16, 32]}", "{values: [8, 8]}", "given twice"),
        ("{values: [8, 16, 32]}", "{values: [8.5]}", "whole numbers"),
        ("{values: [8, 16, 32]}", "{values: [0]}", "1 or more"),
        ("{values: [0.001, 0.01]}", "{values: [-0.1]}", "positive"),
        ("{values: [0.001, 0.01]}", "{values: [fast]}", "not all numbers"),
        ("{values: [0.001, 0.01]}", "{values: [true]}", "not all numbers"),
        ("{value: adamw}", "{values: [adamw, sgd]}", "Only lr, batch_size and seed may vary"),
        ("goal: minimize", "goal: maximize", "a loss to minimise"),
        ("metric: {name: eval/loss, goal: minimize}", "metric: val_loss", "a loss to minimise"),
        ("method: grid", "method: grid\nrun_cap: 5", "Remove the key run_cap"),
        ("[8, 16, 32]", "[1" + "0" * 400 + "]", "not all numbers"),
        ("program: train.py\n", "", "what to run"),
        (TEXT, "[1, 2]", "not a sweep"),
        (TEXT, "a: [", "not valid YAML"),
    ],
)
def test_what_is_not_a_surge_sweep_is_refused_with_the_reason(old: str, new: str, expected: str) -> None:
    with pytest.raises(SurgeError, match=expected):
        Sweep.from_yaml(TEXT.replace(old, new))


def test_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(SweepFileError, match="surge-sweep new"):
        Sweep.read(tmp_path / "none.yaml")


def test_trial_ids_are_stable_across_processes_order_and_notation() -> None:
    parameters = {"lr": 0.001, "batch_size": 8, "seed": 0, "optimizer": "adamw", "weight_decay": 0.0}
    code = f"from surge_sweeps.sweep import trial_id; print(trial_id({dict(reversed(parameters.items()))!r}))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert trial_id(parameters) == other == trial_id({**parameters, "weight_decay": 0})


def test_every_trial_has_its_own_id_and_the_seed_is_part_of_it() -> None:
    trials = Sweep.from_yaml(TEXT).trials()
    assert len({trial.trial_id for trial in trials}) == len(trials) == 12


def test_sweep_id_ignores_the_name_and_feels_every_parameter() -> None:
    sweep = Sweep.from_yaml(TEXT)
    assert sweep.sweep_id == Sweep.from_yaml(TEXT + "name: other\n").sweep_id
    assert sweep.sweep_id != Sweep.from_yaml(TEXT.replace("[0, 1]", "[0, 2]")).sweep_id


def test_cost_is_known_before_anything_runs() -> None:
    sweep = Sweep(
        lr=(0.1, 0.2), batch_size=(10, 100), seed=(0,), constants={"max_steps": 50, "max_examples": 1000}
    )
    # batch 10: 50 steps = 500 examples bind; batch 100: 1,000 examples bind.
    assert sweep.cost_examples() == 2 * (500 + 1000)
    assert Sweep.from_yaml(TEXT).cost_examples() is None
    assert Trial({"lr": 1.0, "batch_size": 3, "seed": 0, "max_examples": 10}).cost_examples == 12


def test_other_top_level_keys_of_wandb_are_kept() -> None:
    assert Sweep.from_yaml(Sweep.from_yaml(TEXT + "project: p\n").to_yaml()).extra == {"project": "p"}


def test_unknown_key_lists_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Sweep.from_yaml(TEXT + "paramters: {}\n")
    assert "parameters" in caught.value.hint
