"""Micro-batches: the same steps as with the whole batch at once, and smaller ones where memory runs out."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kept_run import KeptRun
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.training import TrialConfig
from surge_sweeps.training.batch_statistics import batch_statistics_layers
from surge_sweeps.training.data_order import DataOrder
from surge_sweeps.training.evaluation import Evaluator, evaluate
from surge_sweeps.training.memory import is_out_of_memory
from surge_sweeps.training.micro_batches import MicroBatches, cut_batch
from surge_sweeps.training.optimizers import OPTIMIZERS, build_optimizer
from surge_sweeps.training.preemption import Preempted, StopRequest
from surge_sweeps.training.resume import train_resumable
from surge_sweeps.training.session import Setup
from surge_sweeps.training.steps import Steps
from surge_sweeps.training.workloads import digits as digits_module
from surge_sweeps.training.workloads.digits import Digits

BATCH = 64
GPU_WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB."
HOST_WORDS = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)


class Narrow(nn.Module):
    """A model for which memory holds few examples.

    Args:
        limit: examples that it holds. error: what torch raises beyond. from_call: holds all before this call.
    """

    def __init__(
        self, inner: nn.Module, limit: int, error: Callable[[], Exception], from_call: int = 0
    ) -> None:
        super().__init__()
        self.inner = inner
        self.limit = limit
        self.error = error
        self.calls = -from_call
        self.largest = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 0 and len(inputs) > self.limit:
            raise self.error()
        if self.calls > 0:
            self.largest = max(self.largest, len(inputs))
        outputs: Tensor = self.inner(inputs)
        return outputs


def gpu_error() -> Exception:
    return torch.OutOfMemoryError(GPU_WORDS)


def host_error() -> Exception:
    return RuntimeError(HOST_WORDS)


def fresh(workload: Digits, name: str = "mlp") -> nn.Module:
    return workload.build_model(name, torch.Generator().manual_seed(3))


def trained(
    workload: Digits, model: nn.Module, optimizer: str, cut: MicroBatches | None, steps: int = 12
) -> tuple[list[float], list[Tensor], Steps]:
    """Losses, parameters and the steps after some of them."""
    lr = {"sgd": 0.3, "momentum": 0.05, "adagrad": 0.02}.get(optimizer, 0.002)
    stepper = build_optimizer(optimizer, model.parameters(), lr, {})
    taken = Steps(workload, model, stepper, cut)
    order = DataOrder(workload.train_examples, 1)
    losses = [float(taken.step(batch)) for batch in order.batches(0, steps, BATCH)]
    return losses, [parameter.detach() for parameter in model.parameters()], taken


# Of gradients in fewer directions than a matrix has rows SOAP takes eigenvectors that only rounding decides.
@pytest.mark.parametrize(
    "optimizer", sorted(name for name, spec in OPTIMIZERS.items() if spec.can_accumulate and name != "soap")
)
@pytest.mark.parametrize("size", [1, 16])
def test_steps_are_those_of_the_whole_batch(exact_digits: Digits, optimizer: str, size: int) -> None:
    whole_losses, whole, _ = trained(exact_digits, fresh(exact_digits), optimizer, None)
    losses, parameters, _ = trained(exact_digits, fresh(exact_digits), optimizer, cut_batch(BATCH, size))
    # Muon rounds to 8 bits within each step, so that the last digit of a gradient may change its step.
    relative, absolute = (2e-2, 2e-2) if optimizer == "muon" else (1e-9, 1e-11)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(whole_losses), rtol=relative, atol=0)
    torch.testing.assert_close(parameters, whole, rtol=relative, atol=absolute)


def test_the_gradient_is_that_of_the_whole_batch(exact_digits: Digits) -> None:
    indices = DataOrder(exact_digits.train_examples, 1).batches(0, 1, BATCH)[0]
    gradients = []
    for cut in (None, cut_batch(BATCH, 4)):
        model = fresh(exact_digits, "cnn")
        Steps(exact_digits, model, torch.optim.SGD(model.parameters(), lr=0.0), cut).step(indices)
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_a_cut_that_changes_nothing_keeps_the_bits(digits: Digits) -> None:
    whole = trained(digits, fresh(digits), "adamw", None)
    same = trained(digits, fresh(digits), "adamw", cut_batch(BATCH, BATCH))
    assert whole[0] == same[0]
    assert all(torch.equal(a, b) for a, b in zip(whole[1], same[1], strict=True))
    assert same[2].summary() == {}


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 8))
def test_cuts_multiply_to_the_batch_or_are_refused_with_ones_that_do(
    batch_size: int, wanted: int, processes: int
) -> None:
    try:
        cut = cut_batch(batch_size, wanted, processes)
    except TrainingError as error:
        words = error.hint.rstrip(".").replace(" processes", "").split()
        for number in (int(word) for word in words if word.isdigit()):
            if batch_size % processes:
                assert cut_batch(batch_size, None, number).batch_size == batch_size
            else:
                assert cut_batch(batch_size, number, processes).size == number
        return
    assert cut.size * cut.accumulation * cut.processes == batch_size
    assert cut.size == min(wanted, batch_size // processes)
    while (smaller := cut.halved()) is not None:
        assert smaller.size <= cut.size / 2
        assert smaller.batch_size == batch_size
        cut = smaller
    assert cut.size == 1


@pytest.mark.parametrize("error", [gpu_error, host_error])
@pytest.mark.parametrize("from_call", [0, 9])
def test_out_of_memory_halves_and_does_the_step_again(
    exact_digits: Digits, error: Callable[[], Exception], from_call: int
) -> None:
    losses, parameters, _ = trained(exact_digits, fresh(exact_digits), "adamw", None)
    narrow = Narrow(fresh(exact_digits), 20, error, from_call)
    said: list[str] = []
    stepper = build_optimizer("adamw", narrow.parameters(), 0.002, {})
    steps = Steps(exact_digits, narrow, stepper, cut_batch(BATCH), say=said.append)
    order = DataOrder(exact_digits.train_examples, 1)
    again = [float(steps.step(batch)) for batch in order.batches(0, 12, BATCH)]
    torch.testing.assert_close(torch.tensor(again), torch.tensor(losses), rtol=1e-9, atol=0)
    torch.testing.assert_close([p.detach() for p in narrow.parameters()], parameters, rtol=1e-9, atol=1e-11)
    assert narrow.largest == 16
    assert steps.summary() == {"micro_batch_size": 16, "accumulation": 4, "world_size": 1}
    assert said == [
        "out of memory: going on with micro-batches of 32 examples instead of 64, accumulation 2 instead of 1.",
        "out of memory: going on with micro-batches of 16 examples instead of 32, accumulation 4 instead of 2.",
    ]


def test_other_errors_are_not_taken_for_it(digits: Digits) -> None:
    narrow = Narrow(fresh(digits), 20, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        trained(digits, narrow, "sgd", cut_batch(BATCH))


def test_where_no_example_fits_the_way_out_is_told(digits: Digits) -> None:
    narrow = Narrow(fresh(digits), 0, gpu_error)
    with pytest.raises(
        TrainingError, match=r"does not hold the training of a single example\. Give the trial"
    ):
        trained(digits, narrow, "sgd", cut_batch(BATCH))
    with pytest.raises(TrainingError, match="evaluation of a single example"):
        evaluate(digits, narrow)


def test_an_optimizer_without_room_for_its_state_is_told(digits: Digits) -> None:
    class Greedy(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            raise gpu_error()

    model = fresh(digits)
    steps = Steps(digits, model, Greedy(model.parameters(), lr=0.1), cut_batch(2))
    with pytest.raises(TrainingError, match="together with the optimizer's state"):
        steps.step(torch.tensor([0, 1]))


def test_evaluation_in_parts_is_the_same_loss(exact_digits: Digits) -> None:
    model = fresh(exact_digits)
    narrow = Narrow(model, 100, host_error)
    evaluator = Evaluator(exact_digits, narrow)
    whole = evaluate(exact_digits, model)
    assert evaluator() == pytest.approx(whole, rel=1e-12)
    assert evaluator.examples_at_once == 90  # of 360: 90 + 90 + 90 + 90
    failed = narrow.calls
    evaluator()
    assert narrow.calls == failed + 4  # what did not fit is not tried again
    evaluator.examples_at_once = 100  # does not divide
    assert evaluator() == pytest.approx(whole, rel=1e-12)
    assert model.training


class WithBatchNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def test_batch_statistics_are_told_and_recorded(digits: Digits) -> None:
    torch.manual_seed(0)
    model = WithBatchNorm()
    assert batch_statistics_layers(model) == ("2",)
    for cut, words in ((cut_batch(BATCH), 0), (cut_batch(BATCH, 16), 1)):
        said: list[str] = []
        steps = Steps(digits, model, torch.optim.SGD(model.parameters(), lr=0.1), cut, say=said.append)
        assert len(said) == words
    assert "BatchNorm in 2" in said[0]
    assert "of 16 examples and not of the batch of 64" in said[0]
    assert steps.summary()["batch_statistics_of"] == 16


def test_a_failed_attempt_leaves_no_trace_in_batch_statistics(digits: Digits) -> None:
    torch.manual_seed(0)
    model = WithBatchNorm()
    indices = torch.arange(BATCH)
    buffers = []
    for narrow in (Narrow(copy.deepcopy(model), 32, gpu_error), Narrow(copy.deepcopy(model), 64, gpu_error)):
        # The second micro-batch of the first attempt fails, after the first one changed the running statistics.
        if narrow.limit == 32:
            narrow.forward_hook = narrow.inner.register_forward_hook(_fails_once())  # type: ignore[assignment]
        stepper = torch.optim.SGD(narrow.parameters(), lr=0.0)
        steps = Steps(digits, narrow, stepper, cut_batch(BATCH, 16))
        steps.step(indices)
        buffers.append((steps.cut, int(narrow.inner[2].num_batches_tracked)))  # type: ignore[index]
    assert buffers == [(MicroBatches(8, 8, 1), 8), (MicroBatches(16, 4, 1), 4)]


def _fails_once() -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    calls = 0

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], _outputs: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise gpu_error()

    return hook


def test_a_run_that_was_halved_goes_on_so_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Held at first, too large from the 50th pass on: memory that others took.
    models: list[Narrow] = []

    def narrow_mlp() -> nn.Module:
        models.append(Narrow(digits_module._mlp(), 10, gpu_error, from_call=50))
        return models[-1]

    def wide_mlp() -> nn.Module:
        return Narrow(digits_module._mlp(), 10**9, gpu_error)

    monkeypatch.setitem(digits_module.SPEC.models, "narrow", {})
    monkeypatch.setitem(digits_module.MODELS, "narrow", narrow_mlp)
    config = TrialConfig(lr=0.002, batch_size=32, model="narrow", max_steps=75)
    stopped, whole = KeptRun(), KeptRun()
    train_resumable(config, whole.open(), tmp_path / "whole.pt", StopRequest())
    stop = StopRequest()
    with pytest.raises(Preempted):
        train_resumable(config, _StopAt(stopped, 60, stop), tmp_path / "x.pt", stop)
    monkeypatch.setitem(digits_module.MODELS, "narrow", wide_mlp)
    train_resumable(config, stopped.open(), tmp_path / "x.pt", StopRequest())
    assert stopped.rows == whole.rows
    assert whole.summary == stopped.summary == {"micro_batch_size": 8, "accumulation": 4, "world_size": 1}


def test_a_state_that_was_cut_otherwise_is_not_gone_on_with(tmp_path: Path) -> None:
    config, path = TrialConfig(lr=0.002, batch_size=32, max_steps=75), tmp_path / "x.pt"
    said: list[str] = []
    stop, stopped = StopRequest(), KeptRun()
    with pytest.raises(Preempted):
        train_resumable(config, _StopAt(stopped, 60, stop), path, stop, setup=Setup(micro_batch_size=8))
    run = KeptRun()
    train_resumable(config, run.open(), path, StopRequest(), said.append)
    (line,) = said
    assert (
        "is of a run with --micro-batch-size 8, and no --micro-batch-size is asked for: starting over" in line
    )
    assert run.summary == {}


class _StopAt:
    """A run that is asked for room at a step."""

    run_id = "x"
    logged_step = -1

    def __init__(self, store: KeptRun, step: int, stop: StopRequest) -> None:
        self._run = store.open()
        self._step = step
        self._stop = stop
        self.finish = self._run.finish
        self.preempt = self._run.preempt

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(step, values)
        if step >= self._step:
            self._stop.request()


def test_a_run_with_micro_batches_trains_as_one_without(tmp_path: Path) -> None:
    config = TrialConfig(lr=0.002, batch_size=32, max_steps=30)
    whole, cut = KeptRun(), KeptRun()
    train_resumable(config, whole.open(), tmp_path / "a.pt", StopRequest())
    setup = Setup(micro_batch_size=8)
    train_resumable(config, cut.open(), tmp_path / "b.pt", StopRequest(), setup=setup)
    for step, values in whole.rows.items():
        assert cut.rows[step] == pytest.approx(values, rel=1e-5)
    assert cut.summary == {"micro_batch_size": 8, "accumulation": 4, "world_size": 1}
    with pytest.raises(TrainingError, match="Take a micro-batch size of 4 or 8"):
        train_resumable(
            config, KeptRun().open(), tmp_path / "c.pt", StopRequest(), setup=Setup(micro_batch_size=6)
        )


def test_the_hosts_own_memory_running_out_is_met(tmp_path: Path) -> None:
    """A real limit on a real process: the whole batch does not fit, a part of it does."""
    code = """
import resource, torch
torch.set_num_threads(1)
from surge_sweeps.training import TrialConfig
from surge_sweeps.training.session import Setup, open_session
session = open_session(TrialConfig(lr=0.1, batch_size=2**17, optimizer="sgd", max_steps=1), Setup(), print)
session.steps.step(torch.zeros(2**17, dtype=torch.int64)[:8])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50 * 2**20,) * 2)
session.steps.step(torch.zeros(2**17, dtype=torch.int64))
print(session.steps.cut.batch_size)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    beyond, *told, last = done.stdout.splitlines()
    assert beyond.startswith("a batch of 131,072 examples is 91.2 times the data set")
    assert told
    assert all(line.startswith("out of memory: going on with micro-batches of") for line in told)
    assert int(last) == 2**17


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(gpu_error())
    assert is_out_of_memory(host_error())
    assert torch.cuda.OutOfMemoryError is torch.OutOfMemoryError
    assert not is_out_of_memory(ValueError("can't allocate memory"))
