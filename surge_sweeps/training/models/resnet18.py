"""`resnet18`: ResNet-18 (He et al. 2015, table 1) from `transformers`, as in the paper's TinyImageNet experiment.

Images of up to 64 pixels take the stem that is usual for CIFAR (He et al. 2015, section 4.2): a 3 x 3 convolution of
stride 1, no max-pooling. The ImageNet stem (7 x 7 of stride 2, then max-pooling), which larger images take, would leave
the last stage 2 x 2 pixels of a TinyImageNet image and one of CIFAR's. The paper (Li et al. 2024) does not say which it
used.

BatchNorm ties the examples of a batch to each other, and replicas with it cannot train as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.extras import require
from surge_sweeps.training.models.initial import uniform_layer
from surge_sweeps.training.models.shape_settings import shape_setting

if TYPE_CHECKING:
    from surge_sweeps.training.workloads.base import Settings

#: `width`: channels of the first stage, 64 in ResNet-18; the next three have 2, 4 and 8 times as many.
DEFAULTS = {"width": 64}

#: Sides, in pixels, of the largest images that take the small stem and of the smallest that are taken at all: the last
#: stage of smaller ones is a single pixel, of which BatchNorm can make nothing at batch size 1.
SMALL_STEM_PIXELS = 64
SMALLEST_PIXELS = 9


def build(
    shape: tuple[int, int, int], classes: int, settings: Settings, generator: torch.Generator
) -> nn.Module:
    """A classifier of images.

    Convolutions are drawn normal with variance 2 / (outputs of a unit) (He et al., arXiv 1502.01852), the last layer
    uniform within 1 / sqrt(inputs).

    Args:
        shape: channels, height and width of an image.

    Returns:
        (batch, channels, height, width) float images -> (batch, classes) logits.

    Raises:
        TrainingError: `width` below 1, or images of fewer than 9 pixels a side.
        MissingExtraError: transformers is not installed.
    """
    channels, *sides = shape
    if min(sides) < SMALLEST_PIXELS:
        raise TrainingError(
            f"images of {sides[0]} x {sides[1]} pixels are too small for the model 'resnet18'.",
            f"Give images of at least {SMALLEST_PIXELS} x {SMALLEST_PIXELS} pixels, or take the model 'mlp'.",
        )
    width = shape_setting(settings, "width", DEFAULTS)
    configuration = require("transformers.models.resnet.configuration_resnet", "hub")
    modeling = require("transformers.models.resnet.modeling_resnet", "hub")
    config = configuration.ResNetConfig(
        num_channels=channels,
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=classes,
    )
    with torch.device("meta"):
        network = modeling.ResNetForImageClassification(config)
        if max(sides) <= SMALL_STEM_PIXELS:
            stem = network.resnet.embedder
            stem.embedder = modeling.ResNetConvLayer(channels, width, kernel_size=3)
            stem.pooler = nn.Identity()
        empty = _Logits(network)
    return _initialize(empty, generator)


class _Logits(nn.Module):
    """The logits alone of a classifier of `transformers`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits


def _initialize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    model.to_empty(device="cpu")
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(
                    layer.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            elif isinstance(layer, nn.Linear):
                uniform_layer(layer, generator)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()  # gains 1, biases 0, and the running statistics: nothing of it is drawn
    return model
