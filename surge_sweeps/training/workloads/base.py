"""What every built-in workload gives: data, models and a loss; nothing in this file knows a particular one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Workload(Protocol):
    """A training problem small enough to be held in memory.

    Attributes:
        name: what sweeps call it.
        train_inputs, eval_inputs: (examples, ...) float tensors; models take their dtype.
        train_targets, eval_targets: (examples,) tensors. The evaluation set is fixed and never trained on.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def train_inputs(self) -> Tensor: ...  # noqa: D102
    @property
    def train_targets(self) -> Tensor: ...  # noqa: D102
    @property
    def eval_inputs(self) -> Tensor: ...  # noqa: D102
    @property
    def eval_targets(self) -> Tensor: ...  # noqa: D102

    def build_model(self, model: str, generator: torch.Generator) -> nn.Module:
        """A fresh model; its parameters come from `generator`, torch's global random state stays as it is."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """() mean loss of one batch."""
        ...


def initialize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give a model of linear and convolution layers, made on the meta device, its parameters.

    Weights and biases are uniform within 1 / sqrt(inputs of a unit), which is torch's own default for these layers,
    drawn from `generator` instead of the global random state.

    >>> with torch.device("meta"):
    ...     empty = nn.Linear(4, 2)
    >>> layer = initialize(empty, torch.Generator().manual_seed(0))
    >>> bool((layer.weight.abs() <= 0.5).all())
    True
    """
    model.to_empty(device="cpu")
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias.uniform_(-bound, bound, generator=generator)
    return model
