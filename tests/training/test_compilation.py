"""Compiled steps: the same run to rounding, evaluated without, and refused in a sentence where they cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_run import KeptRun, StopAfter
from training.test_precision import config as plain_config
from training.workloads.miniatures import write_miniature

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.compilation import compiled
from surge_sweeps.training.optimizers import build_optimizer
from surge_sweeps.training.preemption import Preempted, StopRequest
from surge_sweeps.training.preflight import check_data
from surge_sweeps.training.resume import train_resumable
from surge_sweeps.training.session import Setup, open_session
from surge_sweeps.training.steps import Steps
from surge_sweeps.training.workloads.digits import Digits

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("data")
    write_miniature("tinyshakespeare", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGE_DATA_DIR", str(folder))
        patch.setenv("SURGE_CACHE_DIR", str(folder / "cache"))
        yield
    torch.compiler.reset()


def config(name: str = "digits-mlp", **given: object) -> TrialConfig:
    return plain_config(name, **{"lr": 1e-3, "compile": "inductor", **given})


def test_a_compiled_run_is_the_same_run_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_model, calls = torch.compile, []

    def counted(model: Any, **named: Any) -> Any:
        fused = compile_model(model, **named)
        if isinstance(fused, torch.nn.Module):
            fused.register_forward_hook(lambda *_: calls.append(fused))
        return fused

    monkeypatch.setattr(torch, "compile", counted)
    fused, plain = train([("t", config()), ("t", config(compile="eager"))], mode="loop")
    assert len(calls) == 3
    for metric in ("eval/loss", "train/loss"):
        theirs = [value for _, value in plain.metrics[metric]]
        assert [value for _, value in fused.metrics[metric]] == pytest.approx(theirs, rel=1e-4), metric
    # The evaluation before the first step is not compiled.
    assert fused.metrics["eval/loss"][0] == plain.metrics["eval/loss"][0]
    assert (fused.config["compile"], plain.config["compile"]) == ("inductor", "eager")


def test_batchnorm_trains_and_is_evaluated_as_without(digits: Digits) -> None:
    evaluations = []
    for compile in ("inductor", "eager"):
        torch.manual_seed(0)
        norm = torch.nn.BatchNorm1d(64)
        network = torch.nn.Sequential(torch.nn.Flatten(), norm, torch.nn.Linear(64, 10))
        optimizer = build_optimizer("sgd", network, 0.1, {})
        steps = Steps(digits, network, optimizer, compile=compile)
        evaluations.append([])
        for step in range(3):
            evaluations[-1].append(steps.evaluate())
            steps.step(torch.arange(8 * step, 8 * step + 8))
        evaluations[-1] += [steps.evaluate(), *norm.running_mean[:5].tolist()]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-4)
    assert evaluations[0][0] == evaluations[1][0] > evaluations[0][3]


def test_every_trial_of_a_process_is_compiled_however_many_there_are() -> None:
    trials = [("t", config(lr=lr, max_steps=1)) for lr in (1e-3, 2e-3, 3e-3)]
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        assert [record.status for record in train(trials)] == ["finished"] * 3


def test_micro_batches_are_compiled_too() -> None:
    gradients = []
    for size in (8, 4):
        session = open_session(config(), Setup(micro_batch_size=size))
        assert session.steps.step(torch.arange(8)).shape == (1,)
        gradients.append(
            torch.cat([p.grad.flatten() for p in session.model.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    halves, whole = KeptRun(), KeptRun()
    settings = config(max_steps=20)
    with pytest.raises(Preempted):
        train_resumable(settings, halves.open(), tmp_path / "x.pt", StopAfter(7))
    train_resumable(settings, halves.open(), tmp_path / "x.pt", StopRequest())
    train_resumable(settings, whole.open(), tmp_path / "y.pt", StopRequest())
    assert halves.rows == whole.rows
    assert len(whole.rows) == 21


def test_what_cannot_be_compiled_is_told() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown compile 'on'. Valid: eager, inductor"):
        config(compile="on")
    with pytest.raises(TrainingError, match="'sophia' looks into the backward pass"):
        config(optimizer="sophia")
    with pytest.raises(TrainingError, match="an ensemble is not compiled"):
        train([("t", config(lr=lr)) for lr in (0.1, 0.2)], mode="ensemble")
    with pytest.raises(TrainingError, match="compiled anew at every batch"):
        check_data([config("text-moe")], is_here=True)


def test_without_a_compiler_a_sentence_says_so(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "surge_sweeps.training", "--lr=0.1", "--batch_size=8", "--max_steps=2"]
    done = subprocess.run(
        [*command, "--compile=inductor", "--tracker=files", "--project=runs"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "torch cannot compile here" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "g++" in done.stderr


def test_nothing_is_compiled_unless_it_is_asked_for() -> None:
    layer = torch.nn.Linear(2, 2)
    assert compiled(layer, None) is layer
    assert compiled(layer, "eager") is layer
    assert "compile" not in TrialConfig(lr=0.1, batch_size=8, max_steps=2).record()
