"""What 16 bits change and what they leave, and steps that never wait for the device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_run import KeptRun, StopAfter
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from training.workloads.miniatures import write_miniature

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.trackers import collect
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.devices import CPU
from surge_sweeps.training.precision import computing_in
from surge_sweeps.training.preemption import Preempted, StopRequest
from surge_sweeps.training.resume import train_resumable
from surge_sweeps.training.session import Setup, open_session
from surge_sweeps.training.stacked import StackedReplicas
from surge_sweeps.training.trainer import Mode
from surge_sweeps.training.workloads import load_workload
from surge_sweeps.training.workloads.token_loss import token_cross_entropy

#: Products of numbers that are each off by up to 2**-9, and what a few steps make of them.
ROUNDING = 0.02
SMALL_TEXT = {
    "workload": "text",
    "data": "tinyshakespeare",
    "sequence_length": 16,
    "layers": 1,
    "width": 16,
    "heads": 2,
}
EXPERTS = {"experts": 4, "shared_experts": 1, "experts_per_token": 2}
MODELS: dict[str, Mapping[str, Any]] = {
    "digits-mlp": {},
    "digits-cnn": {"model": "cnn"},
    "teacher-mlp": {"workload": "teacher"},
    "images-cnn": {"workload": "images", "data": "fashion-mnist", "model": "cnn"},
    "images-resnet18": {"workload": "images", "data": "cifar10", "model": "resnet18"},
    "text-gpt": {**SMALL_TEXT, "model": "gpt"},
    "text-moe": {**SMALL_TEXT, "model": "moe", **EXPERTS},
}


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Miniatures of the data sets, kept for all tests of this file."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("fashion-mnist", "cifar10", "tinyshakespeare"):
        write_miniature(name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGE_DATA_DIR", str(folder))
        patch.setenv("SURGE_CACHE_DIR", str(folder / "cache"))
        yield


def config(name: str = "digits-mlp", **given: object) -> TrialConfig:
    plain: dict[str, object] = {"lr": 1e-4, "batch_size": 8, "max_steps": 3}
    return TrialConfig.from_parameters({**plain, **MODELS[name], **given})


def losses(record: RunRecord, metric: str = "eval/loss") -> list[float]:
    return [value for _, value in record.metrics[metric]]


def both(name: str, mode: Mode = "loop", **given: object) -> tuple[RunRecord, RunRecord]:
    """The same run in 32 and in 16 bits."""
    plain, half = train(
        [("t", config(name, precision=precision, **given)) for precision in ("fp32", "bf16")], mode=mode
    )
    return plain, half


@pytest.mark.parametrize("name", MODELS)
def test_a_run_in_16_bits_is_the_same_run_to_rounding(name: str) -> None:
    plain, half = both(name)
    for metric in plain.metrics:
        if metric in ("eval/loss", "train/loss", "train/balance_loss"):
            assert losses(half, metric) == pytest.approx(losses(plain, metric), rel=ROUNDING), metric
    # The evaluation before the first step computes in it too, and so does every step.
    assert losses(half)[0] != losses(plain)[0]
    assert losses(half, "train/loss") != losses(plain, "train/loss")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", ["adamw", "sophia"])
def test_parameters_gradients_and_state_keep_32_bits(name: str, optimizer: str) -> None:
    session = open_session(config(name, optimizer=optimizer, precision="bf16"), Setup())
    taken = session.steps.step(torch.arange(8))
    assert taken.dtype == torch.float32
    states = session.optimizer.state_dict()["state"].values()
    values = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    for tensor in (*session.model.parameters(), *(p.grad for p in session.model.parameters()), *values):
        assert tensor is None or tensor.dtype in (torch.float32, torch.int64)
    assert any(value.ndim > 0 for value in values)


def test_32_bits_by_name_are_the_default() -> None:
    by_default, by_name = train([("t", config()), ("t", config(precision="fp32"))], mode="loop")
    assert by_default.metrics == by_name.metrics
    assert "precision" not in by_default.config
    assert (by_name.config["precision"], config(precision="bf16").record()["precision"]) == ("fp32", "bf16")


def test_a_wrong_precision_lists_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"precision 'fp16'.*bf16, fp32"):
        config(precision="fp16")
    with pytest.raises(TrainingError, match="precision is 16"):
        config(precision=16)


def test_the_loss_of_tokens_keeps_32_bits() -> None:
    """Of logits that have 16, as accurate as torch's own of the same logits in 64; so is its gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(3, 50, 5000, generator=generator)).bfloat16().requires_grad_()
    targets = torch.randint(5000, (3, 50), generator=generator)
    with computing_in("bf16", CPU):
        loss = token_cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    exact = logits.detach().double().requires_grad_()
    expected = functional.cross_entropy(exact.flatten(0, 1), targets.flatten())
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    # Its last step rounds it to the 16 bits of the logits.
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2**-8, atol=1e-12)


@pytest.mark.parametrize("name", ["digits-mlp", "teacher-mlp", "text-gpt", "text-moe"])
def test_micro_batches_give_the_gradient_of_the_whole(name: str) -> None:
    gradients = []
    for size in (8, 2):
        session = open_session(config(name, precision="bf16"), Setup(micro_batch_size=size))
        session.steps.step(torch.arange(8))
        gradients.append(
            torch.cat([p.grad.flatten() for p in session.model.parameters() if p.grad is not None])
        )
    whole, summed = gradients
    assert (whole - summed).norm() < ROUNDING * whole.norm()
    assert not torch.equal(whole, torch.zeros_like(whole))


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    halves, whole = KeptRun(), KeptRun()
    settings, path = config(precision="bf16", max_steps=30), tmp_path / "x.pt"
    with pytest.raises(Preempted):
        train_resumable(settings, halves.open(), path, StopAfter(11))
    with pytest.raises(TrainingError, match="other settings"):
        train_resumable(config(max_steps=30), KeptRun().open(), path, StopRequest())
    train_resumable(settings, halves.open(), path, StopRequest())
    train_resumable(settings, whole.open(), tmp_path / "y.pt", StopRequest())
    assert halves.rows == whole.rows
    assert len(whole.rows) == 31


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn", "teacher-mlp", "images-cnn"])
def test_an_ensemble_in_16_bits_is_the_loop_to_rounding(name: str) -> None:
    trials = [
        ("t", config(name, precision="bf16", lr=lr, seed=seed)) for lr in (1e-3, 3e-3) for seed in (0, 1)
    ]
    for stacked, alone in zip(train(trials, mode="ensemble"), train(trials, mode="loop"), strict=True):
        assert losses(stacked) == pytest.approx(losses(alone), rel=ROUNDING)
        assert losses(stacked)[0] == losses(alone)[0]


@pytest.mark.slow
def test_two_processes_train_the_same_run(tmp_path: Path) -> None:
    flags = ["--lr=0.003", "--batch_size=8", "--max_steps=5", "--precision=bf16", "--device=cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    curves = []
    for folder, start in (("one", []), ("two", launcher)):
        place = tmp_path / folder
        place.mkdir()
        subprocess.run(
            [
                sys.executable,
                *start,
                "-m",
                "surge_sweeps.training",
                *flags,
                "--tracker=files",
                "--project=runs",
            ],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
            cwd=place,
            check=True,
            timeout=300,
        )
        curves.append(collect(str(place / "runs"), tracker="files").points)
    one, two = curves
    assert one["step"].tolist() == two["step"].tolist() == list(range(6))
    assert two["loss"].tolist() == pytest.approx(one["loss"].tolist(), rel=ROUNDING)


#: Operations that need a value, or a shape that depends on values, on the host: a GPU is waited for.
_WAITING = (
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.equal,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten.bincount,
    torch.ops.aten._unique2,
    torch.ops.aten.unique_dim,
    torch.ops.aten.unique_consecutive,
)
_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class NeverWaits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails at whatever would wait for a GPU, on any device."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        packet = func.overloadpacket
        by_mask = packet in _INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        assert packet not in _WAITING, f"a step waits for the device: {func}"
        assert not by_mask, f"a step waits for the device: {func} with a mask"
        return func(*args, **(kwargs or {}))


def never_waits() -> NeverWaits:
    return NeverWaits()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "waits",
    [Tensor.item, float, bool, int, Tensor.nonzero, lambda t: torch.ones(1)[t > 0]],
)
def test_what_waits_is_seen(waits: Any) -> None:
    value = torch.ones(1)
    with never_waits(), pytest.raises(AssertionError, match="waits for the device"):
        waits(value)


@pytest.mark.parametrize("optimizer", ["adamw", "sign"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "images-resnet18"])
def test_a_step_does_not_wait_for_the_device(name: str, precision: str, optimizer: str) -> None:
    for cut in (8, 4):
        settings = config(name, optimizer=optimizer, precision=precision)
        steps = open_session(settings, Setup(micro_batch_size=cut)).steps
        for _ in range(2):  # the first makes the optimizer's state
            with never_waits():
                measured = steps.step(torch.arange(8))
        assert measured.isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_an_ensemble_does_not_wait_for_the_device(precision: str) -> None:
    settings = config("digits-cnn", precision=precision)
    workload = load_workload(settings.workload, settings.settings)
    models = [workload.build_model("cnn", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    stack = StackedReplicas(workload, models, [settings, settings])
    for _ in range(2):
        with never_waits():
            measured = stack.step(torch.arange(16).view(2, 8), torch.arange(2), lr_multiplier=0.5)
    assert measured.isfinite().all()
