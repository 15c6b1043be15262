"""What looks at all examples of a batch together, for which micro-batches are not the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from surge_sweeps.training.micro_batches import MicroBatches
from surge_sweeps.training.workloads.base import has_dynamic_shapes


def batch_statistics_layers(model: nn.Module) -> tuple[str, ...]:
    """The names of a model's layers that normalise by the statistics of the examples they are given (BatchNorm).

    >>> batch_statistics_layers(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))), batch_statistics_layers(nn.ReLU())
    (('1',), ())
    """
    return tuple(name or type(layer).__name__ for name, layer in model.named_modules() if _looks(layer))


def statistics_warning(model: nn.Module, cut: MicroBatches) -> str:
    """What a cut changes in a model, one sentence; empty where the gradient is that of the whole batch."""
    if cut.size == cut.batch_size:
        return ""
    layers = batch_statistics_layers(model)
    if not layers and has_dynamic_shapes(model):
        return (
            f"warning: the model balances its experts over {cut.size} examples at a time and not over the batch of "
            f"{cut.batch_size}: the balance loss is the mean of theirs."
        )
    if not layers:
        return ""
    return (
        f"warning: the model normalises by batch statistics (BatchNorm in {', '.join(layers)}), here of {cut.size} "
        f"examples and not of the batch of {cut.batch_size}: loss and gradient differ from those of the whole batch."
    )


@contextmanager
def statistics_of_the_evaluated(model: nn.Module) -> Iterator[None]:
    """In this context a model's BatchNorm normalises by what it is given, and remembers nothing of it.

    Its running averages lag tens of steps behind the parameters, and the further the larger the learning rate: in a
    branch of ten steps they would be most of what is measured.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    kept = [(layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        yield
    finally:
        for layer, (training, tracks) in zip(layers, kept, strict=True):
            layer.training, layer.track_running_stats = training, tracks


def _looks(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm)
