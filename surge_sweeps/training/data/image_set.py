"""Images as arrays: what every reader gives, how it is kept on disk, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.kept_values import kept_value

#: Raised when the arrays that are kept change their form: older ones are then made anew.
_FORMAT = 2
#: Values that are worked on at a time.
CHUNK_VALUES = 1 << 21


class Part(StrEnum):
    """Which examples of a source: one that is not divided has `ALL` alone, the others `TRAIN` and `HELD_OUT`."""

    ALL = "all"
    TRAIN = "train"
    HELD_OUT = "held_out"


class Colour(StrEnum):
    """What images are converted to where the user says so."""

    RGB = "rgb"
    GREY = "grey"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels; the arrays are memory-mapped, so that processes share them.

    Attributes:
        images: (examples, channels, height, width) uint8. labels: (examples,) int64, places in `classes`.
        moments: (examples, channels, 2) int64, the sum of each channel's values and that of their squares.
        hashes: (examples,) uint64, of each image's pixels: the same for two images only where their pixels are.
        classes: their names, sorted. source: where the images come from, for messages.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    moments: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    classes: tuple[str, ...]
    source: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


class ImageReader(Protocol):
    """Reads one source of images.

    Attributes:
        source: where it reads, for messages.
        is_divided: whether the source says itself which of its examples are held out.
    """

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def is_divided(self) -> bool: ...  # noqa: D102

    def stamp(self, part: Part) -> object:
        """JSON that changes with what `write` writes: the files' names, sizes and times of change."""
        ...

    def write(self, part: Part, folder: Path) -> None:
        """Write the examples of a part as `write_arrays` does."""
        ...


def read_part(reader: ImageReader, part: Part) -> ImageSet:
    """The examples of a part; decoded once, afterwards mapped from the cache.

    Raises:
        TrainingError: what is there is missing, damaged, or no set of images of one size.
    """
    key = {"format": _FORMAT, "part": part, "files": reader.stamp(part), "reader": type(reader).__name__}

    def read(folder: Path) -> ImageSet | None:
        try:
            names = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
            # Copy on write: torch warns of arrays that it may not write to.
            return ImageSet(
                images=np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False),
                labels=np.load(folder / "labels.npy", allow_pickle=False),
                moments=np.load(folder / "moments.npy", allow_pickle=False),
                hashes=np.load(folder / "hashes.npy", allow_pickle=False),
                classes=tuple(names),
                source=reader.source,
            )
        except (OSError, EOFError, ValueError):
            return None

    return kept_value("images", key, lambda folder: reader.write(part, folder), read)


def new_images(folder: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array of images in that folder, mapped for writing: a set larger than the memory can be written."""
    return np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)


def write_labels(folder: Path, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Add to a folder with images what else belongs to an image set."""
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    np.save(folder / "moments.npy", _moments(images), allow_pickle=False)
    np.save(folder / "hashes.npy", _hashes(images), allow_pickle=False)
    np.save(folder / "labels.npy", labels.astype(np.int64), allow_pickle=False)
    (folder / "classes.json").write_text(json.dumps(list(classes)), encoding="utf-8")


def write_arrays(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Write an image set that is in memory."""
    np.save(folder / "images.npy", images, allow_pickle=False)
    write_labels(folder, labels, classes)


def compact_labels(values: NDArray[np.int64], source: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Numbers that name classes, as places among the sorted numbers, and those numbers as names.

    Raises:
        TrainingError: a negative number, which stands for an unknown class.

    >>> labels, classes = compact_labels(np.array([7, 3, 7]), "it")
    >>> labels.tolist(), classes
    ([1, 0, 1], ('3', '7'))
    """
    if values.size and int(values.min()) < 0:
        raise TrainingError(
            f"{source} holds {np.count_nonzero(values < 0):,} examples without a label (a negative one).",
            "Name a part of the data that has labels.",
        )
    classes, labels = np.unique(values, return_inverse=True)
    return labels.astype(np.int64), tuple(str(number) for number in classes)


def chunk_examples(shape: Sequence[int]) -> int:
    """How many images of a shape make one piece of work."""
    return max(1, CHUNK_VALUES // math.prod(shape))


def _moments(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    examples, channels = images.shape[:2]
    moments = np.empty((examples, channels, 2), dtype=np.int64)
    step = chunk_examples(images.shape[1:])
    for start in range(0, examples, step):
        values = images[start : start + step].reshape(-1, channels, math.prod(images.shape[2:]))
        wide = values.astype(np.int64)
        moments[start : start + step, :, 0] = wide.sum(axis=2)
        moments[start : start + step, :, 1] = np.square(wide, out=wide).sum(axis=2)
    return moments


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    hashes = np.empty(len(images), dtype="<u8")
    for index, image in enumerate(images):
        hashes[index] = int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little")
    return hashes
