"""Which part of a data set a file belongs to, by its name: `train-00000-of-00002.parquet`, `test/0000.parquet`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.errors import TrainingError

_TRAIN = "train"
_VALIDATION = "validation"
_TEST = "test"
#: Word of a name -> the part that it stands for.
_WORDS = {
    "train": _TRAIN,
    "training": _TRAIN,
    "validation": _VALIDATION,
    "valid": _VALIDATION,
    "val": _VALIDATION,
    "dev": _VALIDATION,
    "test": _TEST,
}
_HELP = (
    "Name the files to train on by a pattern or a folder of their own, and those to evaluate on with eval_data; or name"
    " every file after its part: train, validation or test."
)


class FileParts(NamedTuple):
    """Files to train on and files to evaluate on; where none are held out, all files are among the first."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def divide(files: Sequence[Path], name: str, *, is_test_first: bool) -> FileParts:
    """Divide files by their names: a part is a word of a file's name or, if there is none, of a folder's around it.

    The words are train, training; validation, valid, val, dev; test. Of the folders, only those below the one that
    holds all files count, the nearest first. Files that are all of one part, or of which none names a
    held-out part, are not divided. Where there are a validation and a test part, one of them is left out.

    Args:
        files: in their order, which is kept. name: what they lie in, for messages.
        is_test_first: which of the two is evaluated on.

    Raises:
        TrainingError: held-out files beside files of no part, or without any of the training part; or a name of
            several parts. Such files are not merged: the held-out ones would be trained on.

    >>> files = [Path("wiki/test.txt"), Path("wiki/train.txt"), Path("wiki/valid.txt")]
    >>> divided = divide(files, "'wiki'", is_test_first=False)
    >>> [path.name for path in divided.train], [path.name for path in divided.held_out]
    (['train.txt'], ['valid.txt'])
    """
    if len(files) < 2:
        return FileParts(tuple(files), ())
    above = Path(os.path.commonpath([path.parent for path in files]))
    found: dict[str | None, list[Path]] = {}
    for path in files:
        found.setdefault(_part(path, above, name), []).append(path)
    if len(found) == 1 or not (_VALIDATION in found or _TEST in found):
        return FileParts(tuple(files), ())
    if None in found or _TRAIN not in found:
        raise TrainingError(
            f"it is not clear which files of {name} are to train on: {_counted(found)}.", _HELP
        )
    order = (_TEST, _VALIDATION) if is_test_first else (_VALIDATION, _TEST)
    return FileParts(tuple(found[_TRAIN]), tuple(next(found[part] for part in order if part in found)))


def _part(path: Path, above: Path, name: str) -> str | None:
    for called in reversed(path.relative_to(above).parts):
        parts = sorted({_WORDS[word] for word in re.split("[^a-z0-9]+", called.lower()) if word in _WORDS})
        if len(parts) > 1:
            raise TrainingError(
                f"the name {called!r} in {name} speaks of several parts: {' and '.join(parts)}.", _HELP
            )
        if parts:
            return parts[0]
    return None


def _counted(found: Mapping[str | None, Sequence[Path]]) -> str:
    """How many files there are of each part.

    >>> _counted({"test": [Path("test.txt")], None: [Path("a.txt"), Path("b.txt")]})
    "1 of test ('test.txt'), 2 of no part ('a.txt', ...)"
    """
    counts = (
        f"{len(paths):,} of {part or 'no part'} ({paths[0].name!r}{', ...' if len(paths) > 1 else ''})"
        for part, paths in found.items()
    )
    return ", ".join(counts)
