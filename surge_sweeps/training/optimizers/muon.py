"""Muon for the matrices of a network, AdamW for what Muon is not made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from surge_sweeps.training.optimizers.base import OptimizerSpec, Parameters


class MuonWithAdamW:
    """Muon for weight matrices, AdamW for all else (embeddings, biases, convolution kernels, stacks of experts).

    Muon orthogonalises whole matrices and is not defined for other shapes. Its update is scaled by
    0.2 sqrt(max(rows, columns)), which gives it AdamW's size (Liu et al. 2025, arXiv 2502.16982), so that the one
    learning rate serves both.
    """

    def __init__(self, parameters: Parameters, lr: float, values: Mapping[str, float]) -> None:
        def is_matrix(parameter: torch.Tensor) -> bool:
            return parameter.ndim == 2 and id(parameter) not in parameters.embeddings

        matrices = [p for p in parameters if is_matrix(p)]
        others = [p for p in parameters if not is_matrix(p)]
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
                torch.optim.AdamW(
                    others, lr=lr, betas=betas, eps=values["eps"], weight_decay=decay, fused=True
                )
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both parts."""
        return [group for part in self._parts for group in part.param_groups]

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


SPEC = OptimizerSpec(
    "muon",
    MuonWithAdamW,
    {"momentum": 0.95, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1},
    False,
    "Muon for matrices, AdamW (beta1, beta2, eps) for embeddings and the rest",
)
