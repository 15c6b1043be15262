"""The optimizers of torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from surge_sweeps.training.optimizers.base import Build, OptimizerSpec, Parameters, Stepper


def keywords(values: Mapping[str, float], **renamed: str) -> dict[str, Any]:
    """Hyper-parameters as torch and its kin spell them: beta1 and beta2 as one pair.

    Args:
        renamed: what this optimizer calls a hyper-parameter that it spells in its own way.

    >>> keywords({"beta1": 0.9, "beta2": 0.999, "eps": 1e-8})
    {'eps': 1e-08, 'betas': (0.9, 0.999)}
    >>> keywords({"beta2": 0.99, "eps": 1e-8}, beta2="alpha")
    {'alpha': 0.99, 'eps': 1e-08}
    """
    paired = "beta1" in values and "beta2" in values
    named: dict[str, Any] = {
        renamed.get(name, name): value
        for name, value in values.items()
        if not (paired and name in ("beta1", "beta2"))
    }
    if paired:
        named["betas"] = (values["beta1"], values["beta2"])
    return named


def _of(kind: type[Optimizer], renamed: Mapping[str, str] | None = None, **fixed: Any) -> Build:
    def build(parameters: Parameters, lr: float, values: Mapping[str, float]) -> Stepper:
        named = keywords(values, **(renamed or {}))
        return kind(parameters, lr=lr, **named, **fixed)  # type: ignore[call-arg]  # its own class names lr

    return build


def _nesterov(parameters: Parameters, lr: float, values: Mapping[str, float]) -> Stepper:
    # torch refuses Nesterov's step without momentum, which is the plain one.
    nesterov = values["momentum"] > 0
    return torch.optim.SGD(parameters, lr=lr, nesterov=nesterov, fused=True, **keywords(values))


def _sign(parameters: Parameters, lr: float, values: Mapping[str, float]) -> Stepper:
    return torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.0), eps=values["eps"], fused=True)


# The fused kernels make one pass over memory instead of about ten; in the plain loop they save a third of a step.
_SGD = _of(torch.optim.SGD, fused=True)
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
_L2 = {"weight_decay": 0.0}

SPECS: tuple[OptimizerSpec, ...] = (
    OptimizerSpec("sgd", _SGD, _L2, True, "plain gradient descent"),
    OptimizerSpec("momentum", _SGD, {"momentum": 0.9, **_L2}, True, "SGD with momentum"),
    OptimizerSpec("nesterov", _nesterov, {"momentum": 0.9, **_L2}, True, "SGD with Nesterov's momentum"),
    OptimizerSpec(
        "adam", _of(torch.optim.Adam, fused=True), {**_ADAM, **_L2}, True, "Adam; weight decay is L2"
    ),
    OptimizerSpec(
        "adamw",
        _of(torch.optim.AdamW, fused=True),
        {**_ADAM, "weight_decay": 0.01},
        True,
        "Adam, decoupled weight decay",
    ),
    OptimizerSpec(
        "amsgrad",
        _of(torch.optim.Adam, amsgrad=True, fused=True),
        {**_ADAM, **_L2},
        True,
        "Adam that divides by the largest second moment so far; weight decay is L2",
    ),
    OptimizerSpec(
        "nadam", _of(torch.optim.NAdam), {**_ADAM, **_L2}, True, "Adam with Nesterov's momentum; decay is L2"
    ),
    OptimizerSpec(
        "radam",
        _of(torch.optim.RAdam),
        {**_ADAM, **_L2},
        True,
        "rectified Adam: its first steps are momentum SGD; weight decay is L2",
    ),
    OptimizerSpec(
        "adamax", _of(torch.optim.Adamax), {**_ADAM, **_L2}, True, "Adam under the infinity norm; decay is L2"
    ),
    OptimizerSpec(
        "adadelta",
        _of(torch.optim.Adadelta, {"beta2": "rho"}),
        {"beta2": 0.9, "eps": 1e-6, **_L2},
        True,
        "Adadelta; beta2 is its smoothing constant, lr scales its steps (usual: 1)",
    ),
    OptimizerSpec(
        "adagrad", _of(torch.optim.Adagrad, fused=True), {"eps": 1e-10, **_L2}, True, "Adagrad; decay is L2"
    ),
    OptimizerSpec(
        "rmsprop",
        _of(torch.optim.RMSprop, {"beta2": "alpha"}),
        {"beta2": 0.99, "eps": 1e-8, "momentum": 0.0, **_L2},
        True,
        "RMSprop; beta2 is its smoothing constant",
    ),
    OptimizerSpec(
        "sign",
        _sign,
        {"eps": 1e-12},
        True,
        "sign descent: Adam with betas 0 (Li et al. 2024, arXiv 2405.14578)",
    ),
    OptimizerSpec(
        "adafactor",
        _of(torch.optim.Adafactor),
        _L2,
        False,
        "Adafactor; step t is at most 1/sqrt(t) of a weight's size, whatever lr",
    ),
)
