"""Every layout of images gives the same arrays on every machine; what is wrong is told in a sentence."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.images import read_images

CIFAR_ZIPS = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))


def picture(value: int, size: tuple[int, int] = (6, 4), mode: str = "RGB", form: str = "PNG") -> bytes:
    """An image of one grey value, of another value in its top left corner; PNG keeps both exactly."""
    image = Image.new("RGB", size, (value, value, value))
    image.putpixel((0, 0), (value, 0, 255))
    content = io.BytesIO()
    image.convert(mode).save(content, form)
    return content.getvalue()


#: Names in no order, with what belongs to no class between them.
CLASSES = {
    "dog/b.png": picture(20),
    "cat/z.jpeg": picture(30),
    "dog/a.png": picture(10),
    "README.txt": b"no image",
    "dog/.hidden.png": b"no image",
    "cat/notes.csv": b"no image",
}


def as_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def as_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def under(prefix: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}/{name}": content for name, content in files.items()}


def refused(*texts: str, data: Path | str, eval_data: Path | str | None = None) -> bool:
    with pytest.raises(TrainingError) as caught:
        read_images(str(data), None if eval_data is None else str(eval_data))
    assert caught.value.hint
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    return True


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder around it"])
def test_class_folders_are_sorted_by_name(tmp_path: Path, form: str) -> None:
    if form == "folder":
        path = as_folder(tmp_path / "pets", CLASSES)
    else:
        path = as_zip(tmp_path / "pets.zip", CLASSES if form == "zip" else under("pets", CLASSES))
    pair = read_images(str(path))
    train = pair.train
    assert pair.held_out is None
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1]
    assert train.images.shape == (3, 3, 4, 6)
    assert train.images[:, 0, 2, 2].tolist() == [30, 10, 20]
    assert train.images[1, :, 0, 0].tolist() == [10, 0, 255]
    assert train.moments[1, 2].tolist() == [10 * 23 + 255, 100 * 23 + 255**2]


def test_folder_and_zip_give_the_same_bits(tmp_path: Path) -> None:
    files = {f"c{index % 3}/{index:03}.jpg": picture(index, form="JPEG") for index in range(50)}
    one = read_images(str(as_folder(tmp_path / "a", files))).train
    two = read_images(str(as_zip(tmp_path / "a.zip", dict(reversed(files.items()))))).train
    assert np.array_equal(one.images, two.images)
    assert np.array_equal(one.labels, two.labels)


def test_relative_paths_are_looked_for_in_the_data_folder_and_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_folder(tmp_path / "data" / "pets", CLASSES)
    as_folder(tmp_path / "here" / "wild", CLASSES)
    monkeypatch.chdir(tmp_path / "here")
    assert "data" in read_images("pets").train.source
    assert "data" not in read_images("wild").train.source


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_divided_folder_says_itself_what_is_held_out(tmp_path: Path, name: str) -> None:
    path = as_folder(tmp_path / "a", under("train", CLASSES) | {f"{name}/dog/x.png": picture(90)})
    pair = read_images(str(path))
    assert len(pair.train.labels) == 3
    assert pair.held_out is not None
    # `dog` is class 1 of the training set, though it is the only one here.
    assert pair.held_out.labels.tolist() == [1]
    assert pair.held_out.images[0, 0, 1, 1] == 90


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "a", {"train/1.png": picture(1), "test/2.png": picture(2)})
    assert read_images(str(path)).train.classes == ("test", "train")


@pytest.mark.parametrize("is_zip", [False, True])
def test_tiny_imagenets_layout(tmp_path: Path, is_zip: bool) -> None:
    files = under("tiny-imagenet-200", {
        "wnids.txt": b"n2\nn1\n",
        "train/n1/n1_boxes.txt": b"n1_0.JPEG\t0\t0\t3\t3\n",
        "train/n1/images/n1_0.JPEG": picture(1, form="JPEG"),
        "train/n2/images/n2_0.JPEG": picture(2, mode="L", form="JPEG"),
        "val/val_annotations.txt": b"val_0.JPEG\tn2\t0\t0\t3\t3\nval_1.JPEG\tn1\t0\t0\t3\t3\n",
        "val/images/val_0.JPEG": picture(3, form="JPEG"),
        "val/images/val_1.JPEG": picture(4, form="JPEG"),
        "test/images/test_0.JPEG": picture(5, form="JPEG"),
    })  # fmt: skip
    data = tmp_path / "data"
    if is_zip:
        as_zip(data / "tiny-imagenet" / "tiny-imagenet-200.zip", files)
    else:
        as_folder(data, files)
    # The known data set, whose few grey images are made RGB.
    pair = read_images("tiny-imagenet")
    assert pair.train.images.shape == (2, 3, 4, 6)
    assert pair.train.classes == ("n1", "n2")
    assert pair.held_out is not None
    assert pair.held_out.labels.tolist() == [1, 0]


def test_annotations_that_do_not_fit_are_told(tmp_path: Path) -> None:
    files = {
        "train/n1/images/0.png": picture(1),
        "train/n2/images/0.png": picture(2),
        "val/val_annotations.txt": b"0.png\tn2\t0\nmissing.png\tn1\t0\n",
        "val/images/0.png": picture(3),
        "val/images/1.png": picture(3),
    }
    assert refused("1 images have no line", "1 lines have no image", data=as_folder(tmp_path / "a", files))


def parquet(path: Path, rows: list[tuple[bytes | None, object]], names: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array(
        [None if content is None else {"bytes": content, "path": "x.png"} for content, _ in rows],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": images, "label": [label for _, label in rows]})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)
    return path


def test_parquet_in_the_hugging_face_layout(tmp_path: Path) -> None:
    names = ["zebra", "ant", "never seen"]
    folder = tmp_path / "hub"
    parquet(folder / "train-00001-of-00002.parquet", [(picture(3), 0)], names)
    parquet(folder / "train-00000-of-00002.parquet", [(picture(1), 0), (picture(2), 1)], names)
    parquet(folder / "test-00000-of-00001.parquet", [(picture(9), 1)], names)
    pair = read_images(str(folder))
    assert pair.train.classes == ("ant", "zebra")
    assert pair.train.labels.tolist() == [1, 0, 1]
    assert pair.train.images[:, 0, 1, 1].tolist() == [1, 2, 3]
    assert pair.held_out is not None
    assert pair.held_out.labels.tolist() == [0]


def test_parquet_with_names_or_bare_numbers(tmp_path: Path) -> None:
    named = parquet(tmp_path / "a.parquet", [(picture(1), "b"), (picture(2), "a")])
    assert read_images(str(named)).train.labels.tolist() == [1, 0]
    bare = parquet(tmp_path / "b.parquet", [(picture(1), 10), (picture(2), 9)])
    assert read_images(str(bare)).train.classes == ("9", "10")
    assert read_images(str(bare)).train.labels.tolist() == [1, 0]


def test_parquet_that_is_wrong_is_told(tmp_path: Path) -> None:
    assert refused("2 examples without a label", data=parquet(tmp_path / "a.parquet", [(picture(1), -1)] * 2))
    assert refused("row 1", "missing", data=parquet(tmp_path / "b.parquet", [(picture(1), 0), (None, 1)]))
    pq.write_table(pa.table({"pixels": [1], "label": [1]}), tmp_path / "c.parquet")
    assert refused("has the columns pixels, label", data=tmp_path / "c.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(whole[: len(whole) // 2])
    assert refused("cannot be read as Parquet", data=tmp_path / "d.parquet")


def cifar(path: Path, records: int = 3, cut: int = 0, without: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(path, "w:gz") as archive:
        files = {"batches.meta.txt": b"airplane\nautomobile\n\n"}
        for number, name in enumerate(names):
            pixels = np.full((records, 3073), number, np.uint8)
            pixels[:, 0] = np.arange(records) % 2
            pixels[:, 1] = 200
            files[name] = pixels.tobytes()[: records * 3073 - cut]
        for name, content in files.items():
            if name != without:
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def test_cifar10s_binary_archive(tmp_path: Path) -> None:
    cifar(tmp_path / "data" / "cifar10" / "cifar-10-binary.tar.gz")
    pair = read_images("cifar10")
    assert pair.train.images.shape == (15, 3, 32, 32)
    assert pair.train.images[::3, 2, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert pair.train.images[7, :, 0, 0].tolist() == [200, 2, 2]
    assert pair.train.labels[:4].tolist() == [0, 1, 0, 0]
    assert pair.train.classes == ("airplane", "automobile")
    assert pair.held_out is not None
    assert pair.held_out.images[0, 1, 5, 5] == 5


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    assert refused("no whole number of records", data=cifar(tmp_path / "a.tar.gz", cut=1))
    assert refused("lacks data_batch_3.bin", data=cifar(tmp_path / "b.tar.gz", without="data_batch_3.bin"))
    whole = cifar(tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(whole[:200])
    assert refused("cannot be read", data=tmp_path / "c.tar.gz")


def test_images_of_several_sizes_are_counted(tmp_path: Path) -> None:
    files = {f"a/{index}.png": picture(1) for index in range(5)} | {
        "b/0.png": picture(1, size=(8, 8)), "b/1.png": picture(1, size=(8, 8)), "b/2.png": picture(1, size=(9, 8)),
    }  # fmt: skip
    assert refused(
        "differ in size: 5 of 6 x 4 pixels, 2 of 8 x 8 pixels, 1 of 9 x 8 pixels",
        data=as_folder(tmp_path / "a", files),
    )


def test_colours_are_mixed_only_where_that_is_declared(tmp_path: Path) -> None:
    files = {"a/0.png": picture(1), "a/1.png": picture(1), "b/0.png": picture(7, mode="L")}
    path = as_zip(tmp_path / "a.zip", files)
    assert refused("differ in colour: 2 RGB, 1 grey", "#rgb", data=path)
    assert read_images(f"{path}#rgb").train.images.shape == (3, 3, 4, 6)
    assert read_images(f"{path}#grey").train.images.shape == (3, 1, 4, 6)
    other = as_folder(
        tmp_path / "b", {"a/0.png": picture(1, mode="RGBA"), "b/0.png": picture(1, mode="RGBA")}
    )
    assert refused("neither RGB nor grey: 2 RGB with transparency", data=other)


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    files = {"a/0.png": picture(1, mode="L"), "b/0.png": picture(2, mode="L")}
    assert read_images(str(as_folder(tmp_path / "a", files))).train.images.shape == (2, 1, 4, 6)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    whole = picture(1, size=(40, 40), form="JPEG")
    for number, content in enumerate([whole[:300], b"GIF, not really", b""]):
        path = as_folder(tmp_path / str(number), {"a/0.jpg": whole, "b/7.jpg": content})
        assert refused("'b/7.jpg'", "cannot be decoded", data=path)


def test_damaged_zip_files_are_told(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {f"c{index}/0.png": picture(index) for index in range(9)})
    whole = path.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert refused("cannot be read as a zip file", data=tmp_path / "cut.zip")
    place = whole.index(b"IDAT") + 8
    (tmp_path / "flipped.zip").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    assert refused("'c0/0.png'", "cannot be read", "CRC", data=tmp_path / "flipped.zip")


@pytest.mark.parametrize(
    "name", ["../out.png", "a/../../out.png", "/etc/out.png", "C:/out.png", "a\\..\\out.png"]
)
def test_a_zip_file_with_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = as_zip(tmp_path / "a.zip", {"a/0.png": picture(1), name: picture(2)})
    assert refused("leads out of it", data=path)


def test_nothing_to_train_on_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused("holds no images", "CLASS/IMAGE.jpg", data=tmp_path / "empty")
    assert refused("holds no images", data=as_folder(tmp_path / "text", {"a/1.txt": b"1"}))
    assert refused("2 images outside of class folders", "'0.png'", data=as_folder(
        tmp_path / "flat", {"0.png": picture(1), "1.png": picture(1), "a/1.png": picture(1)}
    ))  # fmt: skip
    assert refused(
        "all 2 images",
        "one class, 'a'",
        data=as_folder(tmp_path / "one", {"a/0.png": picture(1), "a/1.png": picture(1)}),
    )
    assert refused("there is no data at", "fashion-mnist", "SURGE_DATA_DIR", data="nowhere")
    (tmp_path / "a.rar").write_bytes(b"")
    assert refused("of no kind", data=tmp_path / "a.rar")


def test_links_that_lead_nowhere_or_in_circles_are_told(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "a", CLASSES)
    (path / "dog" / "c.png").symlink_to("gone.png")
    assert refused("c.png", "cannot be read", data=path)
    (path / "dog" / "c.png").unlink()
    (path / "dog" / "again").symlink_to(path)
    assert refused("is a link to a folder above it", data=path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "a", CLASSES)
    (path / "dog").chmod(0)
    try:
        assert refused("cannot be read", data=path)
    finally:
        (path / "dog").chmod(0o755)


def test_both_parts_must_fit(tmp_path: Path) -> None:
    train = as_folder(tmp_path / "train", CLASSES)
    small = as_folder(tmp_path / "small", {"dog/0.png": picture(1, size=(5, 4))})
    assert refused("5 x 4 pixels of 3 channels", "6 x 4 pixels of 3 channels", data=train, eval_data=small)
    wolf = as_folder(tmp_path / "wolf", {"dog/0.png": picture(1), "wolf/0.png": picture(1)})
    assert refused("has classes that", "lacks: wolf", data=train, eval_data=wolf)
    assert refused(
        "3 of the 3 images", "to evaluate on are, pixel by pixel, among", data=train, eval_data=train
    )


def test_what_was_decoded_is_kept_until_the_files_change(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "a", CLASSES)
    read_images(str(path))
    (kept,) = (tmp_path / "cache" / "images").glob("*/images.npy")
    written = kept.stat().st_mtime_ns
    read_images(str(path))
    assert kept.stat().st_mtime_ns == written
    (path / "dog" / "b.png").write_bytes(picture(99))
    os.utime(path / "dog" / "b.png", ns=(1, 1))
    assert 99 in read_images(str(path)).train.images[:, 0, 1, 1]


def test_what_was_kept_and_is_damaged_is_decoded_again(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "a", CLASSES)
    images = read_images(str(path)).train.images.copy()
    (kept,) = (tmp_path / "cache" / "images").glob("*/images.npy")
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(read_images(str(path)).train.images, images)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert refused("cannot be kept", "SURGE_CACHE_DIR", data=as_folder(tmp_path / "a", CLASSES))


def _digest(path: str) -> int:
    return int(read_images(path).train.moments.sum())


def test_several_processes_may_read_at_once(tmp_path: Path) -> None:
    path = as_zip(
        tmp_path / "a.zip", {f"c{index % 2}/{index:04}.png": picture(index % 256) for index in range(600)}
    )
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_digest, [str(path)] * 3, chunksize=1)
    assert len(set(found)) == 1
    assert len(list((tmp_path / "cache" / "images").glob("*/images.npy"))) == 1
    assert not list((tmp_path / "cache" / "images").glob("*.unfinished"))


@pytest.mark.parametrize("way", ["dots", "link", "zip", "subset"])
def test_images_that_are_trained_on_are_not_held_out(tmp_path: Path, way: str) -> None:
    train = as_folder(tmp_path / "a", CLASSES)
    (tmp_path / "link").symlink_to(train)
    held_out = {
        "dots": train / ".." / "a",
        "link": tmp_path / "link",
        "zip": as_zip(tmp_path / "a.zip", CLASSES),
        "subset": as_folder(tmp_path / "b", {"dog/other.png": CLASSES["dog/a.png"]}),
    }[way]
    count = 1 if way == "subset" else 3
    assert refused(f"{count} of the {count} images", "pixel by pixel", data=train, eval_data=held_out)


def test_one_double_in_a_hundred_is_let_pass(tmp_path: Path) -> None:
    train = as_folder(tmp_path / "a", CLASSES)
    files = {f"dog/{index:03}.png": picture(index + 100) for index in range(99)}
    held_out = as_folder(tmp_path / "b", files | {"cat/0.png": picture(10)})
    assert read_images(str(train), str(held_out)).held_out is not None
    (held_out / "cat" / "1.png").write_bytes(picture(20))
    assert refused("2 of the 101 images", data=train, eval_data=held_out)


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_file_that_changed_behind_its_size_and_time_is_read_again(tmp_path: Path, is_zip: bool) -> None:
    def write(value: int) -> Path:
        files = {"a/0.bmp": picture(value, form="BMP"), "b/0.bmp": picture(200, form="BMP")}
        path = as_zip(tmp_path / "a.zip", files) if is_zip else as_folder(tmp_path / "a", files)
        for file in [path] if is_zip else path.rglob("*.bmp"):
            os.utime(file, ns=(1, 1))
        return path

    path = write(1)
    size = path.stat().st_size
    assert read_images(str(path)).train.images[0, 0, 1, 1] == 1
    assert write(2).stat().st_size == size
    assert read_images(str(path)).train.images[0, 0, 1, 1] == 2


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("cifar-train.parquet", "cifar-test.parquet"),
        ("plain_text/train/0000.parquet", "plain_text/test/0000.parquet"),
    ],
)
def test_parquet_parts_by_a_word_of_the_name_or_the_folder(tmp_path: Path, train: str, held_out: str) -> None:
    folder = tmp_path / "hub"
    parquet(folder / train, [(picture(1), 0), (picture(2), 1)])
    parquet(folder / held_out, [(picture(9), 1)])
    pair = read_images(str(folder))
    assert pair.train.images[:, 0, 1, 1].tolist() == [1, 2]
    assert pair.held_out is not None
    assert pair.held_out.images[:, 0, 1, 1].tolist() == [9]
    parquet((folder / train).with_name("more.parquet"), [(picture(3), 0)])
    if "/" not in train:
        assert refused("not clear which files", "'more.parquet'", data=folder)


@pytest.mark.slow
@pytest.mark.skipif(
    not (CIFAR_ZIPS / "cifar10").is_dir(), reason="CIFAR-10's zip files are not on this machine"
)
def test_the_real_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(CIFAR_ZIPS))
    pair = read_images(str(CIFAR_ZIPS / "cifar10" / "cifar10-test.zip"))
    assert pair.train.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(pair.train.labels).tolist() == [1000] * 10
    assert pair.train.classes[0] == "airplane"
    # Known of CIFAR-10: the means of its channels are 0.4914, 0.4822 and 0.4465 in the training set.
    means = pair.train.moments[:, :, 0].sum(axis=0) / (10_000 * 1024 * 255)
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)
