"""Handwritten digits: the 1,797 images of 8 x 8 pixels that ship with scikit-learn (UCI Optical Recognition).

1,437 images are trained on and 360 held out; the split is one fixed permutation, the same for every seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from surge_sweeps.errors import UnknownNameError
from surge_sweeps.extras import require
from surge_sweeps.training.models.cnn import ChannelsLastMaxPool2d
from surge_sweeps.training.models.initial import initialize_uniform
from surge_sweeps.training.workloads.base import Settings, WorkloadSpec

HELD_OUT = 360
_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits workload; see `Workload`.

    Attributes:
        train_inputs, eval_inputs: (examples, 1, 8, 8) in 0..1; models take their dtype.
        train_targets, eval_targets: (examples,) int64.
    """

    train_inputs: Tensor
    train_targets: Tensor
    eval_inputs: Tensor
    eval_targets: Tensor
    name: str = "digits"
    tokens_per_example: int | None = None
    digest: str | None = None

    @property
    def train_examples(self) -> int:
        """1,437."""
        return len(self.train_targets)

    @property
    def eval_examples(self) -> int:
        """360."""
        return len(self.eval_targets)

    @property
    def eval_examples_at_once(self) -> int:
        """All."""
        return self.eval_examples

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs and parameters."""
        return self.train_inputs.dtype

    @property
    def device(self) -> torch.device:
        """Where all of it lies."""
        return self.train_inputs.device

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(*indices.shape, 1, 8, 8) images and (*indices.shape,) digits."""
        if self.device.type != "cpu":
            indices = indices.to(self.device, non_blocking=True)
        return self.train_inputs[indices], self.train_targets[indices]

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Held-out images and digits."""
        return self.eval_inputs[start:stop], self.eval_targets[start:stop]

    def build_model(self, model: str, generator: torch.Generator) -> nn.Module:
        """A fresh `mlp` or `cnn` with torch's default initialisation drawn from `generator`."""
        if model not in MODELS:
            raise UnknownNameError("model", model, MODELS)
        with torch.device("meta"):
            empty = MODELS[model]()
        # Made on the processor, so that a seed gives the same parameters everywhere.
        return initialize_uniform(empty, generator).to(self.device, self.dtype)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """() mean cross entropy in nats."""
        loss: Tensor = functional.cross_entropy(outputs, targets)
        return loss

    def on(self, device: torch.device) -> Digits:
        """With all of it on `device`."""
        if device == self.device:
            return self
        names = ("train_inputs", "train_targets", "eval_inputs", "eval_targets")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@cache
def load() -> Digits:
    """Read the images; no network needed.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    images, digits = _images()
    inputs = torch.from_numpy(images.astype(np.float32) / 16).unsqueeze(1)
    targets = torch.from_numpy(digits.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(_SPLIT_SEED).permutation(len(targets)))
    held_out, trained = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(inputs[trained], targets[trained], inputs[held_out], targets[held_out])


def _images() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(1797, 8, 8) pixels in 0..16 and (1797,) digits, as scikit-learn's `load_digits` gives them."""
    found = find_spec("sklearn")
    file = Path(found.origin).parent / "datasets/data/digits.csv.gz" if found and found.origin else None
    if file is None or not file.is_file():
        data = require("sklearn.datasets", "train").load_digits()
        return data.images, data.target
    # Importing the package takes a hundred times as long as reading its file.
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]


def _load(settings: Settings) -> Digits:
    """The digits know no settings."""
    return load()


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        # Before the ReLU, with which it commutes: a quarter of the work.
        ChannelsLastMaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": _mlp, "cnn": _cnn}

SPEC = WorkloadSpec(load=_load, models={name: {} for name in MODELS})
