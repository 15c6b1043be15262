"""Encoded images (JPEG, PNG and the like) into one array, by several threads; all must be of one size and colour."""

from __future__ import annotations

import io
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.counting import counted
from surge_sweeps.errors import TrainingError
from surge_sweeps.extras import require
from surge_sweeps.training.data.image_set import Colour, chunk_examples, new_images
from surge_sweeps.training.data.making import making

if TYPE_CHECKING:
    from PIL import Image

#: Others are never tried: some of Pillow's start programs.
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "WEBP", "TIFF")
_CHANNELS = {"L": 1, "RGB": 3}
_MODES = {Colour.RGB: "RGB", Colour.GREY: "L"}
_COLOUR_NAMES = {
    "L": "grey",
    "RGB": "RGB",
    "RGBA": "RGB with transparency",
    "P": "palette",
    "1": "black and white",
}
_KINDS_SHOWN = 5


@dataclass(frozen=True)
class EncodedImages:
    """Images in files that Pillow reads.

    Attributes:
        names: of the images, in the order of the examples. read: the bytes of the image at a place in `names`.
        source: where they lie, for messages. colour: what all are converted to; None: as they are.
    """

    names: Sequence[str]
    read: Callable[[int], bytes]
    source: str
    colour: Colour | None = None


class _OtherKind(Exception):
    """An image differs from the first one; all are then looked at, for the message."""


def decoder_version() -> list[str | None]:
    """What decided the pixels, beside the files."""
    features = require("PIL.features", "train")
    return [features.version("pil"), features.version("libjpeg_turbo"), features.version("jpg")]


def decode_images(encoded: EncodedImages, folder: Path) -> None:
    """Decode all images into `images.npy` of a folder: (examples, channels, height, width) uint8.

    Raises:
        TrainingError: there are none, one is damaged, or they differ in size or colour.
        MissingExtraError: Pillow is not installed.
    """
    require("PIL.Image", "train")
    if not encoded.names:
        raise TrainingError(f"{encoded.source} holds no images.", "Name the folder or file that holds them.")
    first = _pixels(encoded, 0)
    height, width, channels = first.shape
    images = new_images(folder, (len(encoded.names), channels, height, width))
    step = chunk_examples(first.shape)

    def decode(start: int) -> int:
        stop = min(start + step, len(images))
        chunk = np.empty((stop - start, height, width, channels), dtype=np.uint8)
        for index in range(start, stop):
            pixels = _pixels(encoded, index)
            if pixels.shape != first.shape:
                raise _OtherKind
            chunk[index - start] = pixels
        images[start:stop] = chunk.transpose(0, 3, 1, 2)
        return stop

    pool = ThreadPoolExecutor(_threads())
    try:
        with making("decoding", f"{counted(len(images), 'image')} of {encoded.source}") as progress:
            # An error of any thread is raised here.
            for done in pool.map(decode, range(0, len(images), step)):
                progress(done, len(images), f"{done:,} of {counted(len(images), 'image')}")
    except _OtherKind:
        pool.shutdown(cancel_futures=True)
        raise _differing(encoded) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _threads() -> int:
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _open(encoded: EncodedImages, index: int, use: Callable[[Image.Image], Any]) -> Any:
    from PIL import Image, UnidentifiedImageError

    content = encoded.read(index)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return use(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        what = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise TrainingError(
            f"the image {encoded.names[index]!r} of {encoded.source} cannot be decoded: {what}.",
            "Get the data again, or take the image out.",
        ) from error


def _pixels(encoded: EncodedImages, index: int) -> NDArray[np.uint8]:
    """(height, width, channels)."""

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        if encoded.colour is not None and image.mode != _MODES[encoded.colour]:
            image = image.convert(_MODES[encoded.colour])
        if image.mode not in _CHANNELS:
            raise _OtherKind
        return np.asarray(image).reshape(image.height, image.width, _CHANNELS[image.mode])

    try:
        decoded: NDArray[np.uint8] = _open(encoded, index, pixels)
    except _OtherKind:
        if index == 0:
            raise _differing(encoded) from None
        raise
    return decoded


def _differing(encoded: EncodedImages) -> TrainingError:
    """What sizes and colours there are, and how many of each; reads the head of every image."""
    kinds = Counter(
        _open(encoded, index, lambda image: (image.size, image.mode)) for index in range(len(encoded.names))
    )
    sizes: Counter[str] = Counter()
    colours: Counter[str] = Counter()
    for ((width, height), mode), count in kinds.items():
        sizes[f"of {width} x {height} pixels"] += count
        colours[_COLOUR_NAMES.get(mode, f"of mode {mode}")] += count
    if len(sizes) > 1:
        return TrainingError(
            f"the images of {encoded.source} differ in size: {_listed(sizes)}.",
            "Bring all to one size first; nothing is resized on its own.",
        )
    mixed = "differ in colour" if len(colours) > 1 else "are neither RGB nor grey"
    return TrainingError(
        f"the images of {encoded.source} {mixed}: {_listed(colours)}.",
        "Put #rgb or #grey behind the name of the data to have all converted.",
    )


def _listed(counts: Counter[str]) -> str:
    # Of equally many the name decides, so that the message does not depend on the order of the threads.
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {name}" for name, count in ordered[:_KINDS_SHOWN]]
    if len(ordered) > _KINDS_SHOWN:
        shown.append(f"and {len(ordered) - _KINDS_SHOWN:,} more kinds")
    return ", ".join(shown)
