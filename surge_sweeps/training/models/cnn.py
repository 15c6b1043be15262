"""`cnn`: a 5-layer convolutional network, as in the paper's Fashion-MNIST experiment (Li et al. 2024, section 3.1).

The paper says "5-layer CNN" and gives neither code nor sizes. Taken here is the plainest network of that name: three
3 x 3 convolutions, each followed by ReLU and 2 x 2 max-pooling, with twice the channels of the one before, and two
linear layers. No BatchNorm, so that an example's gradient depends on no other example of its batch, and many replicas
train as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.models.initial import initialize_uniform
from surge_sweeps.training.models.shape_settings import shape_setting

if TYPE_CHECKING:
    from surge_sweeps.training.workloads.base import Settings

#: `width`: channels of the first convolution; the next two have 2 and 4 times as many, as has the hidden linear layer.
DEFAULTS = {"width": 16}

_POOLINGS = 3


def build(
    shape: tuple[int, int, int], classes: int, settings: Settings, generator: torch.Generator
) -> nn.Module:
    """A classifier of images.

    Args:
        shape: channels, height and width of an image.

    Returns:
        (batch, channels, height, width) float images -> (batch, classes) logits.

    Raises:
        TrainingError: `width` below 1, or images too small to be halved three times.

    >>> from surge_sweeps.training.workloads.base import Settings
    >>> model = build((1, 28, 28), 10, Settings(), torch.Generator().manual_seed(0))
    >>> model(torch.zeros(3, 1, 28, 28)).shape, sum(parameter.numel() for parameter in model.parameters())
    (torch.Size([3, 10]), 60874)
    """
    channels, height, width_in_pixels = shape
    smallest = 2**_POOLINGS
    if min(height, width_in_pixels) < smallest:
        raise TrainingError(
            f"images of {height} x {width_in_pixels} pixels are too small for the model 'cnn'.",
            f"Give images of at least {smallest} x {smallest} pixels, or take the model 'mlp'.",
        )
    width = shape_setting(settings, "width", DEFAULTS)
    last = 4 * width
    pixels = (height >> _POOLINGS) * (width_in_pixels >> _POOLINGS)
    with torch.device("meta"):
        network: list[nn.Module] = []
        for inside, outside in ((channels, width), (width, 2 * width), (2 * width, last)):
            # Pooling before the ReLU, with which it commutes: a quarter of the work.
            network += [nn.Conv2d(inside, outside, 3, padding=1), ChannelsLastMaxPool2d(2), nn.ReLU()]
        empty = nn.Sequential(
            *network, nn.Flatten(), nn.Linear(last * pixels, last), nn.ReLU(), nn.Linear(last, classes)
        )
    return initialize_uniform(empty, generator)


class ChannelsLastMaxPool2d(nn.MaxPool2d):
    """Max-pooling, on CPUs over a copy with the channels innermost, for which torch has a vector kernel."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same with height and width divided by the kernel's."""
        if inputs.device.type == "cpu":
            inputs = inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return functional.max_pool2d(inputs, self.kernel_size)
