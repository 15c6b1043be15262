"""Sweep files, shipped or written by `surge-sweep new`: this tool, W&B's own schema and `wandb sweep` take them.

Those of the paper have its grids, the others are log-spaced, and trials of all of them train, on miniatures of their
data. The schema is that of the package `sweeps`, which the server runs. It wants numpy below 2, so it is installed
without its dependencies into a folder of its own, and found there only by the process that validates.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from training.workloads.miniatures import write_miniature
from typer.testing import CliRunner
from wandb_server import WandbServer

from surge_sweeps.cli.sweep import app
from surge_sweeps.demo import scratch_sweeps
from surge_sweeps.errors import SurgeError
from surge_sweeps.rectangles import follow_up
from surge_sweeps.sweep import TOP_LEVEL_KEYS, Scalar, Sweep, Trial
from surge_sweeps.trackers import collect
from surge_sweeps.training import TrialConfig
from surge_sweeps.training.__main__ import main
from surge_sweeps.training.workloads import WORKLOADS

FOLDER = Path(__file__).parent.parent / "sweep_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
EXPERIMENTS = FOLDER.parent / "docs" / "experiments.md"
PACKAGES = ("sweeps==0.3.0", "jsonref==1.1.0")
VALIDATE = """
import json, sys
from sweeps.config import schema_violations_from_proposed_config
print(json.dumps([schema_violations_from_proposed_config(config) for config in json.load(sys.stdin)]))
"""

Violations = Callable[[Sequence[Any]], list[list[str]]]
WandbCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def violations(tmp_path_factory: pytest.TempPathFactory) -> Violations:
    """What W&B's own schema finds wrong with each configuration; nothing where it is valid."""
    folder = tmp_path_factory.mktemp("sweeps-package")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries=1", "--timeout=10"]
    try:
        installed = subprocess.run(
            [*pip, f"--target={folder}", *PACKAGES], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package registry does not answer, so W&B's sweep schema is not at hand")
    if installed.returncode != 0:
        last = installed.stderr.strip().splitlines()[-1:] or ["pip failed"]
        pytest.skip(f"W&B's sweep schema (the package sweeps) cannot be installed: {last[0]}")

    def validate(configs: Sequence[Any]) -> list[list[str]]:
        # Its own numpy and jsonschema come from this environment: the validation works with any.
        code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{VALIDATE}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            input=json.dumps(list(configs)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        found: list[list[str]] = json.loads(done.stdout)
        return found

    return validate


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_a_grid_that_an_agent_can_run(path: Path) -> None:
    sweep = Sweep.read(path)
    assert sweep.cost_examples() is not None
    raw = read(path)
    assert set(raw) <= set(TOP_LEVEL_KEYS)
    assert "early_terminate" not in raw
    assert all(isinstance(value, float) for value in raw["parameters"]["lr"]["values"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_parameter_is_one_that_training_takes(path: Path) -> None:
    trials = Sweep.read(path).trials()
    for trial in (trials[0], trials[-1]):
        config = TrialConfig.from_parameters(trial.parameters)
        assert config.steps > 0


class Row(NamedTuple):
    """A row of Table 1 of Li et al. 2024 as it is printed, and the steps after the target loss (section 3.3)."""

    beta1: str
    beta2: str
    lr: tuple[str, str, str]
    batch: tuple[str, str, str]
    rounds: int
    steps_after_target: int
    unit: str = "examples"


TABLE_1 = {
    "paper-cnn-fashion-mnist-small-batches.yaml": Row(
        "0.9", "0.999", ("1e-4", "1e-3", "1e-4"), ("1", "12", "1"), 100, 10
    ),
    "paper-cnn-fashion-mnist-large-batches.yaml": Row(
        "0.9", "0.999", ("1e-4", "1e-3", "1e-4"), ("64", "1164", "100"), 100, 10
    ),
    "paper-distilgpt2-eli5-adam.yaml": Row(
        "0.9", "0.999", ("1e-5", "1.09e-3", "1.2e-4"), ("4", "114", "10"), 30, 50
    ),
    "paper-distilgpt2-eli5-sign.yaml": Row(
        "0.0", "0.0", ("1e-5", "5.5e-4", "6e-5"), ("4", "114", "10"), 30, 50
    ),
    "paper-resnet18-tiny-imagenet.yaml": Row(
        "0.0", "0.0", ("1e-4", "7.876e-4", "7.65e-5"), ("16", "376", "33"), 100, 50
    ),
    "paper-moe-redpajama.yaml": Row(
        "0.9", "0.999", ("2e-6", "6e-5", "2e-6"), ("192e3", "12e6", "1.2e6"), 10, 300, "tokens"
    ),
}


def linear(start: str, stop: str, step: str) -> tuple[float, ...]:
    """All that a row's start and step reach without passing its stop, exactly."""
    first, last, by = Decimal(start), Decimal(stop), Decimal(step)
    return tuple(float(first + by * k) for k in range(int((last - first) // by) + 1))


@pytest.mark.parametrize("name", TABLE_1)
def test_a_row_of_the_papers_table_has_its_exact_grid(name: str) -> None:
    row, sweep = TABLE_1[name], Sweep.read(FOLDER / name)
    constants = sweep.constants
    assert sweep.lr == linear(*row.lr)
    unit = int(constants["sequence_length"]) if row.unit == "tokens" else 1
    assert tuple(size * unit for size in sweep.batch_size) == linear(*row.batch)
    assert sweep.seed == tuple(range(row.rounds))
    assert (constants["beta1"], constants["beta2"]) == (float(row.beta1), float(row.beta2))
    assert constants["optimizer"] == "adam"
    assert constants["steps_after_target"] == row.steps_after_target
    # Nothing that the paper does not have.
    assert not {"weight_decay", "schedule", "warmup_steps", "max_examples"} & set(constants)


def test_the_grids_are_as_large_as_the_papers() -> None:
    assert {path.name for path in FILES if path.name.startswith("paper-")} == set(TABLE_1)
    sizes = {name: (len(linear(*row.lr)), len(linear(*row.batch))) for name, row in TABLE_1.items()}
    assert sizes.pop("paper-moe-redpajama.yaml") == (30, 10)
    # The steps of this row do not divide its ranges.
    assert sizes.pop("paper-resnet18-tiny-imagenet.yaml") == (9, 11)
    assert set(sizes.values()) == {(10, 12)}


LOG_SPACED = [path for path in FILES if path.name not in TABLE_1]


@pytest.mark.parametrize("path", LOG_SPACED, ids=lambda path: path.name)
def test_the_others_are_spaced_evenly_in_log(path: Path) -> None:
    sweep = Sweep.read(path)
    ratios = [high / low for low, high in pairwise(sweep.lr)]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-4)
    assert math.sqrt(2) <= ratios[0] <= 2.0001
    assert len(sweep.lr) >= 8
    assert {high / low for low, high in pairwise(sweep.batch_size)} == {2}
    assert sweep.batch_size[-1] >= 100 * sweep.batch_size[0]
    assert len(sweep.seed) >= 3


def test_every_model_of_a_workload_has_a_log_spaced_sweep() -> None:
    covered = {
        (sweep.constants["workload"], sweep.constants["model"]) for sweep in map(Sweep.read, LOG_SPACED)
    }
    there = {(workload, model) for workload, spec in WORKLOADS.items() for model in spec.models}
    # The demo's workload is that of one model.
    assert covered == there - {("digits", "cnn")}


#: What makes a trial of any sweep one of a second; each is taken where the sweep has the parameter.
SMALLER: Mapping[str, Callable[[Any], Scalar]] = {
    "batch_size": lambda size: min(size, 24),
    "max_steps": lambda _: 3,
    "sequence_length": lambda _: 16,
    "tokenizer": lambda name: "bpe-300" if name.startswith("bpe-") else name,
    "layers": lambda _: 2,
    "width": lambda _: 32,
    "heads": lambda _: 2,
}
#: A width for models whose sweeps leave it at its default.
WIDTHS = {"resnet18": 8}


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def _threads() -> Iterator[None]:
    """The command trains on one thread; the tests that follow in this process have theirs back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_two_trials_train_on_a_miniature_of_their_data(
    path: Path,
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SURGE_DATA_DIR", str(data_folder))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(data_folder / "cache"))
    sweep = Sweep.read(path)
    data = sweep.constants.get("data")
    if data is not None and not (data_folder / str(data)).exists():
        write_miniature(str(data), data_folder)
    smallest, largest = sweep.trials()[0], sweep.trials()[-1]
    for trial in (smallest, largest):
        arguments = [f"--{name}={value}" for name, value in smaller(trial).items()]
        done = main([*arguments, "--tracker=files", "--project=runs", "--device=cpu"])
        assert done == 0, capsys.readouterr().err
    curves = collect("runs")
    assert curves.problems == ()
    runs = curves.runs.sort_values("batch_size")
    assert runs["lr"].tolist() == [smallest.lr, largest.lr]
    assert runs["batch_size"].tolist() == [smaller(trial)["batch_size"] for trial in (smallest, largest)]
    assert set(runs["status"]) <= {"finished", "capped"}
    for run in runs["run"]:
        points = curves.points[curves.points["run"] == run]
        assert points["step"].tolist() == [0, 1, 2, 3]
        # It was trained: every step changed the loss.
        assert points["loss"].nunique() == 4
        assert points["loss"].map(math.isfinite).all()


def smaller(trial: Trial) -> dict[str, Scalar]:
    """The parameters of a trial cut to what a test can run."""
    parameters = dict(trial.parameters)
    if trial.parameters["model"] in WIDTHS:
        parameters["width"] = WIDTHS[str(trial.parameters["model"])]
    for name in SMALLER.keys() & trial.parameters.keys():
        parameters[name] = SMALLER[name](parameters[name])
    return parameters


def test_the_digits_sweep_has_the_axes_it_promises() -> None:
    sweep = Sweep.read(FOLDER / "digits.yaml")
    assert len(sweep.lr) >= 4
    assert len(sweep.batch_size) >= 3
    assert len(sweep.seed) >= 1


def test_the_demo_runs_the_shipped_sweeps() -> None:
    shipped = {Sweep.read(path).sweep_id for path in FILES}
    assert {sweep.sweep_id for sweep in scratch_sweeps()} <= shipped


def test_shipped_files_are_valid_by_wandbs_own_schema(violations: Violations) -> None:
    assert violations([read(path) for path in FILES]) == [[]] * len(FILES)


def test_the_schema_is_at_work_and_our_checks_go_further(violations: Violations) -> None:
    good = read(FOLDER / "digits.yaml")
    refused = [{**good, "tags": ["a"]}, {"method": "grid"}, {**good, "run_cap": 0}]
    assert all(violations(refused))
    lax = [
        {**good, "parameters": {**good["parameters"], "lr": {"min": 0.1, "max": 1.0}}},
        {**good, "parameters": {**good["parameters"], "lr": {"values": ["1e-3", "1e-2"]}}},
        {**good, "early_terminate": {"type": "hyperband", "min_iter": 3}},
        {**good, "run_cap": 5},
    ]
    assert violations(lax) == [[]] * len(lax)
    for config in lax:
        with pytest.raises(SurgeError):
            Sweep.from_yaml(yaml.safe_dump(config))


NEW = [
    ["plain.yaml", "--program=train.py"],
    ["small.yaml", "--program=train.py", "--lr=1e-5:1e-3:3", "--batch-size=8,16", "--seeds=1", "--loss=val loss"],
    ["constants.yaml", "--program=my train.py", "--set=weight_decay=1e-4", "--set=fast=true", "--set=data=1:30"],
    ["builtin.yaml", "--workload=digits", "--set=max_steps=50", "--name=a: b"],
    ["window.yaml", "--program=train.py", "--lr-window=8,16=1e-4:1e-2:8", "--lr-window=32:128:2=3e-4:3e-2:8"],
]  # fmt: skip


def test_what_new_writes_is_taken_by_wandb_unchanged(
    violations: Violations,
    wandb_server: WandbServer,
    wandb_cli: WandbCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in NEW:
        done = CliRunner().invoke(app, ["new", *arguments])
        assert done.exit_code == 0, done.output
    (small, *_) = follow_up(
        Sweep.read(tmp_path / "small.yaml"), Sweep.read(tmp_path / "small.yaml").trials()[:3]
    )
    small.write(tmp_path / "small-missing.yaml")
    written = sorted(tmp_path.glob("*.yaml"))
    assert {path.name for path in written} == {
        "plain.yaml",
        "small.yaml",
        "small-missing.yaml",
        "constants.yaml",
        "builtin.yaml",
        "window-batch-8-to-16.yaml",
        "window-batch-32-to-128.yaml",
    }
    assert violations([read(path) for path in written]) == [[]] * len(written)
    # Of the shipped files and of those that `new` wrote the ones that differ in kind: each call takes a second.
    shipped = [FOLDER / name for name in ("digits.yaml", "paper-moe-redpajama.yaml")]
    for path in [*shipped, tmp_path / "constants.yaml", tmp_path / "window-batch-8-to-16.yaml"]:
        done = wandb_cli("sweep", "-p", "configs", str(path))
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr.upper()
        found = re.search(r"with ID: (\w+)", done.stderr)
        assert found is not None
        registered = wandb_server.store.sweeps[found[1]]
        sweep = Sweep.read(path)
        assert registered.expected_runs == len(sweep.trials())
        assert Sweep.from_yaml(registered.config_text) == sweep


def test_windows_are_rectangles_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    arguments = ["new", "w.yaml", "--program=t.py", "--seeds=2", "--name=study"]
    done = runner.invoke(app, [*arguments, "--lr-window=8,32=1e-4:1e-2:3", "--lr-window=16=0.001,0.01"])
    assert done.exit_code == 0, done.output
    wide, single = Sweep.read(tmp_path / "w-batch-8-to-32.yaml"), Sweep.read(tmp_path / "w-batch-16.yaml")
    assert (wide.batch_size, wide.lr, wide.name) == ((8, 32), (0.0001, 0.001, 0.01), "study-batch-8-to-32")
    assert (single.batch_size, single.lr, single.seed) == ((16,), (0.001, 0.01), (0, 1))
    assert not (tmp_path / "w.yaml").exists()
    again = runner.invoke(app, [*arguments, "--lr-window=16=0.001,0.01"])
    assert isinstance(again.exception, SurgeError)
    assert "there already" in str(again.exception)


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        (["8,16=1e-4:1e-2:8", "16,32=1e-4:1e-2:8"], "the batch size 16 is in two windows"),
        (["8,16"], "has no '='"),
        (["8,16=1:2"], "start:stop:count"),
        (["x=0.1"], "start:stop:factor"),
    ],
)
def test_windows_that_are_none_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [f"--lr-window={window}" for window in windows]
    done = CliRunner().invoke(app, ["new", "w.yaml", "--program=t.py", *options])
    assert isinstance(done.exception, SurgeError)
    assert told in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", ["--lr=0.1,0.2", "--batch-size=8"])
def test_windows_take_the_place_of_the_axes(other: str) -> None:
    done = CliRunner().invoke(app, ["new", "w.yaml", "--program=t.py", "--lr-window=8=0.1,0.2", other])
    assert done.exit_code == 2


@pytest.mark.skipif(not EXPERIMENTS.exists(), reason="the documentation is not part of the wheel")
def test_the_page_of_experiments_lists_every_file_with_its_size() -> None:
    rows = [row for row in table_rows() if row[0].endswith(".yaml")]
    assert sorted(row[0] for row in rows) == [path.name for path in FILES]
    for name, _, _, lr, batch, seeds, runs, _ in rows:
        sweep = Sweep.read(FOLDER / name)
        assert lr.startswith(f"{len(sweep.lr)}:")
        assert batch == f"{len(sweep.batch_size)}: {sweep.batch_size[0]} to {sweep.batch_size[-1]}"
        assert (int(seeds), runs) == (len(sweep.seed), f"{len(sweep.trials()):,}")


@pytest.mark.skipif(not EXPERIMENTS.exists(), reason="the documentation is not part of the wheel")
def test_the_page_of_experiments_tells_every_default() -> None:
    told = {row[0]: row[1] for row in table_rows() if len(row) == 2}
    for workload, spec in WORKLOADS.items():
        for model, shape in spec.models.items():
            expected = ", ".join(f"{name} {value}" for name, value in shape.items())
            if workload != "digits":
                assert told[f"{workload}, {model}"] == expected
        for name, value in spec.settings.items():
            assert name in told[f"{workload}, all models"]
            assert value is None or f"{name} {value}" in told[f"{workload}, all models"]


def table_rows() -> list[list[str]]:
    """The cells of the page's tables by rows, heads included, without the marks of code."""
    lines = EXPERIMENTS.read_text(encoding="utf-8").replace("`", "").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
