"""What can never run is told once, before a launch registers or starts anything; so are batches beyond the data set."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pytest
import torch
from cli.test_commands import is_told, sweep_here
from PIL import Image
from rich.console import Console
from training.workloads.miniatures import write_miniature
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps.cli import launch_preflight
from surge_sweeps.cli.launch_preflight import Preflight
from surge_sweeps.cli.sweep import app
from surge_sweeps.errors import MissingExtraError
from surge_sweeps.launch.stop import Stopped, stop_signals
from surge_sweeps.sweep import Scalar, Sweep
from surge_sweeps.trackers import open_tracker
from surge_sweeps.training.checkpoint import Checkpoint, save_checkpoint

TEXT: Mapping[str, Scalar] = {
    "workload": "text",
    "data": "own.txt",
    "model": "gpt",
    "layers": 1,
    "width": 16,
    "heads": 2,
    "sequence_length": 8,
    "max_steps": 2,
}
MOE: Mapping[str, Scalar] = {**TEXT, "model": "moe"}
PHOTOS: Mapping[str, Scalar] = {"workload": "images", "model": "cnn", "data": "cifar10", "max_steps": 2}


def sweep_of(constants: Mapping[str, Scalar], batch_size: tuple[int, ...] = (4,)) -> Sweep:
    return Sweep(lr=(0.01, 0.1), batch_size=batch_size, seed=(0,), constants=dict(constants), name="own")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SURGE_DATA_DIR", raising=False)
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the dog. " * 75)
    return tmp_path


@pytest.mark.parametrize(
    ("constants", "texts"),
    [
        (TEXT | {"heads": 3}, ["own.yaml: a width of 16 cannot be cut into 3 heads", "a multiple of 3"]),
        (MOE | {"width": 20}, ["a width of 20 is no multiple of 8"]),
        (MOE | {"experts": 2}, ["experts_per_token is 3, and there are 2 experts"]),
        (TEXT | {"tokenizer": "bpe512"}, ["unknown tokenizer 'bpe512'", "Did you mean 'bpe-512'?"]),
        (TEXT | {"tokenizer": "bpe-100"}, ["cannot have 100 tokens", "Take bpe-258"]),
        (TEXT | {"tokenizer": "gpt2"}, ["unknown tokenizer 'gpt2'", "Valid: bpe-N"]),
        (
            {name: value for name, value in TEXT.items() if name not in ("model", "heads")},
            ["the workload 'text' needs a model", "gpt or moe"],
        ),
        ({"workload": "digits", "data": "own.txt", "max_steps": 2}, ["takes no data", "images or text"]),
    ],
)
def test_settings_that_no_data_could_mend_are_refused_by_launch_and_not_written_by_new(
    folder: Path, constants: Mapping[str, Scalar], texts: list[str]
) -> None:
    sweep_of(constants).write(folder / "own.yaml")
    for engine in ("local", "slurm"):
        told = sweep_here(folder, "launch", "own.yaml", f"--on={engine}", "--dry-run")
        assert is_told(told, *texts, "Change the sweep file")
    settings = [f"--set={name}={value}" for name, value in constants.items() if name != "workload"]
    told = sweep_here(folder, "new", "new.yaml", f"--workload={constants['workload']}", *settings)
    assert is_told(told, texts[0].removeprefix("own.yaml: "), "--set NAME=VALUE")
    assert not (folder / "new.yaml").exists()


@pytest.mark.parametrize(
    ("constants", "texts"),
    [
        (
            TEXT | {"tokenizer": "tokenizer.json"},
            ["own.yaml: there is no file 'tokenizer.json'", "in 'data' (SURGE_DATA_DIR) and in this folder"],
        ),
        (
            TEXT | {"sequence_length": 5000},
            ["the training text has 2700, and the held-out text has 300", "at most 299"],
        ),
        (TEXT | {"tokenizer": "bpe-5000"}, ["too small for a BPE of 5000 tokens", "Take bpe-"]),
        (TEXT | {"data": "gone.txt"}, ["gone.txt' is not there"]),
        (TEXT | {"init_from": "gone.pt"}, ["there is no checkpoint 'gone.pt'"]),
        (PHOTOS, ["'cifar10' is not in 'data'", "surge-sweep data cifar10"]),
    ],
)
def test_data_that_do_not_fit_are_told_before_anything_is_registered(
    folder: Path, constants: Mapping[str, Scalar], texts: list[str]
) -> None:
    sweep_of(constants).write(folder / "own.yaml")
    assert is_told(sweep_here(folder, "launch", "own.yaml"), *texts)
    assert not (folder / "mlflow.db").exists()
    assert not list((folder / ".surge").glob("plans/*"))
    # On a cluster the data may lie elsewhere.
    assert sweep_here(folder, "launch", "own.yaml", "--on=slurm", "--dry-run").returncode == 0


def test_a_checkpoint_of_another_network_is_told_before_anything_is_registered(folder: Path) -> None:
    save_checkpoint(folder / "other.pt", Checkpoint({"weight": torch.zeros(2)}, "digits", "mlp", 1.0, 1))
    sweep_of(TEXT | {"init_from": "other.pt"}).write(folder / "own.yaml")
    told = sweep_here(folder, "launch", "own.yaml")
    assert is_told(told, "own.yaml: the checkpoint is of another network", "its workload is digits, not text")
    assert not (folder / "mlflow.db").exists()


def test_images_too_small_for_the_model_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("SURGE_DATA_DIR", str(folder / "data"))
    for index in range(20):
        path = folder / "data" / "small" / f"class-{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index).save(path)
    sweep_of(PHOTOS | {"data": "small", "model": "resnet18"}).write(folder / "own.yaml")
    assert is_told(
        sweep_here(folder, "launch", "own.yaml"), "8 x 8 pixels are too small for the model 'resnet18'"
    )


def test_a_launch_with_nothing_to_do_needs_no_data(folder: Path) -> None:
    sweep = sweep_of(TEXT | {"data": "gone.txt"})
    sweep.write(folder / "own.yaml")
    store = open_tracker("files", str(folder / "runs"))
    store.open_sweep(sweep.sweep_id, sweep.name, sweep.to_dict())
    for trial in sweep.trials():
        store.start_run(sweep.sweep_id, trial.trial_id, trial.parameters).finish("finished")
    store.close()
    done = sweep_here(folder, "launch", "own.yaml", "--tracker=files", "--project=runs")
    assert (done.returncode, "2 trials: 2 done before" in done.stdout) == (0, True), done.stderr


def test_batches_beyond_the_data_set_are_told_once_each(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_of({"workload": "digits", "max_steps": 3}, batch_size=(32, 2874, 5748))
    for is_here in (True, False):
        preflight = Preflight({folder / "own.yaml": sweep}, is_here=is_here, quiet=False)
        with stop_signals() as stop:
            preflight(sweep, sweep.trials(), stop)
            preflight(sweep, sweep.trials(), stop)
        assert capsys.readouterr().err.splitlines() == [
            "a batch of 2,874 examples is 2.0 times the data set of 1,437; the run sees it 6.0 times.",
            "a batch of 5,748 examples is 4.0 times the data set of 1,437; the run sees it 12.0 times.",
        ]


def test_new_tells_of_them_where_it_knows_the_data_set(folder: Path) -> None:
    for workload, notes in (("digits", 1), ("teacher", 0)):
        arguments = (f"--workload={workload}", "--batch-size=32,2874", "--set=max_steps=3")
        done = sweep_here(folder, "new", f"{workload}.yaml", *arguments)
        assert (done.returncode, done.stderr.count("note: a batch of 2,874 examples is 2.0 times")) == (
            0,
            notes,
        )


def test_decoding_is_told_once_and_a_stop_ends_it_with_nothing_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(folder / "data"))
    write_miniature("cifar10", folder / "data")
    sweep = sweep_of(PHOTOS)
    preflight = Preflight({folder / "own.yaml": sweep}, is_here=True, quiet=False)
    with stop_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            preflight(sweep, sweep.trials(), stop)
    assert not list((folder / "cache" / "images").glob("*/images.npy"))
    capsys.readouterr()
    with stop_signals() as stop:
        preflight(sweep, sweep.trials(), stop)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "kept" in line] == [
        f"decoding {count} images of '{folder}/data/cifar10/cifar10-{part}.zip', once; it is kept in '{folder}/cache'"
        " (SURGE_CACHE_DIR)."
        for part, count in (("train", 60), ("test", 20))
    ]
    with stop_signals() as stop:
        Preflight({folder / "own.yaml": sweep}, is_here=True, quiet=False)(sweep, sweep.trials(), stop)
    assert "decoding" not in capsys.readouterr().err


def test_on_a_terminal_the_display_that_is_there_shows_how_far_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_preflight, "err", Console(file=StringIO(), force_terminal=True))
    shown: list[tuple[float, float, str]] = []
    doing: list[str] = []

    def progress(done: float, total: float, text: str) -> None:
        shown.append((done, total, text))
        doing.append(preflight.doing)

    monkeypatch.setenv("SURGE_DATA_DIR", str(folder / "data"))
    write_miniature("cifar10", folder / "data")
    sweep = sweep_of(PHOTOS)
    preflight = Preflight({folder / "own.yaml": sweep}, is_here=True, quiet=False)
    preflight.progress = progress
    with stop_signals() as stop:
        preflight(sweep, sweep.trials(), stop)
    assert shown[0] == (60, 60, "decoding 60 of 60 images")
    assert doing[0] == "decoding: 100%, 60 of 60 images"


def test_a_quiet_launch_says_nothing_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "own.txt").rename(folder / "quiet.txt")
    sweep = sweep_of(TEXT | {"data": str(folder / "quiet.txt")})
    with stop_signals() as stop:
        Preflight({folder / "own.yaml": sweep}, is_here=True, quiet=True)(sweep, sweep.trials(), stop)
    assert list((folder / "cache").rglob("tokens.npy"))
    assert capsys.readouterr().err == ""


def test_on_wandb_nothing_is_registered_and_the_file_may_be_mended(
    folder: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    sweep = sweep_of(TEXT | {"data": "gone.txt"})
    sweep.write(folder / "own.yaml")
    done = CliRunner().invoke(app, ["launch", "own.yaml", "--tracker=wandb", "--project=study"])
    assert "gone.txt' is not there" in str(done.exception)
    assert not wandb_server.sweeps
    assert not list((folder / ".surge").glob("plans/*"))


def test_an_optimizer_whose_package_is_not_installed_is_told_before_anything_is_registered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    sweep_of({"workload": "digits", "optimizer": "lion", "max_steps": 2}).write(folder / "own.yaml")
    monkeypatch.chdir(folder)
    told = CliRunner().invoke(app, ["launch", "own.yaml"])
    assert isinstance(told.exception, MissingExtraError)
    assert "pytorch_optimizer" in str(told.exception)
    assert not (folder / "mlflow.db").exists()
