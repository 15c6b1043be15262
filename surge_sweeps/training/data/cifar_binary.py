"""CIFAR-10's binary version, `cifar-10-binary.tar.gz`, read where it is: nothing is unpacked.

A record is the label, one byte, and 3 x 32 x 32 bytes of pixels, channel by channel and row by row
(https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version").
"""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.image_set import Part, write_arrays
from surge_sweeps.training.data.named_files import file_stamp

_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32
_CLASS_NAMES = "batches.meta.txt"
_FILES = {
    Part.TRAIN: tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    Part.HELD_OUT: ("test_batch.bin",),
}
_AGAIN = "Get the file again: surge-sweep data cifar10."


@dataclass(frozen=True)
class CifarBinary:
    """Reads the archive; see `ImageReader`."""

    path: Path

    @property
    def source(self) -> str:
        """The archive, for messages."""
        return repr(str(self.path))

    @property
    def is_divided(self) -> bool:
        """It always is."""
        return True

    def stamp(self, part: Part) -> object:
        """The state of the archive."""
        return file_stamp(self.path)

    def write(self, part: Part, folder: Path) -> None:
        """Read the batches of a part in their order.

        Raises:
            TrainingError: the archive is damaged, or lacks a file.
        """
        contents = self._contents({*_FILES[part], _CLASS_NAMES})
        classes = contents.pop(_CLASS_NAMES).decode("utf-8", errors="replace").split()
        for name, content in contents.items():
            if len(content) % _RECORD_BYTES or not content:
                raise TrainingError(
                    f"{name} in {self.source} holds {len(content):,} bytes, no whole number of records.",
                    _AGAIN,
                )
        records = np.frombuffer(b"".join(contents[name] for name in _FILES[part]), np.uint8)
        records = records.reshape(-1, _RECORD_BYTES)
        labels = records[:, 0].astype(np.int64)
        if int(labels.max()) >= len(classes):
            raise TrainingError(
                f"{self.source} has the label {labels.max()}, and names {len(classes)} classes.", _AGAIN
            )
        write_arrays(folder, records[:, 1:].reshape(-1, *_SHAPE), labels, classes)

    def _contents(self, wanted: set[str]) -> dict[str, bytes]:
        found = {}
        try:
            with tarfile.open(self.path, "r:gz") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    file = archive.extractfile(member) if name in wanted and member.isfile() else None
                    if file is not None:
                        found[name] = file.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise TrainingError(f"{self.source} cannot be read: {error}.", _AGAIN) from error
        if missing := wanted - found.keys():
            raise TrainingError(f"{self.source} lacks {', '.join(sorted(missing))}.", _AGAIN)
        return found
