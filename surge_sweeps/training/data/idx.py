"""IDX files, the form of MNIST and Fashion-MNIST: two zero bytes, a type, the number of axes, their lengths, values.

A folder holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k` for the held-out part, each
with or without `.gz`. Source of the form: http://yann.lecun.com/exdb/mnist (the MNIST database of handwritten digits).
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.image_set import Part, compact_labels, write_arrays
from surge_sweeps.training.data.named_files import file_stamp

_UNSIGNED_BYTE = 0x08
_PREFIX = {Part.TRAIN: "train", Part.HELD_OUT: "t10k"}
_LAYOUT = (
    "The folder needs train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and"
    " t10k-labels-idx1-ubyte, each with or without .gz."
)


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes with that many axes; `.gz` is unpacked.

    Raises:
        TrainingError: missing, damaged or truncated, no IDX file, or one of other values or axes.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    ...     file.flush()
    ...     read_idx(Path(file.name), axes=1)
    array([7, 9], dtype=uint8)
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as packed:
                content = packed.read()
        else:
            content = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"{str(path)!r} cannot be read: {error}.", "Get the file again.") from error
    head = 4 + 4 * axes
    if len(content) < head or content[:2] != b"\0\0":
        raise TrainingError(
            f"{str(path)!r} is no IDX file: it starts with {content[:4].hex(' ') or 'nothing'}.",
            f"An IDX file of unsigned bytes with {axes} axes starts with 00 00 08 {axes:02x}.",
        )
    if content[2] != _UNSIGNED_BYTE or content[3] != axes:
        raise TrainingError(
            f"{str(path)!r} is an IDX file of type {content[2]:#04x} with {content[3]} axes, where unsigned bytes"
            f" ({_UNSIGNED_BYTE:#04x}) with {axes} axes are needed.",
            "See whether images and labels changed places."
            if content[2] == _UNSIGNED_BYTE
            else "Write its values as unsigned bytes.",
        )
    shape = [int(length) for length in np.frombuffer(content, ">u4", count=axes, offset=4)]
    if len(content) - head != math.prod(shape):
        raise TrainingError(
            f"{str(path)!r} holds {len(content) - head:,} values, and its head says"
            f" {' x '.join(map(str, shape))} = {math.prod(shape):,}.",
            "It was cut off or is damaged: get the file again.",
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


@dataclass(frozen=True)
class IdxFolder:
    """Reads a folder of IDX files; see `ImageReader`."""

    folder: Path

    @property
    def source(self) -> str:
        """The folder, for messages."""
        return repr(str(self.folder))

    @property
    def is_divided(self) -> bool:
        """These folders always are."""
        return True

    def stamp(self, part: Part) -> object:
        """The state of the two files of a part."""
        return [file_stamp(path) for path in self._paths(part)]

    def write(self, part: Part, folder: Path) -> None:
        """Read the two files of a part.

        Raises:
            TrainingError: one is missing, damaged or no IDX file, or their counts differ.
        """
        image_path, label_path = self._paths(part)
        images, numbers = read_idx(image_path, axes=3), read_idx(label_path, axes=1)
        if len(images) != len(numbers):
            raise TrainingError(
                f"{image_path.name} of {self.source} holds {len(images):,} images, and {label_path.name}"
                f" {len(numbers):,} labels.",
                "Get both files from the same data set.",
            )
        labels, classes = compact_labels(numbers.astype(np.int64), f"{str(label_path)!r}")
        write_arrays(folder, images[:, None], labels, classes)

    def _paths(self, part: Part) -> tuple[Path, Path]:
        return self._file(part, "images-idx3-ubyte"), self._file(part, "labels-idx1-ubyte")

    def _file(self, part: Part, what: str) -> Path:
        name = f"{_PREFIX[part]}-{what}"
        # Folders that other tools unpacked hold both: they are the same, and the one without .gz is read faster.
        for path in (self.folder / name, self.folder / f"{name}.gz"):
            if path.is_file():
                return path
        raise TrainingError(f"{self.source} has no file {name} or {name}.gz.", _LAYOUT)


def is_idx_folder(folder: Path) -> bool:
    """Whether any of the files is there."""
    return any(folder.glob("*-idx[13]-ubyte*"))
