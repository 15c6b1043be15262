"""Folders of class folders, or a zip file of them: `airplane/0001.jpg`; divided ones: `train/...` and `val/...`.

The order of the examples is that of the files' names, and a label is the place of its class among the sorted names,
so the same files give the same arrays on every machine. TinyImageNet's layout is understood as it is distributed:
images in `train/CLASS/images/`, and `val/val_annotations.txt` with the class of each image in `val/images/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.decoding import EncodedImages, decode_images, decoder_version
from surge_sweeps.training.data.image_set import Colour, Part, write_labels
from surge_sweeps.training.data.kept_values import kept_value
from surge_sweeps.training.data.named_files import FolderFiles, NamedFiles, ZipFiles

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".gif", ".webp", ".tif", ".tiff"}
_TRAIN = "train"
#: The first that is there is the held-out part. `val` first: TinyImageNet's `test` has no labels.
_HELD_OUT = ("val", "valid", "validation", "test")
_ANNOTATIONS = "val_annotations.txt"
_LAYOUT = "Put each class into a folder of its own: CLASS/IMAGE.jpg, or train/CLASS/IMAGE.jpg and val/CLASS/IMAGE.jpg."


class _Labelled(NamedTuple):
    """The name of a file and that of its class."""

    name: str
    label: str


@dataclass(frozen=True)
class ClassFolders:
    """Reads class folders; see `ImageReader`."""

    files: NamedFiles
    colour: Colour | None = None

    @property
    def source(self) -> str:
        """Where the images lie, for messages."""
        return self.files.source

    @property
    def is_divided(self) -> bool:
        """Whether there are a folder `train` of class folders and one that is held out."""
        return self._held_out is not None

    def stamp(self, part: Part) -> object:
        """The files' state, and what decides how they are decoded."""
        return [self.files.stamp(), self.colour, decoder_version()]

    def write(self, part: Part, folder: Path) -> None:
        """Decode the images of a part.

        Raises:
            TrainingError: no images, images outside of class folders, one that is damaged, or several sizes.
        """
        found = self._examples(part)
        classes = sorted({item.label for item in found})
        place = {name: index for index, name in enumerate(classes)}
        names = [item.name for item in found]
        decode_images(
            EncodedImages(names, lambda index: self.files.read(names[index]), self.source, self.colour),
            folder,
        )
        write_labels(folder, np.array([place[item.label] for item in found], dtype=np.int64), classes)

    @cached_property
    def _top(self) -> str:
        """The folder that holds everything, as zip files often have one; with its slash."""
        names = self.files.names
        top, slash, _ = names[0].partition("/") if names else ("", "", "")
        prefix = f"{top}/"
        # A single class folder is no such folder: there are folders in this one.
        is_around = bool(slash) and all(name.startswith(prefix) for name in names)
        return prefix if is_around and any(name.count("/") > 1 for name in names) else ""

    @cached_property
    def _held_out(self) -> str | None:
        """Name of the folder with the held-out part; None: the source is not divided.

        It is kept: to list a large zip file takes longer than to map its images.
        """

        def make(folder: Path) -> None:
            (folder / "held_out.json").write_text(json.dumps(self._find_held_out()), encoding="utf-8")

        def read(folder: Path) -> tuple[str | None] | None:
            try:
                name = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None
            return (name,) if name is None or name in _HELD_OUT else None

        return kept_value("layouts", {"files": self.files.stamp()}, make, read)[0]

    def _find_held_out(self) -> str | None:
        # A class may be called `train`: then there are images in it, and no folders.
        inside = [name.removeprefix(self._top) for name in self.files.names]
        depth = dict.fromkeys((_TRAIN, *_HELD_OUT), 0)
        for name in inside:
            first = name.partition("/")[0]
            if first in depth:
                depth[first] = max(depth[first], name.count("/"))
        if depth[_TRAIN] < 2:
            return None
        return next((name for name in _HELD_OUT if depth[name] > 1), None)

    def _examples(self, part: Part) -> Sequence[_Labelled]:
        below = {Part.ALL: "", Part.TRAIN: f"{_TRAIN}/", Part.HELD_OUT: f"{self._held_out}/"}[part]
        prefix = f"{self._top}{below}"
        names = [name for name in self.files.names if name.startswith(prefix)]
        images = [name for name in names if PurePosixPath(name).suffix.lower() in _SUFFIXES]
        where = f"{self.source}, folder {prefix!r}," if prefix else self.source
        if not images:
            raise TrainingError(f"{where} holds no images ({', '.join(sorted(_SUFFIXES))}).", _LAYOUT)
        if f"{prefix}{_ANNOTATIONS}" in names:
            return self._annotated(prefix, images)
        found = [_Labelled(name, name.removeprefix(prefix).partition("/")[0]) for name in images]
        loose = [item.name for item in found if "/" not in item.name.removeprefix(prefix)]
        if loose:
            raise TrainingError(
                f"{where} holds {len(loose):,} images outside of class folders, {loose[0]!r} first.", _LAYOUT
            )
        return found

    def _annotated(self, prefix: str, images: Sequence[str]) -> Sequence[_Labelled]:
        """The images with the classes that the annotations give them: a line is IMAGE, tab, CLASS, and more."""
        file = f"{prefix}{_ANNOTATIONS}"
        lines = self.files.read(file).decode("utf-8", errors="replace").splitlines()
        label_of = {}
        for line in lines:
            name, tab, rest = line.partition("\t")
            if tab:
                label_of[name] = rest.partition("\t")[0]
        short = {name: PurePosixPath(name).name for name in images}
        unknown = [name for name in images if short[name] not in label_of]
        missing = len(label_of.keys() - set(short.values()))
        if unknown or missing:
            raise TrainingError(
                f"{file!r} of {self.source} does not fit its images: {len(unknown):,} images have no line, and"
                f" {missing:,} lines have no image.",
                "Get the data again.",
            )
        return [_Labelled(name, label_of[short[name]]) for name in images]


def open_class_folders(path: Path, colour: Colour | None) -> ClassFolders:
    """The reader of a folder or a zip file."""
    return ClassFolders(FolderFiles(path) if path.is_dir() else ZipFiles(path), colour)
