"""One trial in several processes, by real torchrun over gloo: the same run, whatever becomes of the processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("mlflow")

from forked_python import ForkedPython
from mlflow import MlflowClient
from mlflow_stores import free_port

from surge_sweeps.errors import TrainingError
from surge_sweeps.sweep import trial_id
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.training.__main__ import main
from surge_sweeps.training.devices import pick_device
from surge_sweeps.training.processes import ALONE, Rank, joined, this_rank
from surge_sweeps.training.workloads import digits as digits_module
from surge_sweeps.training.workloads.digits import Digits

pytestmark = pytest.mark.slow

PARAMETERS: dict[str, str | float] = {
    "lr": 0.002,
    "batch_size": 32,
    "seed": 2,
    "max_steps": 60,
    "model": "narrow",
}
TRAINER = str(Path(__file__).with_name("narrow_trainer.py"))
STATES = Path(".surge/checkpoints")
#: Three processes that import torch and one that imports MLflow, on a busy machine.
PATIENCE_S = 300

Done = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def _store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_store.read_bytes())
    for name in ("WANDB_SWEEP_ID", "MLFLOW_RUN_ID", "SURGE_CHECKPOINT_DIR", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def the_state() -> Path:
    (found,) = STATES.glob(f"{trial_id(PARAMETERS)}-*.pt")
    return found


def of_task(project: str, parameters: Mapping[str, str | float] = PARAMETERS) -> list[str]:
    """The arguments of a task of an engine; its sweep is opened."""
    tracker = open_tracker("mlflow", project)
    tracker.open_sweep("a-sweep", "a sweep", {})
    tracker.close()
    flags = [f"--{name}={value}" for name, value in parameters.items()]
    task = ["--sweep-id=a-sweep", f"--trial-id={trial_id(parameters)}", "--owner=launch/0"]
    return [*flags, f"--project={project}", *task]


def run(task: Sequence[str], event: str = "", rank: int = 0, at: int = 0, limit: int = 0) -> Done:
    """The trial in two processes, to the end of both and of torchrun.

    Args:
        event, rank, at, limit: what one of them meets, see `narrow_trainer`.
    """
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", TRAINER, *task],
        env={**os.environ, "PYTHONPATH": root, **to_meet(event, rank, at, limit)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def run_without_torchrun(
    task: Sequence[str], event: str = "", rank: int = 0, at: int = 0, limit: int = 0
) -> list[Done]:
    """As `run`, where torchrun has nothing to do but to start them; what became of each process."""
    among = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        ForkedPython(
            ["-c", f"import runpy; runpy.run_path({TRAINER!r}, run_name='__main__')", *task],
            environment={
                **os.environ,
                **to_meet(event, rank, at, limit),
                **among,
                "RANK": str(number),
                "LOCAL_RANK": str(number),
            },
        )
        for number in range(2)
    ]
    ended = []
    for process in started:
        with process:
            said = process.communicate(PATIENCE_S)
            ended.append(Done([], process.wait(), *said))
    return ended


def to_meet(event: str, rank: int, at: int, limit: int) -> dict[str, str]:
    told = {"EVENT": event, "RANK": str(rank), "AT": str(at), "LIMIT": str(limit)}
    return {f"NARROW_{name}": text for name, text in told.items()}


def finished(project: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The points and the summary of the project's one run, which is finished."""
    curves = collect(project)
    assert curves.problems == ()  # doubled points would be told here
    assert curves.runs["status"].tolist() == ["finished"]
    client = MlflowClient()
    (run,) = client.search_runs(
        [client.get_experiment_by_name(project).experiment_id], "tags.`surge.kind` = 'trial'"
    )
    prefix = "surge.summary."
    summary = {
        name.removeprefix(prefix): text for name, text in run.data.tags.items() if name.startswith(prefix)
    }
    return curves.points.drop(columns="run"), summary


def assert_close(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same run but for the rounding of single precision."""
    assert one["step"].tolist() == other["step"].tolist()
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4)
    np.testing.assert_allclose(one["loss"][:10], other["loss"][:10], rtol=1e-6)


def test_two_processes_train_as_one_does_and_go_on_with_the_same_bits() -> None:
    """Asked for room twice, once in one process alone and once by torchrun: both stop at one step."""
    assert main(of_task("one", {**PARAMETERS, "model": "mlp"})) == 0
    alone, summary = finished("one")
    assert summary == {}
    first, second = run_without_torchrun(of_task("two"))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.startswith("finished after 60 steps")
    assert second.stdout == ""
    together, summary = finished("two")
    assert summary == {"micro_batch_size": "16", "accumulation": "1", "world_size": "2"}
    assert_close(together, alone)

    parted, steps = of_task("parted"), []
    for event in ("term", "term-all"):
        stopped = run(parted, event, rank=1, at=20)
        assert stopped.returncode == 1  # torchrun's word, whatever its processes'
        assert stopped.stderr.count("the run made room") == 1, stopped.stderr
        assert "lost the others" not in stopped.stderr
        steps.append(torch.load(the_state(), weights_only=True)["step"])
        assert collect("parted").runs["status"].tolist() == ["crashed"]
    assert 10 < steps[0] < 20 < steps[1] < 40  # the first passes of each start are none of a step
    again = run(parted)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(finished("parted")[0], together)
    assert not list(STATES.iterdir())


def test_a_killed_process_takes_the_other_along_and_the_run_goes_on_in_one() -> None:
    task = of_task("killed")
    killed = run([*task, "--checkpoint-every-minutes=1e-9"], "kill", rank=0, at=40)
    assert killed.returncode == 1
    assert "SIGKILL" in killed.stderr
    assert 30 < torch.load(the_state(), weights_only=True)["step"] < 40
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(digits_module.MODELS, "narrow", digits_module.MODELS["mlp"])
        patched.setitem(digits_module.SPEC.models, "narrow", {})
        assert main(task) == 0
        assert main(of_task("whole")) == 0
    assert_close(finished("killed")[0], finished("whole")[0])


def test_memory_that_runs_out_in_one_process_halves_in_both() -> None:
    first, second = run_without_torchrun(of_task("narrow"), "limit", rank=1, at=30, limit=5)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    said = first.stderr + second.stderr
    assert said.count("out of memory: going on with micro-batches of 8 examples instead of 16") == 1
    assert said.count("out of memory: going on with micro-batches of 4 examples instead of 8") == 1
    points, summary = finished("narrow")
    assert summary == {"micro_batch_size": "4", "accumulation": "4", "world_size": "2"}
    assert main(of_task("wide", {**PARAMETERS, "model": "mlp"})) == 0
    assert_close(points, finished("wide")[0])


def test_a_fault_in_one_process_ends_both_and_closes_the_run() -> None:
    first, second = run_without_torchrun(of_task("fault"), "fault", rank=1, at=30)
    assert (first.returncode, second.returncode) == (1, 1)
    assert "a fault of this process alone" in second.stderr
    assert "process 1 of 2 lost the others" in first.stderr
    assert collect("fault").runs["status"].tolist() == ["crashed"]


@pytest.fixture
def among(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """This process as one of several, as torchrun tells it."""

    def tell(number: int | str, size: int, local: int = 0) -> None:
        texts = {"RANK": number, "WORLD_SIZE": size, "LOCAL_RANK": local, "MASTER_ADDR": "127.0.0.1"}
        for name, value in texts.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_PORT", "29517")

    return tell


def test_a_batch_that_cannot_be_shared_is_refused(
    among: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    among(0, 3)
    assert main(["--lr=0.1", "--batch_size=32", "--max_steps=3"]) == 1
    told = capsys.readouterr().err
    assert (
        "a batch of 32 examples cannot be shared evenly by 3 processes. Run it with 2 or 4 processes." in told
    )
    among(0, 2)
    assert main(["--lr=0.1", "--batch_size=32", "--max_steps=3", "--micro-batch-size=6"]) == 1
    assert "a share of 16 examples" in capsys.readouterr().err
    assert collect_nothing()


def collect_nothing() -> bool:
    return MlflowClient().get_experiment_by_name("surge-sweeps") is None


def test_a_process_whose_others_do_not_come_is_told(
    among: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    among(1, 2)
    monkeypatch.setattr("surge_sweeps.training.processes.PATIENCE", timedelta(seconds=1))
    with (
        pytest.raises(TrainingError, match="process 2 of 2 lost the others"),
        joined(this_rank(), torch.device("cpu")),
    ):
        pass


def test_variables_that_make_no_sense_are_refused(among: Callable[..., None]) -> None:
    for number, size in ((2, 2), (-1, 2), ("first", 2), (0, 0)):
        among(number, size)
        with pytest.raises(TrainingError, match="RANK, WORLD_SIZE and LOCAL_RANK are"):
            this_rank()


def test_one_process_under_torchrun_is_one_alone(among: Callable[..., None]) -> None:
    assert this_rank() == Rank(0, 1, 0)
    among(0, 1)
    assert this_rank() == Rank(0, 1, 0)
    with joined(this_rank(), torch.device("cpu")) as processes:
        assert processes is ALONE
        assert processes.any_of(True, False) == (True, False)
        assert processes.gather(1.5, 2.5) == [(1.5, 2.5)]
        assert processes.from_first(b"x") == b"x"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--lr=0.1", "--batch_size=32", "--max_steps=3", "--device=cuda"]) == 1
    assert "Choose --device cpu" in capsys.readouterr().err
    assert collect_nothing()
    assert pick_device("auto").type == pick_device("cpu", 5).type == "cpu"


def test_data_on_a_device_is_the_same_workload(digits: Digits) -> None:
    placed = digits.on(torch.device("cpu"))
    assert placed is digits
    # A device that computes nothing, but that every machine has.
    placed = digits.on(torch.device("meta"))
    assert {placed.train_inputs.device.type, placed.eval_targets.device.type} == {"meta"}
    model = placed.build_model("mlp", torch.Generator().manual_seed(0))
    assert placed.loss(model(placed.train_inputs), placed.train_targets).device.type == "meta"
    assert placed.name == "digits"
