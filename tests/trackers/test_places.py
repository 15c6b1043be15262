"""Where a project is looked for: what the user says decides, then what is there; two that fit are asked about."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import wandb
from mlflow import MlflowClient

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers import collect
from surge_sweeps.trackers.files.writer import FilesTracker
from surge_sweeps.trackers.places import locate, short_name
from surge_sweeps.trackers.project_trials import launched_trials

KEY = "k" * 40


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # it remembers the first key it finds in a process


def test_entity_and_project_is_wandb_where_a_key_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    place = locate("team/digits")
    assert place.kind == "wandb"
    assert KEY not in place.why
    assert locate("team/digits/sweep1").kind == "wandb"
    assert locate("digits").kind == "mlflow"


def test_a_key_in_netrc_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert locate("team/digits").kind == "wandb"


def test_a_name_with_a_slash_is_an_experiment_where_only_mlflow_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert locate("Shared/digits") == ("mlflow", "MLFLOW_TRACKING_URI is set")


def test_two_that_fit_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    Path("mlflow.db").touch()
    with pytest.raises(SurgeError, match="--tracker wandb or --tracker mlflow"):
        locate("team/digits")
    assert locate("team/digits", "wandb").kind == "wandb"
    assert locate("team/digits", "mlflow").kind == "mlflow"


def test_none_that_fits_says_how_to_log_in() -> None:
    with pytest.raises(SurgeError, match="wandb login"):
        locate("team/digits")


def test_a_folder_counts_only_with_runs_in_it(tmp_path: Path) -> None:
    Path("digits").mkdir()
    assert locate("digits").kind == "mlflow"
    with pytest.raises(SurgeError, match="holds no runs"):
        locate("./digits")
    run = tmp_path / "digits" / "offline-run-20260101_000000-abcd1234"
    run.mkdir()
    (run / "run-abcd1234.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    assert locate("digits").kind == "offline"
    assert locate(str(run / "run-abcd1234.wandb")).kind == "offline"


def test_a_folder_of_runs_is_found_by_what_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    FilesTracker("digits").open_sweep("s1", "digits", {})
    assert locate("digits") == ("files", "")
    assert short_name("./digits/", "files") == "digits"
    # Programs at work log by W&B's client in there, which makes it no folder of W&B.
    run = Path("digits") / "scratch" / "x.wandb" / "wandb" / "offline-run-20260101_000000-abcd1234"
    run.mkdir(parents=True)
    (run / "run-abcd1234.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    assert locate("digits").kind == "files"
    # An experiment may have that name too.
    Path("mlflow.db").touch()
    with pytest.raises(SurgeError, match=r"--tracker files \(or ./digits\) or --tracker mlflow"):
        locate("digits")
    FilesTracker("my runs").open_sweep("s1", "digits", {})
    with pytest.raises(SurgeError, match=r"or './my runs'\)"):
        locate("my runs")
    assert locate("./digits").kind == locate(str(Path("digits").absolute())).kind == "files"
    assert locate("digits", "mlflow").kind == "mlflow"
    assert locate("digits", "files").kind == locate("later", "files").kind == "files"
    with pytest.raises(SurgeError, match="--project names the folder"):
        locate("digits", "files", "sqlite:///mlflow.db")


def test_a_folder_of_runs_is_taken_where_the_store_has_no_such_experiment(
    empty_store: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_store, "mlflow.db")
    for name in ("digits", "both"):
        FilesTracker(name).open_sweep("s1", "digits", {})
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("both")
    assert locate("digits") == ("files", "")
    with pytest.raises(SurgeError, match="could be the folder of runs of that name or an MLflow experiment"):
        locate("both")


def test_a_file_named_like_an_experiment_is_asked_about(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, "mlflow.db")
    for name in ("sweep", "table"):
        Path(name).write_text("lr,loss\n0.1,2\n")
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("sweep")
    with pytest.raises(
        SurgeError, match=r"'sweep' could be the file .* Say which: --tracker mlflow, or .* ./sweep"
    ):
        locate("sweep")
    assert locate("./sweep").kind == locate("table").kind == "table"
    assert locate("sweep", "mlflow").kind == "mlflow"
    with pytest.raises(SurgeError, match=r"'table' is a file here, .* --tracker mlflow, wandb or files"):
        launched_trials("table")


def test_what_contradicts_is_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'wandb'"):
        locate("team/digits", "wandbb")
    with pytest.raises(SurgeError, match="WANDB_BASE_URL"):
        locate("team/digits", "wandb", "sqlite:///mlflow.db")
    with pytest.raises(SurgeError, match="is a table"):
        locate("runs.csv", "wandb")
    with pytest.raises(SurgeError, match="filters are W&B's"):
        collect("digits", filters={"state": "finished"}, uri="sqlite:///mlflow.db")
