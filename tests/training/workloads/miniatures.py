"""Miniatures of the known data sets, in their own files and layouts: a few generated images and texts.

What is in them can be learned, if badly: an image's class is the place of a bright patch, and words follow each other
by a fixed rule. A folder of them is one that SURGE_DATA_DIR may name.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

CLASSES = 10
TRAIN_IMAGES = 60
HELD_OUT_IMAGES = 20
#: Characters of a training text; a held-out one has a quarter.
CHARACTERS = 12_000
_SHARDS = 10


def write_miniature(name: str, folder: Path) -> None:
    """Write the miniature of a known data set below a data folder."""
    MINIATURES[name](folder / name, np.random.default_rng(0))


def images(
    count: int, side: int, channels: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[int]]:
    """(count, side, side, channels) images of noise with a bright patch, and the class that its place is."""
    labels = [index % CLASSES for index in range(count)]
    pixels = rng.integers(0, 100, (count, side, side, channels), dtype=np.uint8)
    patch = side // 4
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(label, 4)
        image[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 150
    return pixels, labels


def sentences(characters: int, rng: np.random.Generator) -> Iterator[str]:
    """Sentences of invented words, each word mostly followed by one and the same."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 8, 64)]
    done, word = 0, 0
    while done < characters:
        sentence = []
        for _ in range(int(rng.integers(4, 12))):
            sentence.append(words[word])
            word = (3 * word + 1) % len(words) if rng.random() < 0.8 else int(rng.integers(len(words)))
        text = " ".join(sentence).capitalize() + "."
        done += len(text) + 1
        yield text


def _fashion_mnist(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", TRAIN_IMAGES), ("t10k", HELD_OUT_IMAGES)):
        pixels, labels = images(count, 28, 1, rng)
        for name, values, axes in (
            ("images-idx3", pixels[..., 0], (count, 28, 28)),
            ("labels-idx1", np.array(labels, dtype=np.uint8), (count,)),
        ):
            head = struct.pack(f">HBB{len(axes)}I", 0, 8, len(axes), *axes)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))


def _cifar10(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", TRAIN_IMAGES), ("test", HELD_OUT_IMAGES)):
        pixels, labels = images(count, 32, 3, rng)
        with zipfile.ZipFile(folder / f"cifar10-{part}.zip", "w") as archive:
            for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                archive.writestr(f"class-{label}/{index:04d}.jpg", _jpeg(image))


def _tiny_imagenet(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    top = "tiny-imagenet-200"
    with zipfile.ZipFile(folder / f"{top}.zip", "w") as archive:
        archive.writestr(f"{top}/wnids.txt", "".join(f"n{label:08d}\n" for label in range(CLASSES)))
        pixels, labels = images(TRAIN_IMAGES, 64, 3, rng)
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            # Some of the real ones are grey, too.
            content = _jpeg(image[..., 0] if index == 0 else image)
            archive.writestr(f"{top}/train/n{label:08d}/images/n{label:08d}_{index}.JPEG", content)
        pixels, labels = images(HELD_OUT_IMAGES, 64, 3, rng)
        lines = []
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            archive.writestr(f"{top}/val/images/val_{index}.JPEG", _jpeg(image))
            lines.append(f"val_{index}.JPEG\tn{label:08d}\t0\t0\t62\t62\n")
        archive.writestr(f"{top}/val/val_annotations.txt", "".join(lines))
        archive.writestr(f"{top}/test/images/test_0.JPEG", _jpeg(pixels[0]))


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def _tinyshakespeare(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    (folder / "input.txt").write_text("\n".join(sentences(CHARACTERS, rng)), encoding="utf-8")


def _wikitext_2(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for part, characters in (("train", CHARACTERS), ("validation", CHARACTERS // 4)):
        rows = ["", " = A heading = \n", *(f" {text} \n" for text in sentences(characters, rng))]
        pq.write_table(pa.table({"text": rows}), folder / f"{part}-00000-of-00001.parquet")


def _eli5_category(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for part, characters in (("train", CHARACTERS), ("validation-1", CHARACTERS // 4)):
        records = [
            {
                "q_id": str(number),
                "title": "Why?",
                "selftext": "",
                "category": "Other",
                "subreddit": "explainlikeimfive",
                "answers": {"a_id": ["a", "b"], "text": [text, "So it is."], "score": [3, 1]},
            }
            for number, text in enumerate(sentences(characters, rng))
        ]
        (folder / f"eli5-category-{part}.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))


def _redpajama(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for shard in range(_SHARDS):
        lines = [
            json.dumps({"url": "https://example.org", "language": "en", "raw_content": text})
            for text in sentences(CHARACTERS // (_SHARDS - 1), rng)
        ]
        content = gzip.compress("\n".join(lines).encode())
        (folder / f"{shard:04d}-en_head.json.gz").write_bytes(content)


MINIATURES: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "tiny-imagenet": _tiny_imagenet,
    "tinyshakespeare": _tinyshakespeare,
    "wikitext-2": _wikitext_2,
    "eli5-category": _eli5_category,
    "redpajama-v2-sample": _redpajama,
}
