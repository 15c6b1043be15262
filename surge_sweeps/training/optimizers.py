"""Optimizers by name: what each takes, its defaults, and whether many replicas can share one.

`elementwise` marks an optimizer whose update of one number depends on that number and its own gradients alone, and is
proportional to the learning rate, decoupled weight decay included. For those, one step at learning rate 1 on stacked
parameters, with each replica's change scaled by its own learning rate, is the same step as in separate runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from surge_sweeps.errors import UnknownNameError
from surge_sweeps.extras import require

#: Every hyper-parameter, next to the learning rate, that some optimizer takes.
HYPER_PARAMETERS: tuple[str, ...] = ("beta1", "beta2", "eps", "momentum", "weight_decay")


class Stepper(Protocol):
    """What a training loop needs of an optimizer."""

    def step(self) -> object:
        """Update the parameters from their gradients."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers of earlier steps, as tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


Build = Callable[[list[Tensor], float, Mapping[str, float]], Stepper]


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer.

    Attributes:
        name: what sweeps call it.
        build: makes it from parameters, learning rate and the hyper-parameters named in `defaults`.
        defaults: every hyper-parameter it takes, with its default.
        elementwise: the update acts number by number and is proportional to the learning rate.
        about: one line for a listing.
    """

    name: str
    build: Build
    defaults: Mapping[str, float]
    elementwise: bool
    about: str


def optimizer_spec(name: str) -> OptimizerSpec:
    """The optimizer of that name.

    Raises:
        UnknownNameError: there is none; the message lists the valid names.

    >>> dict(optimizer_spec("adamw").defaults)
    {'beta1': 0.9, 'beta2': 0.999, 'eps': 1e-08, 'weight_decay': 0.01}
    >>> optimizer_spec("muon").elementwise
    False
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def build_optimizer(
    name: str, parameters: Iterable[Tensor], lr: float, values: Mapping[str, float]
) -> Stepper:
    """The optimizer `name` over `parameters`, with the hyper-parameters `values` over its defaults.

    Raises:
        UnknownNameError: unknown optimizer.
        MissingExtraError: the package that holds it is not installed.
    """
    spec = optimizer_spec(name)
    return spec.build(list(parameters), lr, {**spec.defaults, **values})


# The fused kernels make one pass over memory instead of about ten; in the plain loop they save a third of a step.


def _sgd(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=values.get("momentum", 0.0),
        weight_decay=values["weight_decay"],
        fused=True,
    )


def _adam(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    betas = (values["beta1"], values["beta2"])
    return torch.optim.Adam(
        parameters, lr=lr, betas=betas, eps=values["eps"], weight_decay=values["weight_decay"], fused=True
    )


def _adamw(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    betas = (values["beta1"], values["beta2"])
    return torch.optim.AdamW(
        parameters, lr=lr, betas=betas, eps=values["eps"], weight_decay=values["weight_decay"], fused=True
    )


def _sign(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    return torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.0), eps=values["eps"], fused=True)


def _adagrad(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    return torch.optim.Adagrad(
        parameters, lr=lr, eps=values["eps"], weight_decay=values["weight_decay"], fused=True
    )


def _rmsprop(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    return torch.optim.RMSprop(
        parameters,
        lr=lr,
        alpha=values["beta2"],
        eps=values["eps"],
        momentum=values["momentum"],
        weight_decay=values["weight_decay"],
    )


def _lion(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    betas = (values["beta1"], values["beta2"])
    lion: Stepper = require("pytorch_optimizer", "train").Lion(
        parameters, lr=lr, betas=betas, weight_decay=values["weight_decay"]
    )
    return lion


def _adafactor(parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> Stepper:
    return torch.optim.Adafactor(parameters, lr=lr, weight_decay=values["weight_decay"])


class MuonWithAdamW:
    """Muon for weight matrices, AdamW for everything else (biases, convolution kernels).

    Muon orthogonalises whole matrices and is not defined for other shapes. Its update is scaled by
    0.2 sqrt(max(rows, columns)), which gives it AdamW's size (Liu et al. 2025, arXiv 2502.16982), so that the one
    learning rate serves both.
    """

    def __init__(self, parameters: list[Tensor], lr: float, values: Mapping[str, float]) -> None:
        matrices = [p for p in parameters if p.ndim == 2]
        others = [p for p in parameters if p.ndim != 2]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices,
                lr=lr,
                momentum=values["momentum"],
                weight_decay=values["weight_decay"],
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append(muon)
        if others:
            betas = (values["beta1"], values["beta2"])
            decay = values["weight_decay"]
            self._parts.append(
                torch.optim.AdamW(others, lr=lr, betas=betas, eps=values["eps"], weight_decay=decay)
            )

    def step(self) -> None:
        """Update all parameters."""
        for part in self._parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the state of both parts back."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

OPTIMIZERS: dict[str, OptimizerSpec] = {
    spec.name: spec
    for spec in (
        OptimizerSpec("sgd", _sgd, {"weight_decay": 0.0}, True, "plain gradient descent"),
        OptimizerSpec("momentum", _sgd, {"momentum": 0.9, "weight_decay": 0.0}, True, "SGD with momentum"),
        OptimizerSpec("adam", _adam, {**_ADAM, "weight_decay": 0.0}, True, "Adam; weight decay is L2"),
        OptimizerSpec("adamw", _adamw, {**_ADAM, "weight_decay": 0.01}, True, "Adam, decoupled weight decay"),
        OptimizerSpec("adagrad", _adagrad, {"eps": 1e-10, "weight_decay": 0.0}, True, "Adagrad"),
        OptimizerSpec(
            "rmsprop",
            _rmsprop,
            {"beta2": 0.99, "eps": 1e-8, "momentum": 0.0, "weight_decay": 0.0},
            True,
            "RMSprop; beta2 is its smoothing constant",
        ),
        OptimizerSpec("lion", _lion, {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}, True, "Lion"),
        OptimizerSpec(
            "sign",
            _sign,
            {"eps": 1e-12},
            True,
            "sign descent: Adam with betas 0 (Li et al. 2024, arXiv 2405.14578)",
        ),
        OptimizerSpec(
            "muon",
            MuonWithAdamW,
            {"momentum": 0.95, **_ADAM, "weight_decay": 0.1},
            False,
            "Muon for matrices, AdamW (beta1, beta2, eps) for the rest",
        ),
        OptimizerSpec("adafactor", _adafactor, {"weight_decay": 0.0}, False, "Adafactor"),
    )
}
