"""Sophia-H: clipped steps of momentum over an estimate of the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surge_sweeps.errors import TrainingError
from surge_sweeps.extras import require
from surge_sweeps.training.optimizers.base import OptimizerSpec, Parameters

#: Steps from one estimate of the Hessian to the next, and its weight gamma for Hutchinson's estimate.
PERIOD, GAMMA = 10, 0.01


class Sophia:
    """Sophia with Hutchinson's estimator (Liu et al. 2023, arXiv 2305.14342, algorithms 1 and 3).

    theta <- theta - lr clip(m / max(gamma h, eps), 1), with h the moving average (beta2) of u * (H u) for Gaussian u,
    every 10th step anew from that step's own batch. No number moves by more than lr.

    The Hessian's product with u is a derivative of the gradients, so on those steps the gradients must come with their
    graph (see `forward` and `backward`), which neither a sum over micro-batches nor one over processes keeps. u depends
    on the number of the step alone: a run that was stopped goes on with the same bits, and runs of one sweep share it.
    """

    def __init__(self, parameters: Parameters, lr: float, values: Mapping[str, float]) -> None:
        self._parameters = list(parameters)
        self._inner: Any = require("pytorch_optimizer", "train").SophiaH(
            self._parameters,
            lr=lr,
            betas=(values["beta1"], values["beta2"]),
            eps=values["eps"],
            weight_decay=values["weight_decay"],
            p=1.0,
            update_period=PERIOD,
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters, each with its learning rate."""
        groups: list[dict[str, Any]] = self._inner.param_groups
        return groups

    @property
    def wants_graph(self) -> bool:
        """Whether the next step differentiates its gradients."""
        return self._steps % PERIOD == 0

    @property
    def _steps(self) -> int:
        return int(self.param_groups[0].get("step", 0))

    def step(self) -> None:
        """Update the parameters; every 10th time, with a new estimate of the Hessian.

        Raises:
            TrainingError: an estimate is due and the gradients came without their graph.
        """
        hessian = self._hessian() if self.wants_graph else None
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.detach()
        self._inner.step(hessian=hessian)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._inner.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The momentum, the averaged Hessian and the number of steps."""
        state: dict[str, Any] = self._inner.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._inner.load_state_dict(state_dict)

    def _hessian(self) -> list[Tensor]:
        """gamma u * (H u) of every parameter, in its shape; 0 for what the loss does not depend on."""
        noise = torch.Generator().manual_seed(self._steps)
        directions = [
            torch.randn(p.shape, generator=noise, dtype=p.dtype).to(p.device) for p in self._parameters
        ]
        pairs = [
            (p.grad, u)
            for p, u in zip(self._parameters, directions, strict=True)
            if p.grad is not None and p.grad.requires_grad
        ]
        if not pairs:
            raise TrainingError(
                "Sophia estimates the Hessian from the gradients, and these came without their graph.",
                "Take the gradients of a whole batch in one process, with surge_sweeps.training.optimizers.backward.",
            )
        products = torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            self._parameters,
            [direction for _, direction in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
        return [GAMMA * u * product for u, product in zip(directions, products, strict=True)]


SPEC = OptimizerSpec(
    "sophia",
    Sophia,
    {"beta1": 0.96, "beta2": 0.99, "eps": 1e-12, "weight_decay": 0.0},
    False,
    "Sophia-H: a Hessian estimate every 10 steps, from whole batches in one process",
    can_accumulate=False,
    beta2_every_steps=PERIOD,
)
