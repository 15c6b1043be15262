"""IDX files, gzip or not; what is wrong with them is told in a sentence."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.images import read_images

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (20, 5, 7), dtype=np.uint8)
HELD_OUT = 255 - IMAGES[:6]
LABELS = np.arange(20, dtype=np.uint8) % 4


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))


def idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write(folder: Path, packed: bool = True, **changed: bytes | None) -> Path:
    """A folder as of Fashion-MNIST; `train_images=...` puts another content in the place of one."""
    folder.mkdir()
    contents: dict[str, bytes | None] = {
        "train_images": idx(IMAGES), "train_labels": idx(LABELS),
        "t10k_images": idx(HELD_OUT), "t10k_labels": idx(LABELS[:6]),
    } | changed  # fmt: skip
    for key, content in contents.items():
        part, what = key.split("_")
        name = f"{part}-{what}-idx{3 if what == 'images' else 1}-ubyte"
        if content is not None:
            (folder / (f"{name}.gz" if packed else name)).write_bytes(
                gzip.compress(content) if packed else content
            )
    return folder


def refused(folder: Path, *texts: str) -> bool:
    with pytest.raises(TrainingError) as caught:
        read_images(str(folder))
    assert caught.value.hint
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    return True


@pytest.mark.parametrize("packed", [True, False])
def test_both_parts_are_read(tmp_path: Path, packed: bool) -> None:
    write(tmp_path / "fashion-mnist", packed)
    pair = read_images("fashion-mnist")
    assert np.array_equal(pair.train.images[:, 0], IMAGES)
    assert np.array_equal(pair.train.labels, LABELS)
    assert pair.train.classes == ("0", "1", "2", "3")
    assert pair.held_out is not None
    assert np.array_equal(pair.held_out.images[:, 0], HELD_OUT)
    assert np.array_equal(pair.held_out.labels, LABELS[:6])


def test_labels_need_not_start_at_zero(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", train_labels=idx(LABELS + 10), t10k_labels=idx(LABELS[1:7] + 10))
    pair = read_images(str(folder))
    assert pair.train.classes == ("10", "11", "12", "13")
    assert pair.held_out is not None
    assert pair.held_out.labels.tolist() == [1, 2, 3, 0, 1, 2]


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    whole = idx(IMAGES)
    assert refused(
        write(tmp_path / "a", train_labels=None), "train-labels-idx1-ubyte", "each with or without .gz"
    )
    assert refused(
        write(tmp_path / "b", train_images=whole[:-3]), "697 values", "20 x 5 x 7 = 700", "cut off"
    )
    assert refused(write(tmp_path / "c", train_images=b"PK\3\4" + whole), "no IDX file", "50 4b 03 04")
    assert refused(write(tmp_path / "d", train_images=idx(LABELS), packed=False), "1 axes", "3 axes")
    assert refused(
        write(tmp_path / "e", train_images=whole[:2] + b"\x0d" + whole[3:]), "type 0x0d", "unsigned bytes"
    )
    assert refused(write(tmp_path / "f", train_labels=idx(LABELS[:-1])), "20 images", "19 labels")
    assert refused(write(tmp_path / "g", train_images=b""), "no IDX file", "nothing")


def test_a_cut_off_gzip_file_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(folder, "train-images-idx3-ubyte.gz", "cannot be read")
