"""Images of the user's own or of a known data set: small enough to be held in memory as bytes, and classified.

Without `eval_data` the data set's own held-out part is evaluated on; where it has none, a tenth of the images, at most
10,000, is set aside by one fixed permutation, the same for every seed. Of a held-out part of more than `EVAL_IMAGES`,
so many, chosen by another fixed permutation, are the held-out set, so that an evaluation takes no longer than some
steps. They are evaluated in the order of that permutation: folders hold class after class, and a part of one class
alone, normalised by its own statistics (BatchNorm), would hide the class.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.data.image_set import ImageSet
from surge_sweeps.training.data.images import ImagePair, read_images
from surge_sweeps.training.data.places import data_folder
from surge_sweeps.training.devices import CPU
from surge_sweeps.training.models import cnn, mlp, resnet18
from surge_sweeps.training.workloads.base import Settings, WorkloadSpec

#: Of a set without a held-out part, one example in so many is set aside,
HELD_OUT_ONE_IN = 10
#: but not more than this many.
HELD_OUT_EXAMPLES = 10_000
#: Images of the held-out set at most.
EVAL_IMAGES = 2000
#: Numbers in the images that are evaluated at once,
_NUMBERS_AT_ONCE = 2**20
#: and so many images at least: BatchNorm normalises them by their own statistics.
_IMAGES_AT_ONCE = 64
#: Of a GPU's free memory, the images may take this share; more stay in the main memory.
DEVICE_SHARE = 0.5
_SPLIT_SEED = 0
_CHOICE_SEED = 1
_MODELS = {"cnn": cnn, "mlp": mlp, "resnet18": resnet18}


@dataclass(frozen=True, eq=False)
class _Examples:
    """Images and labels on one device. rows: (examples,) int64 on the CPU, which of the images these are; None: all."""

    images: Tensor
    labels: Tensor
    rows: Tensor | None

    def __len__(self) -> int:
        return len(self.images if self.rows is None else self.rows)

    def at(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """uint8 images and labels of (examples,) indices, on `device`."""
        rows = indices if self.rows is None else self.rows[indices]
        rows = _moved(rows, self.images.device)
        images, labels = self.images.index_select(0, rows), self.labels.index_select(0, rows)
        return _moved(images, device), _moved(labels, device)


@dataclass(frozen=True, eq=False)
class Images:
    """The workload `images`; see `Workload`.

    Inputs are (examples, channels, height, width) float32, of each channel the mean over the training set subtracted
    and the rest divided by its standard deviation there; a channel that is the same everywhere is 0. Targets are
    (examples,) int64.

    Attributes:
        settings: of the models. shape: (channels, height, width). classes: their names, sorted.
        mean, std: (channels,) of the training set, in units of a pixel's largest value 1.
        digest: 12 hexadecimal digits that tell other images, labels or class names, or another order of them, apart.
    """

    settings: Settings
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    train: _Examples
    held_out: _Examples
    _scale: Tensor
    _shift: Tensor
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    tokens_per_example: None = None
    name: str = "images"

    @property
    def train_examples(self) -> int:
        """Images to train on."""
        return len(self.train)

    @property
    def eval_examples(self) -> int:
        """At most `EVAL_IMAGES`."""
        return len(self.held_out)

    @property
    def eval_examples_at_once(self) -> int:
        """So many that what a network's layers put out for them is held by small memories, if the images are small."""
        return max(_IMAGES_AT_ONCE, _NUMBERS_AT_ONCE // math.prod(self.shape))

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (*indices.shape, channels, height, width) and labels (*indices.shape), on `device`."""
        inputs, targets = self._batch(self.train, indices.reshape(-1))
        return inputs.reshape(*indices.shape, *self.shape), targets.reshape(indices.shape)

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The held-out images [start, stop) and their labels, on `device`."""
        return self._batch(self.held_out, torch.arange(start, min(stop, len(self.held_out))))

    def build_model(self, model: str, generator: torch.Generator) -> nn.Module:
        """A fresh `mlp`, `cnn` or `resnet18` for these images, its parameters from `generator`, on `device`.

        Raises:
            UnknownNameError: another model.
        """
        if model not in _MODELS:
            raise UnknownNameError("model", model, _MODELS)
        built: nn.Module = _MODELS[model].build(self.shape, len(self.classes), self.settings, generator)
        return built.to(self.device)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """() mean cross entropy in nats."""
        loss: Tensor = functional.cross_entropy(outputs, targets)
        return loss

    def on(self, device: torch.device) -> Images:
        """The same with its batches there, and its images too where they take no more than half of the free memory.

        Larger sets stay in the main memory; each batch then goes over as bytes, and becomes numbers there.
        """
        if device == self.device:
            return self
        there = device if self._fits(device) else CPU
        train = _placed(self.train, there)
        # A part that was set aside lies among the images to train on.
        is_shared = self.held_out.images is self.train.images
        return replace(
            self,
            device=device,
            train=train,
            held_out=replace(train, rows=self.held_out.rows) if is_shared else _placed(self.held_out, there),
            _scale=self._scale.to(device),
            _shift=self._shift.to(device),
        )

    def _fits(self, device: torch.device) -> bool:
        if device.type != "cuda":
            return True
        free_bytes, _ = torch.cuda.mem_get_info(device)
        stores = {item.images.data_ptr(): item.images.numel() for item in (self.train, self.held_out)}
        return sum(stores.values()) <= DEVICE_SHARE * free_bytes

    def _batch(self, examples: _Examples, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, targets = examples.at(indices, self.device)
        # Two steps, not a fused one: every batch size gives the same bits.
        return images.to(self.dtype).mul_(self._scale).add_(self._shift), targets


def load(settings: Settings) -> Images:
    """Read the images; the same ones are read once a process.

    Raises:
        TrainingError: see `read_images`; or too few images to set some aside.
        MissingExtraError: Pillow is not installed.
    """
    if settings.data is None:
        raise TrainingError("the workload 'images' needs data.", "Give it with --data, as in --data cifar10.")
    # The data folder is part of what a relative name means.
    pair = _read(settings.data, settings.eval_data, str(data_folder().resolve()))
    train, held_out = pair.train, pair.held_out
    rows, aside = None, np.empty(0, dtype=np.int64)
    if held_out is None:
        rows, aside = _split(len(train.labels), train.source)
    mean, std = _mean_and_std(train.moments if rows is None else train.moments[rows], train.shape)
    scale = [1 / (255 * one) if one > 0 else 0.0 for one in std]
    shift = [-(255 * one) * factor for one, factor in zip(mean, scale, strict=True)]
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    trained = _Examples(images, labels, None if rows is None else torch.from_numpy(rows))
    chosen = _chosen(aside if held_out is None else np.arange(len(held_out.labels)))
    if held_out is None:
        evaluated = _Examples(images, labels, torch.from_numpy(chosen))
    else:
        evaluated = _Examples(
            torch.from_numpy(held_out.images), torch.from_numpy(held_out.labels), torch.from_numpy(chosen)
        )
    return Images(
        settings=settings,
        shape=train.shape,
        classes=train.classes,
        mean=mean,
        std=std,
        digest=_digest((train, rows), (held_out or train, chosen)),
        train=trained,
        held_out=evaluated,
        _scale=torch.tensor(scale, dtype=torch.float32).reshape(-1, 1, 1),
        _shift=torch.tensor(shift, dtype=torch.float32).reshape(-1, 1, 1),
    )


SPEC = WorkloadSpec(
    load=load,
    models={name: module.DEFAULTS for name, module in _MODELS.items()},
    settings={"data": None, "eval_data": None},
    required=("data",),
    # Which shapes can be depends on the images' size, and the models are small.
    tries_models=True,
)


@lru_cache(maxsize=2)
def _read(data: str, eval_data: str | None, folder: str) -> ImagePair:
    return read_images(data, eval_data)


def _split(examples: int, source: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are trained on, and rows that are held out, each in rising order."""
    held_out = min(examples // HELD_OUT_ONE_IN, HELD_OUT_EXAMPLES)
    if held_out == 0:
        raise TrainingError(
            f"{source} holds {examples} images, too few to set one in {HELD_OUT_ONE_IN} aside.",
            "Name images to evaluate on with --eval-data.",
        )
    order = np.random.default_rng(_SPLIT_SEED).permutation(examples).astype(np.int64)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _chosen(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most `EVAL_IMAGES` of the rows, in the order of a permutation: all classes are among the first of them.

    >>> len(_chosen(np.arange(10_000))), sorted(_chosen(np.arange(4)).tolist())
    (2000, [0, 1, 2, 3])
    """
    order = np.random.default_rng(_CHOICE_SEED).permutation(len(rows))
    return rows[order[:EVAL_IMAGES]]


def _digest(*parts: tuple[ImageSet, NDArray[np.int64] | None]) -> str:
    """Of the pixels, labels and class names of image sets, each reduced to some rows (None: all), in their order.

    The order of what is evaluated counts: BatchNorm sees parts of it.
    """
    digest = hashlib.sha256()
    for images, rows in parts:
        head = {"shape": images.shape, "classes": images.classes, "examples": len(images.labels)}
        digest.update(json.dumps(head).encode())
        for values in (images.hashes, images.labels):
            # Of one byte order, so that all machines agree.
            used = values if rows is None else values[rows]
            digest.update(used.astype(used.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()[:12]


def _mean_and_std(
    moments: NDArray[np.int64], shape: tuple[int, int, int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel over all pixels, from whole numbers: exact up to the last division."""
    count = len(moments) * shape[1] * shape[2]
    sums, squares = (moments[:, :, power].sum(axis=0).tolist() for power in (0, 1))
    mean = tuple(total / count / 255 for total in sums)
    std = tuple(
        math.sqrt(max(count * square - total * total, 0)) / count / 255
        for total, square in zip(sums, squares, strict=True)
    )
    return mean, std


def _placed(examples: _Examples, device: torch.device) -> _Examples:
    return replace(examples, images=examples.images.to(device), labels=examples.labels.to(device))


def _moved(values: Tensor, device: torch.device) -> Tensor:
    if values.device == device:
        return values
    # From pinned memory the copy does not stop the caller.
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
