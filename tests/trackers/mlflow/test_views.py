"""Saved chart views: what is written on the experiment, when, and that the installed MLflow still knows the format."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

import mlflow
from mlflow import MlflowClient
from mlflow_stores import MlflowServer

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow.views import TAG_VIEW, ViewNames, supports_views, write_views
from surge_sweeps.trackers.mlflow.views.layout import means_state, trials_state
from surge_sweeps.trackers.mlflow.views.measured import Measured, Trial, whole_groups
from surge_sweeps.trackers.mlflow.views.saved import SavedView, parse_view_tag
from surge_sweeps.trackers.mlflow.views.write import ui_version

NAMES = ViewNames("train/loss", "lr", "batch_size", "seed")
ForeignRun = Callable[..., str]


@pytest.fixture(scope="module")
def uri(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for this file, since opening one takes longer than most of its tests; see `project`."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('views') / 'mlflow.db')}"


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """Name of the test's own experiment."""
    return str(request.node.name)


@pytest.fixture
def sweep(uri: str, project: str) -> Callable[..., str]:
    """Write trials of the given last losses by (batch size, learning rate, seed); returns the experiment's id."""

    def write(losses: dict[tuple[int, float, int], float], sweep_id: str = "s1") -> str:
        records = [
            RunRecord(
                {"lr": lr, "batch_size": size, "seed": seed},
                f"{sweep_id}-{size}-{lr}-{seed}",
                "finished" if math.isfinite(loss) else "diverged",
                {"train/loss": [(1, 2.0), (2, loss)]},
            )
            for (size, lr, seed), loss in losses.items()
        ]
        tracker = open_tracker("mlflow", project, uri)
        tracker.open_sweep(sweep_id, "views", {})
        tracker.write_runs(sweep_id, records)
        tracker.close()
        return str(MlflowClient(uri).get_experiment_by_name(project).experiment_id)

    return write


def grid(sizes: int = 1, rates: int = 2, seeds: int = 1) -> dict[tuple[int, float, int], float]:
    return {
        (8 * 2**size, 0.01 * 2**rate, seed): 1.0 + abs(rate - 1) + 0.1 * seed
        for size in range(sizes)
        for rate in range(rates)
        for seed in range(seeds)
    }


def saved(client: MlflowClient, number: str) -> dict[str, SavedView]:
    tags = client.get_experiment(number).tags
    views = {name.removeprefix(TAG_VIEW): parse_view_tag(value) for name, value in tags.items()}
    return {name: view for name, view in views.items() if view is not None}


def charts(view: SavedView) -> list[str]:
    found: Any = view.state["compareRunCharts"]
    return [chart["type"] for chart in found if not chart["deleted"]]


def test_the_views_of_a_sweep_are_the_trials_and_the_means(sweep: Any, client: MlflowClient) -> None:
    number = sweep(grid())
    views = write_views(client, number, NAMES)
    assert [view.name for view in views] == ["surge: trials, best first", "surge: mean over seeds"]
    assert [view.key for view in views] == ["surge-trials", "surge-means"]
    assert views[0].url_fragment == (
        f"#/experiments/{number}/runs?viewStateShareKey=surge-trials&compareRunsMode=CHART"
        "&workflowType=machine_learning"
    )
    trials, means = saved(client, number).values()
    assert charts(trials) == ["PARALLEL", "SCATTER", "LINE"]
    assert charts(means) == ["CONTOUR", "SCATTER", "LINE"]
    assert trials.state["orderByKey"] == "metrics.`train/loss`"
    assert trials.state["runsHiddenMode"] == "SHOW_ALL"
    keys: Any = means.state["groupBy"]
    assert [key["groupByData"] for key in keys["groupByKeys"]] == ["batch_size", "lr"]
    contour: Any = means.state["compareRunCharts"]
    assert contour[0]["xaxis"] == {"key": "hp/log10_lr", "type": "METRIC"}


def test_what_is_unchanged_is_not_written_again(sweep: Any, client: MlflowClient) -> None:
    number = sweep(grid())
    first = write_views(client, number, NAMES)
    before = dict(client.get_experiment(number).tags)
    assert write_views(client, number, NAMES) == first
    assert dict(client.get_experiment(number).tags) == before


def test_a_changed_view_keeps_its_key_and_its_first_time(sweep: Any, client: MlflowClient) -> None:
    number = sweep(grid())
    write_views(client, number, NAMES)
    old = json.loads(client.get_experiment(number).tags[f"{TAG_VIEW}surge-trials"])
    client.set_experiment_tag(
        number, f"{TAG_VIEW}surge-trials", json.dumps(old | {"createdAt": 5, "name": "x"})
    )
    write_views(client, number, NAMES)
    again = saved(client, number)["surge-trials"]
    assert (again.name, again.created_ms) == ("surge: trials, best first", 5)
    assert again.updated_ms > 5


def test_views_of_the_users_own_stay(sweep: Any, client: MlflowClient) -> None:
    number = sweep(grid())
    client.set_experiment_tag(number, f"{TAG_VIEW}1f0c", "deflate;whatever")
    write_views(client, number, NAMES)
    assert client.get_experiment(number).tags[f"{TAG_VIEW}1f0c"] == "deflate;whatever"


def test_one_sweep_of_an_experiment_has_views_of_its_own(sweep: Any, client: MlflowClient) -> None:
    sweep(grid())
    number = sweep(grid(), sweep_id="s2")
    one = ViewNames(
        "train/loss",
        "lr",
        "batch_size",
        "seed",
        sweep_filter="tags.`surge.sweep_id` = 's2'",
        label="sweep  s2\n",
    )
    views = write_views(client, number, NAMES) + write_views(client, number, one)
    assert len({view.key for view in views}) == 4
    assert [view.name for view in views[2:]] == [
        "surge sweep s2: trials, best first",
        "surge sweep s2: mean over seeds",
    ]
    for key in (view.key for view in views[2:]):
        query = str(saved(client, number)[key].state["searchFilter"])
        found = client.search_runs([number], query)
        assert [run.data.tags["surge.sweep_id"] for run in found] == ["s2", "s2"]


def test_a_group_with_a_diverged_run_has_no_mean(sweep: Any, client: MlflowClient) -> None:
    """MLflow averages the rest of a group without a NaN, and takes an infinity for 1.8e308."""
    losses = grid(2, 3, 2)
    losses[8, 0.04, 0] = math.nan
    losses[16, 0.04, 1] = math.inf
    number = sweep(losses)
    write_views(client, number, NAMES)
    views = saved(client, number)
    found = client.search_runs([number], str(views["surge-means"].state["searchFilter"]))
    assert sorted({(run.data.params["batch_size"], run.data.params["lr"]) for run in found}) == [
        ("16", "0.01"), ("16", "0.02"), ("8", "0.01"), ("8", "0.02")
    ]  # fmt: skip
    assert len(found) == 8
    trials = client.search_runs([number], str(views["surge-trials"].state["searchFilter"]))
    assert {run.data.tags["surge.kind"] for run in trials} == {"trial"}
    assert all(abs(run.data.metrics["train/loss"]) < 1e300 for run in trials)
    assert "none diverged" in json.dumps(views["surge-means"].state)


def test_means_that_can_no_longer_be_taken_are_removed(sweep: Any, client: MlflowClient) -> None:
    number = sweep(grid(2, 2, 2))
    client.set_experiment_tag(number, f"{TAG_VIEW}mine", "my own")
    write_views(client, number, NAMES)
    assert f"{TAG_VIEW}surge-means" in client.get_experiment(number).tags
    write_views(client, number, ViewNames("train/loss", "lr", None, "seed"))
    left = {name for name in client.get_experiment(number).tags if name.startswith(TAG_VIEW)}
    assert left == {f"{TAG_VIEW}mine", f"{TAG_VIEW}surge-trials"}


def test_a_run_that_did_not_end_is_in_no_mean(
    foreign_run: ForeignRun, client: MlflowClient, project: str
) -> None:
    """Its last loss is that of a part of the training."""
    params = {"lr": 0.1, "batch_size": 8}
    ended = foreign_run(params, {"train/loss": [(2, 1.0)]}, project=project)
    for status in ("FAILED", "KILLED", None):
        run = foreign_run(params, {"train/loss": [(1, 2.0)]}, project=project, status=status)
    number = client.get_run(run).info.experiment_id
    write_views(client, number, NAMES)
    found = client.search_runs([number], str(saved(client, number)["surge-means"].state["searchFilter"]))
    assert [run.info.run_id for run in found] == [ended]


@pytest.mark.parametrize("missing", ["lr", "batch_size"])
def test_without_a_parameter_there_are_no_means(sweep: Any, client: MlflowClient, missing: str) -> None:
    number = sweep(grid())
    names = ViewNames(**({"loss": "train/loss", "lr": "lr", "batch_size": "batch_size"} | {missing: None}))
    assert [view.key for view in write_views(client, number, names)] == ["surge-trials"]


def test_runs_of_others_are_charted_by_their_parameters(
    foreign_run: ForeignRun, client: MlflowClient, project: str
) -> None:
    for rate in (0.1, 0.2):
        params = {"peak lr": rate, "größe": 8, "s": 0}
        run = foreign_run(params, {"my loss": [(1, 2.0), (2, rate)]}, project=project)
    number = client.get_run(run).info.experiment_id
    write_views(client, number, ViewNames("my loss", "peak lr", "größe", "s"))
    views = saved(client, number)
    contour: Any = views["surge-means"].state["compareRunCharts"]
    assert (contour[0]["xaxis"], contour[0]["yaxis"]) == (
        {"key": "peak lr", "type": "PARAM"},
        {"key": "größe", "type": "PARAM"},
    )
    assert len(client.search_runs([number], str(views["surge-trials"].state["searchFilter"]))) == 2


def test_learning_rates_over_decades_are_on_no_linear_axis(
    foreign_run: ForeignRun, client: MlflowClient, project: str
) -> None:
    for rate in (0.001, 0.01, 0.1):
        run = foreign_run({"lr": rate, "bs": 8, "s": 0}, {"loss": [(1, 2.0), (2, rate)]}, project=project)
    number = client.get_run(run).info.experiment_id
    write_views(client, number, ViewNames("loss", "lr", "bs", "s"))
    for view in saved(client, number).values():
        assert charts(view) == ["LINE"]
        sections: Any = view.state["compareRunSections"]
        assert [section["uuid"] for section in sections] == ["surge-curves"]
        assert "params.`lr`" in view.state["selectedColumns"]  # the table has them


def test_a_metric_that_no_run_holds_is_said(sweep: Any, client: MlflowClient) -> None:
    number = sweep(grid())
    with pytest.raises(TrackerError, match="none of the runs holds the metric 'eval/loss'"):
        write_views(client, number, ViewNames("eval/loss", "lr", "batch_size"))


@pytest.mark.parametrize(
    "names", [ViewNames("loss`; x"), ViewNames("loss", lr="a`b"), ViewNames("loss", groups=("l'r",))]
)
def test_names_that_could_end_a_quote_are_refused(client: MlflowClient, names: ViewNames) -> None:
    with pytest.raises(TrackerError, match="MLflow refuses the"):
        write_views(client, "0", names)


def test_names_too_long_for_a_tag_are_said(sweep: Any, client: MlflowClient) -> None:
    number = sweep(grid())
    chance = random.Random(0)
    long = tuple("".join(chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=250)) for _ in range(150))
    with pytest.raises(TrackerError, match="MLflow keeps at most 20000"):
        write_views(client, number, ViewNames("train/loss", "lr", "batch_size", groups=long))


@pytest.mark.parametrize("version", ["3.14.0", "3.99.0"])
def test_a_version_that_was_not_tried_is_said_and_nothing_is_written(
    sweep: Any, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    number = sweep(grid())
    monkeypatch.setattr(mlflow, "__version__", version)
    with pytest.raises(
        TrackerError, match=rf"the server runs MLflow {version}, and they are known to open in"
    ):
        write_views(client, number, NAMES)
    assert saved(client, number) == {}


def test_a_server_says_its_version(shared_server: MlflowServer) -> None:
    assert ui_version(MlflowClient(shared_server.uri)) == mlflow.__version__


def test_a_part_of_a_large_grid_is_of_whole_groups() -> None:
    chance = random.Random(0)
    trials = [
        Trial(f"{size}/{rate}/{seed}", chance.gauss(abs(rate - 50), 0.1), (str(size), str(rate)))
        for size in (8, 16, 32, 64, 128, 256, 1024)
        for rate in range(100)
        for seed in range(5)
    ]
    chosen = {run.rpartition("/")[0] for run in whole_groups(trials)}
    assert sorted(whole_groups(trials)) == sorted(f"{group}/{seed}" for group in chosen for seed in range(5))
    assert len(chosen) == 20
    assert {group.partition("/")[0] for group in chosen} >= {
        "8",
        "1024",
    }  # both ends, in the order of numbers
    assert {"8/0", "8/99", "1024/0", "1024/99"} <= chosen
    assert whole_groups([Trial(str(run), 1.0, ("8", "0.1")) for run in range(101)]) == []
    many = [
        Trial(f"{size}/{rate}/{seed}", rate, (str(size), str(rate)))
        for size in (8, 16, 32)
        for rate in (1, 2, 4)
        for seed in range(48)
    ]
    assert whole_groups(many) == [], "two groups of nine would say nothing of the grid"


def test_the_installed_mlflow_is_one_that_was_tried() -> None:
    assert supports_views(mlflow.__version__)


def test_the_installed_pages_know_everything_a_view_holds() -> None:
    """The page keeps its state under these names, in two lists; what is in neither it would drop without a word."""
    folder = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    if not folder.is_dir():
        pytest.skip("mlflow-skinny has no pages")
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.js")))
    state = re.search(r'\["selectedColumns"[^\]]*"compareRunCharts"[^\]]*\]', code)
    facets = re.search(r'\["searchFilter"[^\]]*"orderByKey"[^\]]*\]', code)
    assert state is not None
    assert facets is not None
    known = {*json.loads(state[0]), *json.loads(facets[0])}
    found = Measured(0, (), only_trials=True, has_logs=True, shows_lr=True)
    written = trials_state(NAMES, "", found)
    assert set(written) | set(means_state(NAMES, "", found, "")) <= known
    sections: Any = written["compareRunSections"]
    drawn: Any = written["compareRunCharts"]
    for word in (TAG_VIEW, "viewStateShareKey", "compareRunsMode", "deflate;", "SHOW_ALL", "groupByData"):
        assert f'"{word}"' in code or f"{word}:" in code, word
    for name in {key for item in (*sections, *drawn) for key in item}:
        assert name in code, name
    for kind in ("PARALLEL", "SCATTER", "CONTOUR", "LINE", "BAR"):
        assert f'"{kind}"' in code, kind
