"""The plain training loop: one run, one model, one optimizer. The ensemble is tested against it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.data_order import DataOrder, block_steps
from surge_sweeps.training.optimizers import Stepper, build_optimizer
from surge_sweeps.training.start import Start, evaluate
from surge_sweeps.training.trace import OnPoint, Trace, log_steps
from surge_sweeps.training.workloads.base import Workload

#: Called with the model after every logged point; see `train_to_losses`.
OnModel = Callable[[Trace, nn.Module], None]


def run_loop(
    workload: Workload,
    config: TrialConfig,
    start: Start,
    *,
    on_point: OnPoint | None = None,
    on_model: OnModel | None = None,
    logged: Sequence[int] | None = None,
) -> Trace:
    """Train one run to its end.

    Args:
        workload, config, start: what to train and from where; `start` is not changed.
        on_point: called with every point as it is logged.
        on_model: called with the trace and the model after every logged point but the first.
        logged: the steps to log; default `log_steps`.
    """
    trace = Trace(config, start.loss, start.checkpoint, on_point)
    model = copy.deepcopy(start.model)
    optimizer = build_optimizer(config.optimizer, model.parameters(), config.lr, config.hyper_parameters())
    continue_loop(workload, model, optimizer, trace, on_model=on_model, logged=logged)
    return trace


def continue_loop(
    workload: Workload,
    model: nn.Module,
    optimizer: Stepper,
    trace: Trace,
    *,
    on_model: OnModel | None = None,
    logged: Sequence[int] | None = None,
) -> None:
    """Train on from the trace's last step to the end of the run. Changes `model`, `optimizer` and `trace`."""
    config = trace.config
    first = trace.last_step
    steps = [step for step in logged or log_steps(config.steps) if step >= first]
    order = [DataOrder(len(workload.train_targets), config.seed)]
    batches = each_batch(order, first, config.steps, config.batch_size)
    for previous, step in pairwise(steps):
        if trace.status is not None:
            return
        total = torch.zeros((), dtype=workload.train_inputs.dtype)
        for _ in range(previous, step):
            total += _train_step(workload, model, optimizer, next(batches)[0])
        trace.add(step, evaluate(workload, model), float(total) / (step - previous))
        if on_model is not None:
            on_model(trace, model)


def each_batch(orders: Sequence[DataOrder], first: int, last: int, batch_size: int) -> Iterator[Tensor]:
    """(orders, batch_size) example indices of each step in [first, last), made in blocks of steps."""
    block = block_steps(batch_size)
    for start in range(first, last, block):
        stop = min(start + block, last)
        yield from torch.stack([order.batches(start, stop, batch_size) for order in orders], dim=1)


def _train_step(workload: Workload, model: nn.Module, optimizer: Stepper, indices: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = workload.loss(model(workload.train_inputs[indices]), workload.train_targets[indices])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()
