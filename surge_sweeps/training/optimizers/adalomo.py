"""AdaLomo with the gradients kept until the step.

AdaLomo saves memory by updating each parameter inside the backward pass, as the package pytorch-optimizer does it; so
fused it can neither add up micro-batches nor exchange gradients between processes. The update itself needs none of
that, and here it is a step like any other: the same iterates, without the saving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from surge_sweeps.training.optimizers.base import OptimizerSpec, Parameters

_DECAY = 0.8  # the second moment of step t keeps 1 - t^-0.8
_SQUARE_FLOOR, _SIZE_FLOOR = 1e-30, 1e-3


class AdaLomo(torch.optim.Optimizer):
    """AdaLomo (Lv et al. 2023, arXiv 2310.10195, algorithm 1).

    The second moment of a matrix is kept by rows and columns, as in Adafactor (arXiv 1804.04235); tensors of more axes
    are taken as matrices of their first axis by all others. An update is cut to root mean square 1 and scaled by the
    size of the tensor: lr is the relative change of a step, as is its weight decay lr * weight_decay.

    Args:
        parameters, lr: as of any optimizer. weight_decay: decoupled.

    >>> weight = torch.tensor([3.0, 4.0])
    >>> weight.grad = torch.tensor([1.0, -2.0])
    >>> AdaLomo([weight], lr=0.1).step()
    >>> weight  # moved by 0.1 of its root mean square, 3.536
    tensor([2.6464, 4.3536])
    """

    def __init__(self, parameters: list[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: gradients are there
        """Update the parameters from their gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        fresh = state["step"] ** -_DECAY
        matrix = gradient.flatten(1) if gradient.ndim > 1 else gradient
        squares = matrix.square().add_(_SQUARE_FLOOR)
        if matrix.ndim > 1:
            rows = _averaged(state, "rows", squares.mean(1), fresh)
            columns = _averaged(state, "columns", squares.mean(0), fresh)
            update = matrix * ((rows / rows.mean()).rsqrt()[:, None] * columns.rsqrt())
        else:
            update = matrix * _averaged(state, "squares", squares, fresh).rsqrt()
        update.div_(_root_mean_square(update).clamp_min_(1.0))
        relative = _root_mean_square(parameter).clamp_min_(_SIZE_FLOOR).mul_(lr)
        parameter.mul_(1.0 - relative * weight_decay).sub_(update.mul_(relative).view_as(parameter))


def _averaged(state: dict[str, Tensor], name: str, value: Tensor, fresh: float) -> Tensor:
    average = state.setdefault(name, torch.zeros_like(value))
    average.lerp_(value, fresh)
    return average


def _root_mean_square(values: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(values) / math.sqrt(values.numel())
    return size


def _adalomo(parameters: Parameters, lr: float, values: Mapping[str, float]) -> AdaLomo:
    return AdaLomo(parameters, lr, values["weight_decay"])


SPEC = OptimizerSpec(
    "adalomo",
    _adalomo,
    {"weight_decay": 0.0},
    False,
    "AdaLomo, not fused with the backward pass; lr is relative to a tensor's size",
)
