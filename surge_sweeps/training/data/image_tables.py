"""Parquet files of encoded images in the Hugging Face layout: `image` = {bytes, path}, `label` = number or name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.decoding import EncodedImages, decode_images, decoder_version
from surge_sweeps.training.data.image_set import Colour, Part, compact_labels, write_labels
from surge_sweeps.training.data.named_files import file_stamp
from surge_sweeps.training.data.parts import divide

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class ImageTables:
    """Reads Parquet files in the order of their names, divided by these (see `divide`); see `ImageReader`."""

    paths: tuple[Path, ...]
    source: str
    colour: Colour | None = None

    @property
    def is_divided(self) -> bool:
        """Whether there are files of the part `train` and of a held-out one: `test`, else `validation`."""
        return bool(self._by_part[Part.HELD_OUT])

    @cached_property
    def _by_part(self) -> dict[Part, tuple[Path, ...]]:
        train, held_out = divide(self.paths, self.source, is_test_first=True)
        return {Part.ALL: self.paths, Part.TRAIN: train, Part.HELD_OUT: held_out}

    def stamp(self, part: Part) -> object:
        """The files' state, and what decides how they are decoded."""
        return [[file_stamp(path) for path in self._by_part[part]], self.colour, decoder_version()]

    def write(self, part: Part, folder: Path) -> None:
        """Decode the images of a part.

        Raises:
            TrainingError: a file that is damaged, or without such columns; no images, or several sizes.
        """
        tables = [_read(path) for path in self._by_part[part]]
        contents = [content for images, _, _ in tables for content in images]
        if None in contents:
            raise TrainingError(
                f"the image in row {contents.index(None):,} of {self.source} is missing.", "Take the row out."
            )
        names = [f"row {row}" for row in range(len(contents))]
        encoded = EncodedImages(names, lambda index: contents[index] or b"", self.source, self.colour)
        decode_images(encoded, folder)
        labels, classes = self._labels([values for _, values, _ in tables], [names for _, _, names in tables])
        write_labels(folder, labels, classes)

    def _labels(
        self, values: Sequence[list[Any]], names: Sequence[tuple[str, ...]]
    ) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        together = [value for one in values for value in one]
        if None in together:
            raise TrainingError(
                f"row {together.index(None):,} of {self.source} has no label.", "Take such rows out."
            )
        if all(isinstance(value, str) for value in together):
            classes = sorted(set(together))
            place = {name: index for index, name in enumerate(classes)}
            return np.array([place[value] for value in together], dtype=np.int64), tuple(classes)
        if not all(isinstance(value, int) for value in together):
            raise TrainingError(
                f"the labels of {self.source} are neither whole numbers nor names.",
                "Name the column `label`.",
            )
        labels, classes_seen = compact_labels(np.array(together, dtype=np.int64), self.source)
        if len(set(names)) != 1 or not names[0] or int(classes_seen[-1]) >= len(names[0]):
            return labels, classes_seen
        # The names that came with the numbers, sorted as those of class folders are.
        called = [names[0][int(number)] for number in classes_seen]
        if len(set(called)) < len(called):
            return labels, classes_seen
        ordered = sorted(called)
        to_sorted = np.array([ordered.index(name) for name in called], dtype=np.int64)
        return to_sorted[labels], tuple(ordered)


def _read(path: Path) -> tuple[list[bytes | None], list[Any], tuple[str, ...]]:
    """Encoded images, labels, and the names of the labels (none: numbers without names)."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        # A dictionary of columns that are there, read as they are stored.
        schema = pq.read_schema(path)
        image = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
        label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
        if image is None or label is None:
            raise TrainingError(
                f"{str(path)!r} has the columns {', '.join(schema.names) or 'none'}.",
                "Name the images `image`, a structure with the field `bytes`, and their classes `label`.",
            )
        table = pq.read_table(path, columns=[image, label])
        column = table.column(image)
        if pyarrow.types.is_struct(column.type):
            column = pyarrow.compute.struct_field(column, "bytes")
        if not (pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type)):
            raise TrainingError(
                f"the column {image!r} of {str(path)!r} holds {column.type}, no encoded images.",
                "It must be bytes, or a structure with the field `bytes`.",
            )
        return column.to_pylist(), table.column(label).to_pylist(), _label_names(schema, label)
    except (OSError, pyarrow.ArrowException) as error:
        raise TrainingError(
            f"{str(path)!r} cannot be read as Parquet: {str(error).splitlines()[0].rstrip('.')}.",
            "Get the file again: it may be cut short.",
        ) from error


def _label_names(schema: Any, label: str) -> tuple[str, ...]:
    """The classes' names as the package `datasets` keeps them beside the schema; empty where there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
