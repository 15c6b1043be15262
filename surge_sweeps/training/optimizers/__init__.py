"""Optimizers by name: what each takes, its defaults, and whether many replicas can share one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from surge_sweeps.errors import UnknownNameError
from surge_sweeps.training.optimizers import adalomo, from_pytorch_optimizer, from_torch, muon, sophia
from surge_sweeps.training.optimizers.base import (
    HYPER_PARAMETERS,
    OptimizerSpec,
    Parameters,
    Stepper,
    backward,
    forward,
    set_learning_rate,
)

__all__ = [
    "HYPER_PARAMETERS",
    "OPTIMIZERS",
    "OptimizerSpec",
    "Stepper",
    "backward",
    "build_optimizer",
    "forward",
    "optimizer_spec",
    "set_learning_rate",
]

OPTIMIZERS: dict[str, OptimizerSpec] = {
    spec.name: spec
    for spec in (
        *from_torch.SPECS,
        *from_pytorch_optimizer.SPECS,
        muon.SPEC,
        sophia.SPEC,
        adalomo.SPEC,
    )
}


def optimizer_spec(name: str) -> OptimizerSpec:
    """The optimizer of that name.

    Raises:
        UnknownNameError: there is none; the message lists the valid names.

    >>> dict(optimizer_spec("adamw").defaults)
    {'beta1': 0.9, 'beta2': 0.999, 'eps': 1e-08, 'weight_decay': 0.01}
    >>> optimizer_spec("muon").elementwise, optimizer_spec("sophia").can_accumulate
    (False, False)
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def build_optimizer(
    name: str, parameters: nn.Module | Iterable[Tensor], lr: float, values: Mapping[str, float]
) -> Stepper:
    """The optimizer `name` over `parameters`, with the hyper-parameters `values` over its defaults.

    Args:
        parameters: a model, or its parameters; from the model, Muon learns which matrices are embeddings and leaves
            them to AdamW.

    Raises:
        UnknownNameError: unknown optimizer.
        MissingExtraError: the package that holds it is not installed.
    """
    spec = optimizer_spec(name)
    return spec.build(Parameters(parameters), lr, {**spec.defaults, **values})
