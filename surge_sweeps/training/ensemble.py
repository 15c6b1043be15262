"""The ensemble trainer: all learning rates and seeds of one batch size train at once.

Which runs train together follows from the model, the batch size and the number of runs alone, never from timing, so
the same call gives the same bits. A run that has ended leaves the stack, and the last few go on in the plain loop,
which is faster for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.data_order import DataOrder
from surge_sweeps.training.loop import Begun, continue_loop, each_batch
from surge_sweeps.training.stacked import StackedReplicas
from surge_sweeps.training.start import Start
from surge_sweeps.training.trace import Trace
from surge_sweeps.training.workloads.base import Workload

#: Called with the traces after every logged step.
OnStep = Callable[[Sequence[Trace]], None]

#: Fewer replicas than this are faster one by one: a stacked step costs about as much overhead as four plain ones.
MIN_REPLICAS = 6
#: A stack is made smaller once this share of it has ended.
COMPACT_SHARE = 0.125
#: Beyond about this many numbers in its parameters, or in the layer outputs of one step, a stack leaves the
#: processor's cache: stacking gains nothing further, and with convolutions it loses. Found by measurement.
STACK_PARAMETERS = 2**20
STACK_OUTPUTS = 2**21


def stack_size(workload: Workload, model: nn.Module, batch_size: int) -> int:
    """How many replicas of `model` to train in one stack; 1 where the plain loop is faster.

    >>> from surge_sweeps.training.workloads import load_workload
    >>> digits = load_workload("digits")
    >>> mlp, cnn = (digits.build_model(name, torch.Generator()) for name in ("mlp", "cnn"))
    >>> [stack_size(digits, mlp, batch) for batch in (4, 32, 256)]
    [116, 116, 20]
    >>> [stack_size(digits, cnn, batch) for batch in (4, 32, 256)]
    [106, 22, 1]
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    outputs = batch_size * _outputs(model, workload.eval_batch(0, 1)[0])
    size = min(STACK_PARAMETERS // parameters, STACK_OUTPUTS // outputs)
    return size if size >= MIN_REPLICAS else 1


def _outputs(model: nn.Module, example: torch.Tensor) -> int:
    """The numbers that the layers of `model` put out for one example, its input included."""
    counts = [example.numel()]
    layers = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(lambda _, __, out: counts.append(out.numel())) for layer in layers]
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def run_ensemble(
    workload: Workload,
    configs: Sequence[TrialConfig],
    starts: Mapping[int, Start],
    *,
    on_step: OnStep | None = None,
) -> list[Trace]:
    """Train runs that differ in learning rate and seed alone, all in one stack.

    Args:
        workload: what to train on.
        configs: one a run.
        starts: the start of every seed.
        on_step: called with all traces after every logged step.

    Returns:
        The traces, in the order of `configs`.
    """
    traces = [Trace(c, starts[c.seed].loss, starts[c.seed].checkpoint) for c in configs]
    rows = [index for index, trace in enumerate(traces) if trace.status is None]
    if not rows:
        return traces
    stack = StackedReplicas(
        workload, [starts[configs[i].seed].model for i in rows], [configs[i] for i in rows]
    )
    shared = configs[0]
    seeds = sorted({configs[i].seed for i in rows})
    # Runs of one seed see the same examples at a step.
    batches = each_batch(
        [DataOrder(workload.train_examples, seed) for seed in seeds], 0, shared.steps, shared.batch_size
    )
    seed_of_row = torch.tensor([seeds.index(configs[i].seed) for i in rows], device=workload.device)
    # Batches of seeds that no run is left of are not made.
    seen = torch.arange(len(seeds))
    done = 0
    total = torch.zeros(len(stack), dtype=workload.dtype, device=workload.device)
    live = list(range(len(rows)))
    while live:
        step = min(traces[rows[position]].next_step for position in live)
        for number in range(done, step):
            share = 1.0 if shared.has_constant_lr else shared.lr_multiplier(number)
            total += stack.step(next(batches)[seen], seed_of_row, share)
        done = step
        # Runs that go on after their target log at steps of their own.
        due = [position for position in live if traces[rows[position]].next_step == step]
        since = torch.tensor([step - traces[rows[position]].last_step for position in due])
        means = (total[due].cpu() / since).tolist()
        total[due] = 0
        for position, eval_loss, train_loss in zip(due, stack.eval_losses(due), means, strict=True):
            traces[rows[position]].add(step, eval_loss, train_loss)
        if on_step is not None:
            on_step(traces)
        live = [position for position, index in enumerate(rows) if traces[index].status is None]
        if len(live) < MIN_REPLICAS:
            for position in live:
                trace = traces[rows[position]]
                model, optimizer = stack.release(position, trace.config)
                begun = Begun(done, None if done == trace.last_step else total[position : position + 1])
                continue_loop(workload, model, optimizer, trace, begun=begun)
            if on_step is not None:
                on_step(traces)
            break
        if len(rows) - len(live) >= COMPACT_SHARE * len(rows):
            stack.keep(live)
            rows = [rows[position] for position in live]
            left, seed_of_row = torch.unique(seed_of_row[live], return_inverse=True)
            seen, total = seen[left.cpu()], total[live]
            live = list(range(len(rows)))
    return traces
