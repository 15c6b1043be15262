"""docs/own_script.md with MLflow: the scripts as its diffs make them, run by ``surge-sweep launch`` and read back."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from test_recipes import PAGE, fenced_blocks, printed_commands, printed_scripts
from typer.testing import CliRunner

from surge_sweeps import collect
from surge_sweeps.cli.sweep import app as sweep_app
from surge_sweeps.fitting.observables.groups import split_groups

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="docs/ is not part of the wheel")

MAX_STEPS = 6


def patched_scripts() -> dict[str, str]:
    """File name to text of every script that a diff of the page makes of a printed one."""
    made: dict[str, str] = {}
    for diff in fenced_blocks("diff"):
        old, new, *changes = diff.splitlines()
        text = printed_scripts()[old.removeprefix("--- ")]
        for hunk in "\n".join([*changes, ""]).split("@@\n")[1:]:
            before, after = (
                "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[0] == sign) for sign in "-+"
            )
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        made[new.removeprefix("+++ ")] = text
    return made


def test_no_script_of_mlflow_speaks_of_wandb() -> None:
    scripts = patched_scripts()
    assert set(scripts) == {"train_transformers_mlflow.py", "train_lightning_mlflow.py"}
    assert not any("wandb" in text for text in scripts.values())


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_transformers_mlflow.py", "train_lightning_mlflow.py"])
def test_launched_as_printed(
    program: str, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers" if "transformers" in program else "lightning")
    monkeypatch.chdir(tmp_path)
    for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / program).write_text(patched_scripts()[program])
    (command,) = [words for words in printed_commands("surge-sweep") if program in words]
    # Of an option given twice the last one counts. Two micro-batches a step.
    tiny = ["--lr", "0.003", "--batch-size", "32", "--seeds", "1", "--set", f"max_steps={MAX_STEPS}"]
    for words in ([*command, *tiny], ["launch", command[1], "--agents", "1", "--quiet"]):
        done = CliRunner().invoke(sweep_app, words)
        assert done.exit_code == 0, done.output
    experiment = Path(command[1]).stem
    curves = collect(experiment)
    (run,) = curves.runs.itertuples()
    assert (run.lr, run.batch_size, run.seed, run.status) == (0.003, 32, 0, "finished")
    assert len(split_groups(curves)[0]) == 1
    assert curves.points["step"].tolist() == list(range(1, MAX_STEPS + 1))
    assert curves.points["examples"].tolist() == [32 * step for step in range(1, MAX_STEPS + 1)]
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        query = "SELECT value FROM metrics WHERE key = ? AND run_uuid = ? ORDER BY step"
        logged = [value for (value,) in store.execute(query, (curves.loss_name, run.run))]
    assert curves.points["loss"].tolist() == logged
    assert logged[-1] < logged[0]
