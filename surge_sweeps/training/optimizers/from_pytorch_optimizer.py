"""The optimizers of the package pytorch-optimizer, with the settings of their papers where its defaults differ.

Left out, because a sweep over learning rates would measure something else: schedule-free optimizers, whose losses
belong to an average of the iterates that they keep apart, and those that choose the learning rate (Prodigy,
D-Adaptation).

SOAP's basis is not determined where a gradient has fewer directions than a matrix has rows, so its runs repeat with the
same bits in the same sums alone: cut into micro-batches, a batch of few examples takes other steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surge_sweeps.extras import require
from surge_sweeps.training.optimizers.base import Build, OptimizerSpec, Parameters, Stepper
from surge_sweeps.training.optimizers.from_torch import keywords

#: Decay of Adan's gradient differences: 1 - its second beta (Xie et al. 2022, arXiv 2208.06677).
ADAN_DIFFERENCE_BETA = 0.92
#: Decay and weight of AdEMAMix's slow average (Pagliardini et al. 2024, arXiv 2409.03137).
ADEMAMIX_SLOW_BETA, ADEMAMIX_SLOW_WEIGHT = 0.9999, 5.0


def _of(kind: str, **fixed: object) -> Build:
    def build(parameters: Parameters, lr: float, values: Mapping[str, float]) -> Stepper:
        return _make(kind, parameters, lr=lr, **keywords(values), **fixed)

    return build


def _make(kind: str, parameters: Parameters, **named: Any) -> Stepper:
    stepper: Stepper = getattr(require("pytorch_optimizer", "train"), kind)(parameters, **named)
    return stepper


def _signsgd(parameters: Parameters, lr: float, values: Mapping[str, float]) -> Stepper:
    return _make("SignSGD", parameters, lr=lr, momentum=0.0, **values)


def _adan(parameters: Parameters, lr: float, values: Mapping[str, float]) -> Stepper:
    betas = (values["beta1"], ADAN_DIFFERENCE_BETA, values["beta2"])
    return _make(
        "Adan", parameters, **{**keywords(values), "lr": lr, "betas": betas, "weight_decouple": True}
    )


def _ademamix(parameters: Parameters, lr: float, values: Mapping[str, float]) -> Stepper:
    named = keywords(values)
    named["betas"] = (*named["betas"], ADEMAMIX_SLOW_BETA)
    return _make("AdEMAMix", parameters, lr=lr, alpha=ADEMAMIX_SLOW_WEIGHT, weight_decouple=True, **named)


def _adopt_clip(step: float) -> float:
    # The package counts the first step, which only measures; the paper's clip c_t = t^(1/4) does not.
    return float((step - 1) ** 0.25)


_DECOUPLED = {"weight_decay": 0.0}

SPECS: tuple[OptimizerSpec, ...] = (
    OptimizerSpec("lion", _of("Lion"), {"beta1": 0.9, "beta2": 0.99, **_DECOUPLED}, True, "Lion"),
    OptimizerSpec(
        "signsgd",
        _signsgd,
        _DECOUPLED,
        True,
        "sign of the gradient; decoupled weight decay (Bernstein et al. 2018, arXiv 1802.04434)",
    ),
    OptimizerSpec(
        "signum",
        _of("SignSGD"),
        {"momentum": 0.9, **_DECOUPLED},
        True,
        "sign of the averaged gradient; decoupled weight decay (arXiv 1802.04434)",
    ),
    OptimizerSpec(
        "adabelief",
        _of("AdaBelief"),
        {"beta1": 0.9, "beta2": 0.999, "eps": 1e-16, **_DECOUPLED},
        True,
        "Adam with the variance around its momentum; decoupled weight decay (arXiv 2010.07468)",
    ),
    OptimizerSpec(
        "adan",
        _adan,
        {"beta1": 0.98, "beta2": 0.99, "eps": 1e-8, **_DECOUPLED},
        True,
        "Adan; beta2 is of the squared gradients, 0.92 of the differences (arXiv 2208.06677)",
    ),
    OptimizerSpec(
        "ademamix",
        _ademamix,
        {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, **_DECOUPLED},
        True,
        "AdamW plus 5 times a slow average, decay 0.9999, not warmed up (arXiv 2409.03137)",
    ),
    OptimizerSpec(
        "adopt",
        _of("ADOPT", weight_decouple=True, clip_lambda=_adopt_clip),
        {"beta1": 0.9, "beta2": 0.9999, "eps": 1e-6, **_DECOUPLED},
        True,
        "ADOPT with clipping; its first step only measures (arXiv 2411.02853)",
    ),
    OptimizerSpec(
        "lamb",
        # Without `adam_debias` the package would divide after the trust ratio, and take steps 10 times too long.
        _of("Lamb", weight_decouple=False, adam_debias=True),
        {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.01},
        False,
        "LAMB without bias correction, weight norms cut at 10 (arXiv 1904.00962)",
    ),
    OptimizerSpec(
        "lars",
        _of("LARS", trust_coefficient=0.001),
        {"momentum": 0.9, "weight_decay": 0.0},
        False,
        "LARS, trust coefficient 0.001; vectors take plain momentum steps (arXiv 1708.03888)",
    ),
    OptimizerSpec(
        "soap",
        _of("SOAP", precondition_frequency=10),
        {"beta1": 0.95, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.01},
        False,
        "Adam in Shampoo's eigenbasis, renewed every 10 steps; its first step only measures (arXiv 2409.11321)",
    ),
)
