"""`mlp`: fully connected layers with ReLU between them, for images and for the teacher's vectors."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from surge_sweeps.training.models.initial import initialize_uniform
from surge_sweeps.training.models.shape_settings import shape_setting

if TYPE_CHECKING:
    from surge_sweeps.training.workloads.base import Settings

#: `layers`: hidden ones. `width`: units of each.
DEFAULTS = {"layers": 2, "width": 256}


def build(
    shape: tuple[int, int, int], classes: int, settings: Settings, generator: torch.Generator
) -> nn.Module:
    """A classifier of images.

    Args:
        shape: channels, height and width of an image.

    Returns:
        (batch, channels, height, width) float images -> (batch, classes) logits.

    Raises:
        TrainingError: `layers` or `width` below 1.

    >>> from surge_sweeps.training.workloads.base import Settings
    >>> model = build((1, 28, 28), 10, Settings(), torch.Generator().manual_seed(0))
    >>> model(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """
    return build_regression(prod(shape), classes, settings, generator)


def build_regression(inputs: int, outputs: int, settings: Settings, generator: torch.Generator) -> nn.Module:
    """The same network on vectors.

    Returns:
        (batch, inputs) float vectors -> (batch, outputs).

    Raises:
        TrainingError: `layers` or `width` below 1.

    >>> from surge_sweeps.training.workloads.base import Settings
    >>> build_regression(4, 1, Settings(layers=1, width=8), torch.Generator().manual_seed(0))
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=4, out_features=8, bias=True)
      (2): ReLU()
      (3): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    layers = shape_setting(settings, "layers", DEFAULTS)
    width = shape_setting(settings, "width", DEFAULTS)
    with torch.device("meta"):
        network: list[nn.Module] = [nn.Flatten()]
        for units_in in [inputs, *[width] * (layers - 1)]:
            network += [nn.Linear(units_in, width), nn.ReLU()]
        empty = nn.Sequential(*network, nn.Linear(width, outputs))
    return initialize_uniform(empty, generator)
