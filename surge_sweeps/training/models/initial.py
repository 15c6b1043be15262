"""Initial parameters of models made on the meta device, drawn on the CPU from a generator alone.

torch's and the libraries' own initialisation draws from the global random state, which sweeps leave alone. Drawing on
the CPU gives a seed the same parameters on every device.
"""

from __future__ import annotations

import torch
from torch import nn

#: Standard deviation of the weights of language models (GPT-2, and after it Mixtral and its kin).
LANGUAGE_MODEL_STD = 0.02


def initialize_uniform(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Linear and convolution layers as torch itself would: uniform within 1 / sqrt(inputs of a unit).

    >>> with torch.device("meta"):
    ...     empty = nn.Linear(4, 2)
    >>> layer = initialize_uniform(empty, torch.Generator().manual_seed(0))
    >>> bool((layer.weight.abs() <= 0.5).all())
    True
    """
    model.to_empty(device="cpu")
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                uniform_layer(layer, generator)
    return model


def uniform_layer(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """Weights and biases of one layer, uniform within 1 / sqrt(inputs of a unit); under `torch.no_grad`."""
    bound = layer.weight[0].numel() ** -0.5
    layer.weight.uniform_(-bound, bound, generator=generator)
    if layer.bias is not None:
        layer.bias.uniform_(-bound, bound, generator=generator)


def initialize_language_model(
    model: nn.Module,
    generator: torch.Generator,
    *,
    residual: str = "",
    residual_std: float = LANGUAGE_MODEL_STD,
) -> nn.Module:
    """The rule of GPT-2 and Mixtral: matrices normal with a small standard deviation, biases 0, gains 1.

    Args:
        residual: the module whose weight writes to the residual stream, by the last part of its name; GPT-2 draws it
            with `residual_std`.

    >>> with torch.device("meta"):
    ...     empty = nn.Sequential(nn.Embedding(100, 50), nn.LayerNorm(50), nn.Linear(50, 50))
    >>> model = initialize_language_model(empty, torch.Generator().manual_seed(0))
    >>> [round(float(parameter.detach().std()), 2) for parameter in model.parameters()]
    [0.02, 0.0, 0.0, 0.02, 0.0]
    >>> [round(float(parameter.detach().mean()), 2) + 0.0 for parameter in model.parameters()]
    [0.0, 1.0, 0.0, 0.0, 0.0]
    """
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                is_residual = residual != "" and name.split(".")[-2] == residual
                parameter.normal_(0, residual_std if is_residual else LANGUAGE_MODEL_STD, generator=generator)
            else:
                parameter.fill_(0 if name.endswith("bias") else 1)
    return model
