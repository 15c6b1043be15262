"""Images by what the user calls them: a known data set, files of the hub, or a path; see `read_images`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.cifar_binary import CifarBinary
from surge_sweeps.training.data.class_folders import open_class_folders
from surge_sweeps.training.data.hub import PREFIX, hub_files
from surge_sweeps.training.data.idx import IdxFolder, is_idx_folder
from surge_sweeps.training.data.image_set import Colour, ImageReader, ImageSet, Part, read_part
from surge_sweeps.training.data.image_tables import ImageTables
from surge_sweeps.training.data.known import KNOWN, find_known, known
from surge_sweeps.training.data.places import DATA_VARIABLE, find_path

_FORMS = (
    "Name a folder of class folders or a zip file of one, a folder of IDX files, cifar-10-binary.tar.gz, a Parquet file"
    " or a folder of them, hf:OWNER/NAME@COMMIT/PATTERN, or a known data set: "
)


#: Of the held-out images, so large a part at most may be in the training set too: known sets have a few such doubles.
SHARED_SHARE = 0.01


class ImagePair(NamedTuple):
    """The two parts of a data set.

    Attributes:
        held_out: its labels are places among the classes of `train`; None: the data set has no such part.
    """

    train: ImageSet
    held_out: ImageSet | None


def read_images(data: str, eval_data: str | None = None) -> ImagePair:
    """The images to train on, and those to evaluate on.

    Args:
        data: the name of a known data set; `hf:OWNER/NAME@COMMIT/PATTERN`, Parquet files on the hub; or a path, see
            `find_path`: a folder of class folders or a zip file of one, a folder of IDX files, CIFAR-10's binary
            archive, a Parquet file or a folder of them. A name that is known comes before a path; write ./NAME for the
            path. `#rgb` or `#grey` behind it converts all images.
        eval_data: likewise; of a source with two parts the held-out one is taken. None: the held-out part of `data`.

    Raises:
        TrainingError: missing, damaged, or no images of one size and colour in at least two classes; or the two parts
            do not fit each other, or share more than `SHARED_SHARE` of the held-out images.
        MissingExtraError: Pillow, or for `hf:` huggingface_hub, is not installed.
    """
    train_reader, own = _open(data)
    train = read_part(train_reader, Part.TRAIN if train_reader.is_divided else Part.ALL)
    if len(train.classes) < 2:
        raise TrainingError(
            f"all {len(train.labels):,} images of {train.source} are of one class, {''.join(train.classes)!r}.",
            "Put the images of each class into a folder of its own.",
        )
    if eval_data is not None:
        reader, eval_own = _open(eval_data)
        own = eval_own or reader
    if own is None and train_reader.is_divided:
        own = train_reader
    if own is None:
        return ImagePair(train, None)
    held_out = read_part(own, Part.HELD_OUT if own.is_divided else Part.ALL)
    _check_apart(held_out, train)
    return ImagePair(train, _fitted(held_out, train))


def _check_apart(held_out: ImageSet, train: ImageSet) -> None:
    """Refuse a held-out set that is trained on. The pixels tell, whatever files are called and wherever they lie."""
    shared = int(np.isin(held_out.hashes, train.hashes).sum()) if held_out.shape == train.shape else 0
    if shared > SHARED_SHARE * len(held_out.hashes):
        raise TrainingError(
            f"{shared:,} of the {len(held_out.hashes):,} images of {held_out.source} to evaluate on are, pixel by"
            f" pixel, among the images of {train.source} to train on; at most {SHARED_SHARE:.0%} may be.",
            "Name other images to evaluate on, or none, to have a tenth set aside; or take the double ones out.",
        )


def _fitted(held_out: ImageSet, train: ImageSet) -> ImageSet:
    """The held-out set with its labels as places among the training set's classes."""
    if held_out.shape != train.shape:
        raise TrainingError(
            f"the images of {held_out.source} are {_size(held_out)}, and those of {train.source} {_size(train)}.",
            "Bring both to one size and colour.",
        )
    place = {name: index for index, name in enumerate(train.classes)}
    unknown = [name for name in held_out.classes if name not in place]
    if unknown:
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        raise TrainingError(
            f"{held_out.source} has classes that {train.source} lacks: {', '.join(unknown[:5])}{more}.",
            "Evaluate on classes that are trained on; their names must be the same.",
        )
    to_train = np.array([place[name] for name in held_out.classes], dtype=np.int64)
    return replace(held_out, labels=to_train[held_out.labels], classes=train.classes)


def _size(images: ImageSet) -> str:
    channels, height, width = images.shape
    return f"{width} x {height} pixels of {'1 channel' if channels == 1 else f'{channels} channels'}"


def _open(text: str) -> tuple[ImageReader, ImageReader | None]:
    """The reader of a source and, where it lies elsewhere, that of its held-out part."""
    name, colour = _without_colour(text)
    if name in KNOWN:
        found = find_known(name, "images")
        if known(name).is_converted_to_rgb:
            colour = colour or Colour.RGB
        (train,), (held_out,) = found.train, found.held_out
        return _reader(train, colour), None if held_out == train else _reader(held_out, colour)
    if name.startswith(PREFIX):
        paths = hub_files(name)
        return ImageTables(_only_parquet(paths, name), repr(name), colour), None
    return _reader(find_path(name), colour), None


def _without_colour(text: str) -> tuple[str, Colour | None]:
    """The source, and what its images are to be converted to.

    >>> _without_colour("photos.zip#rgb")
    ('photos.zip', <Colour.RGB: 'rgb'>)
    """
    for colour in Colour:
        if text.endswith(f"#{colour}"):
            return text.removesuffix(f"#{colour}"), colour
    return text, None


def _reader(path: Path, colour: Colour | None) -> ImageReader:
    if not path.exists():
        raise TrainingError(
            f"there is no data at {str(path)!r}, and no data set is known by that name.",
            f"{_FORMS}{', '.join(sorted(name for name in KNOWN if known(name).kind == 'images'))}. Relative paths are"
            f" looked for in {DATA_VARIABLE} (default: data) and in this folder.",
        )
    if path.is_dir():
        if is_idx_folder(path):
            return IdxFolder(path)
        tables = _tables(path)
        return (
            ImageTables(tuple(tables), repr(str(path)), colour)
            if tables
            else open_class_folders(path, colour)
        )
    if path.suffix.lower() == ".zip":
        return open_class_folders(path, colour)
    if path.suffix.lower() == ".parquet":
        return ImageTables((path,), repr(str(path)), colour)
    if path.name.endswith(".tar.gz"):
        return CifarBinary(path)
    raise TrainingError(
        f"{str(path)!r} is of no kind that images are read from.",
        f"{_FORMS}{', '.join(sorted(name for name in KNOWN if known(name).kind == 'images'))}.",
    )


def _tables(folder: Path) -> list[Path]:
    """The Parquet files in a folder, else those in the folders in it, as in the hub's own `train/0000.parquet`."""
    for pattern in ("*.parquet", "**/*.parquet"):
        found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
        if found:
            return sorted(found)
    return []


def _only_parquet(paths: tuple[Path, ...], name: str) -> tuple[Path, ...]:
    other = [path.name for path in paths if path.suffix.lower() != ".parquet"]
    if other:
        raise TrainingError(
            f"{name!r} names {other[0]!r}, which is no Parquet file.", "Let the pattern end in .parquet."
        )
    return paths
