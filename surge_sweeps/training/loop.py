"""The plain training loop: one run, one model, one optimizer. The ensemble is tested against it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.data_order import DataOrder, block_steps
from surge_sweeps.training.optimizers import Stepper, build_optimizer, optimizer_spec, set_learning_rate
from surge_sweeps.training.start import Start
from surge_sweeps.training.steps import Steps
from surge_sweeps.training.trace import OnPoint, Trace
from surge_sweeps.training.workloads.base import Workload

#: Called with the model after every logged point; see `train_to_losses`.
OnModel = Callable[[Trace, nn.Module], None]
#: Called after every optimizer step with what is begun.
OnStep = Callable[["Begun"], None]


class Begun(NamedTuple):
    """How far a run is on its way from one logged point to the next.

    Attributes:
        step: optimizer steps done. sums: (1,) or (2,) sums since the last logged point of what `Steps.step` returned;
            None: none was done since. Of several processes each has those of its share.
    """

    step: int
    sums: Tensor | None


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
        logged: see `Trace`.
    """
    trace = Trace(config, start.loss, start.checkpoint, on_point, logged)
    model = copy.deepcopy(start.model)
    optimizer = build_optimizer(config.optimizer, model, config.lr, config.hyper_parameters())
    continue_loop(workload, model, optimizer, trace, on_model=on_model)
    return trace


def continue_loop(
    workload: Workload,
    model: nn.Module,
    optimizer: Stepper,
    trace: Trace,
    *,
    begun: Begun | None = None,
    on_model: OnModel | None = None,
    on_step: OnStep | None = None,
    steps: Steps | None = None,
) -> None:
    """Train on to the end of the run. Changes `model`, `optimizer` and `trace`.

    Goes on from `begun`, by default from the trace's last step.

    Args:
        steps: of this model under this optimizer; default: whole batches in this process.
    """
    config = trace.config
    if steps is None:
        can_accumulate = optimizer_spec(config.optimizer).can_accumulate
        steps = Steps(
            workload,
            model,
            optimizer,
            can_accumulate=can_accumulate,
            precision=config.precision,
            compile=config.compile,
        )
    lr_at = None if config.has_constant_lr else (lambda step: config.lr * config.lr_multiplier(step))
    done, sums = begun or Begun(trace.last_step, None)
    order = [DataOrder(workload.train_examples, config.seed)]
    batches = each_batch(order, done, config.steps, config.batch_size)
    while trace.status is None:
        previous, step = trace.last_step, trace.next_step
        while done < step:
            if lr_at is not None:
                set_learning_rate(optimizer, lr_at(done))
            measured = steps.step(next(batches)[0])
            sums = measured if sums is None else sums + measured
            done += 1
            if on_step is not None:
                on_step(Begun(done, sums))
        trace.add(step, *steps.losses(sums, step - previous))
        sums = None
        if on_model is not None:
            on_model(trace, model)


def each_batch(orders: Sequence[DataOrder], first: int, last: int, batch_size: int) -> Iterator[Tensor]:
    """(orders, batch_size) example indices of each step in [first, last), made in blocks of steps."""
    block = block_steps(batch_size)
    for start in range(first, last, block):
        stop = min(start + block, last)
        yield from torch.stack([order.batches(start, stop, batch_size) for order in orders], dim=1)
