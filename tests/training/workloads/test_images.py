"""The workload `images`: normalised by the training set alone, batches of any shape, a held-out part of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.evaluation import evaluate
from surge_sweeps.training.workloads import images
from surge_sweeps.training.workloads.base import Settings


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))


def write(folder: Path, count: int, seed: int = 0, constant_blue: bool = False) -> np.ndarray:
    """Folders of PNG images, 3 classes in turn; their pixels, (count, 3, 16, 12), in the order that they are read."""
    pixels = np.random.default_rng(seed).integers(0, 200, (count, 16, 12, 3), dtype=np.uint8)
    if constant_blue:
        pixels[..., 2] = 7
    for index, image in enumerate(pixels):
        path = folder / f"class-{index * 3 // count}" / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return pixels.transpose(0, 3, 1, 2)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[images.Images, np.ndarray, np.ndarray]:
    train = write(tmp_path / "data" / "own" / "train", 30)
    held_out = write(tmp_path / "data" / "own" / "val", 9, seed=1)
    return images.load(Settings(data="own")), train, held_out


def test_batches_are_normalised_by_the_training_set(
    pair: tuple[images.Images, np.ndarray, np.ndarray],
) -> None:
    workload, train, held_out = pair
    assert (workload.train_examples, workload.eval_examples) == (30, 9)
    mean = train.mean(axis=(0, 2, 3), keepdims=True)
    std = train.std(axis=(0, 2, 3), keepdims=True)
    assert workload.mean == pytest.approx(mean.ravel() / 255)
    assert workload.std == pytest.approx(std.ravel() / 255)
    inputs, targets = workload.train_batch(torch.arange(30))
    assert inputs.dtype == torch.float32
    assert targets.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    np.testing.assert_allclose(inputs, (train - mean) / std, atol=2e-6)
    inputs, targets = workload.eval_batch(2, 5)
    assert workload.held_out.rows is not None
    rows = workload.held_out.rows[2:5].numpy()
    assert targets.tolist() == (rows // 3).tolist()
    np.testing.assert_allclose(inputs, ((held_out - mean) / std)[rows], atol=2e-6)
    assert len(workload.eval_batch(6, 100)[1]) == 3


def test_a_batch_of_replicas_is_the_same_examples_bit_for_bit(
    pair: tuple[images.Images, np.ndarray, np.ndarray],
) -> None:
    workload = pair[0]
    indices = torch.tensor([[3, 3, 29], [0, 7, 11]])
    inputs, targets = workload.train_batch(indices)
    assert inputs.shape == (2, 3, 3, 16, 12)
    assert targets.shape == (2, 3)
    for row in range(2):
        for column in range(3):
            one, target = workload.train_batch(indices[row, column])
            assert torch.equal(inputs[row, column], one)
            assert targets[row, column] == target


def test_a_tenth_is_set_aside_where_no_part_is_held_out(tmp_path: Path) -> None:
    pixels = write(tmp_path / "data" / "own", 60)
    workload = images.load(Settings(data="own"))
    assert (workload.train_examples, workload.eval_examples) == (54, 6)
    trained = workload.train_batch(torch.arange(54))[0]
    held_out = workload.eval_batch(0, 6)[0]
    # Every image is in one of the parts: no two of these are the same.
    assert len(torch.unique(torch.cat([trained, held_out]).flatten(1), dim=0)) == 60
    assert trained.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (trained.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert pixels.shape == (60, *workload.shape)
    again = images.load(Settings(data="own", width=8))
    assert torch.equal(again.eval_batch(0, 6)[0], held_out)


def test_named_eval_data_is_evaluated_on(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train", 12)
    write(tmp_path / "data" / "other", 6, seed=3)
    workload = images.load(Settings(data="train", eval_data=str(tmp_path / "data" / "other")))
    assert (workload.train_examples, workload.eval_examples) == (12, 6)


def test_too_few_images_to_set_some_aside_are_told(tmp_path: Path) -> None:
    write(tmp_path / "data" / "own", 9)
    with pytest.raises(TrainingError, match=r"holds 9 images, too few to set one in 10 aside.*--eval-data"):
        images.load(Settings(data="own"))


def test_a_channel_without_contrast_is_zero(tmp_path: Path) -> None:
    write(tmp_path / "data" / "own", 20, constant_blue=True)
    inputs = images.load(Settings(data="own")).train_batch(torch.arange(18))[0]
    assert torch.isfinite(inputs).all()
    assert (inputs[:, 2] == 0).all()


@pytest.mark.parametrize(
    "model",
    # Loading `transformers` takes seconds.
    [pytest.param(name, marks=pytest.mark.slow if name == "resnet18" else ()) for name in images.SPEC.models],
)
def test_every_model_is_built_for_the_images(
    pair: tuple[images.Images, np.ndarray, np.ndarray], model: str
) -> None:
    workload = replace(pair[0], settings=Settings(**{**images.SPEC.models[model], "width": 8}))
    network = workload.build_model(model, torch.Generator().manual_seed(0))
    inputs, targets = workload.train_batch(torch.arange(8))
    outputs = network(inputs)
    assert outputs.shape == (8, 3)
    uniform = workload.loss(torch.zeros(8, 3), targets)
    assert uniform.item() == pytest.approx(math.log(3))
    workload.loss(outputs, targets).backward()


def test_an_unknown_model_lists_the_known(pair: tuple[images.Images, np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UnknownNameError, match="Valid: cnn, mlp, resnet18"):
        pair[0].build_model("gpt", torch.Generator())


def test_on_the_cpu_it_is_itself(pair: tuple[images.Images, np.ndarray, np.ndarray]) -> None:
    assert pair[0].on(torch.device("cpu")) is pair[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_batches_on_a_gpu_are_those_of_the_cpu(
    pair: tuple[images.Images, np.ndarray, np.ndarray], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "DEVICE_SHARE", share)
    gpu = pair[0].on(torch.device("cuda", 0))
    assert gpu.train.images.is_cuda == (share > 0)
    indices = torch.tensor([[3, 3, 29], [0, 7, 11]])
    for here, there in zip(pair[0].train_batch(indices), gpu.train_batch(indices), strict=True):
        assert there.is_cuda
        assert torch.equal(here, there.cpu())


def test_no_data_is_told() -> None:
    with pytest.raises(TrainingError, match="needs data"):
        images.load(Settings())


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_the_evaluated_images_are_of_all_classes_however_these_recur(classes: int) -> None:
    rows = images._chosen(np.arange(10_000))
    assert len(set(rows.tolist())) == images.EVAL_IMAGES
    counts = np.bincount(rows % classes, minlength=classes)
    assert counts.min() > 0.8 * images.EVAL_IMAGES / classes


def test_parts_of_the_evaluated_images_hold_all_classes_so_that_batchnorm_does_not_hide_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part, count, lightest in (("train", 6, 160), ("val", 90, 250)):
        for index in range(count):
            label = index * 3 // count
            path = tmp_path / "data" / "own" / part / f"class-{label}" / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            color = tuple(lightest - index if place == label else 50 for place in range(3))
            Image.new("RGB", (16, 16), color).save(path)
    workload = images.load(Settings(data="own"))
    by_color = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    at_once = evaluate(workload, by_color)
    assert at_once < 0.3
    monkeypatch.setattr(images, "_NUMBERS_AT_ONCE", 1)
    monkeypatch.setattr(images, "_IMAGES_AT_ONCE", 30)
    assert workload.eval_examples_at_once == 30
    assert evaluate(workload, by_color) == pytest.approx(at_once, rel=0.2)


def test_the_digest_tells_other_data_apart(tmp_path: Path) -> None:
    digests = []
    for name, seed, held_out_seed in (("a", 0, 1), ("b", 0, 1), ("c", 2, 1), ("d", 0, 3)):
        write(tmp_path / "data" / name / "train", 12, seed=seed)
        write(tmp_path / "data" / name / "val", 6, seed=held_out_seed)
        digests.append(images.load(Settings(data=name)).digest)
    assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in digests)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    (tmp_path / "data" / "b" / "train" / "class-0").rename(tmp_path / "data" / "b" / "train" / "class-9")
    (tmp_path / "data" / "b" / "val" / "class-0").rename(tmp_path / "data" / "b" / "val" / "class-9")
    assert images.load(Settings(data="b")).digest not in digests
