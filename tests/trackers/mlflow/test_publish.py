"""Results published in real MLflow stores, read back by its client, cut off, and published again."""

from __future__ import annotations

import json
import math
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from mlflow_stores import MlflowServer, Postgres
from mlflow_stores.postgres import PASSWORD, USER

pytest.importorskip("mlflow")

from mlflow import MlflowClient

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.fitting import fit, measured_cells
from surge_sweeps.fitting.result import SurgeFit
from surge_sweeps.report import write_report
from surge_sweeps.report.publication import publication_of
from surge_sweeps.schedule import attach_schedules
from surge_sweeps.simulate import Grid, Truth, simulate_training
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.mlflow import publish as publishing
from surge_sweeps.trackers.mlflow.note import (
    AS_TRAINING,
    NOTE_LIMIT,
    NOTE_TAG,
    NoteLink,
    note_text,
    own_text,
)
from surge_sweeps.trackers.mlflow.publish import (
    TAG_FINGERPRINT,
    TAG_SCOPE,
    Published,
    check_publishing,
    publish,
)
from surge_sweeps.trackers.mlflow.published_files import TABLES_TAG, check_artifact_place
from surge_sweeps.trackers.mlflow.published_numbers import result_tags
from surge_sweeps.trackers.mlflow.reader import MlflowReader
from surge_sweeps.trackers.mlflow.views import TAG_VIEW
from surge_sweeps.trackers.publication import Publication, PublishedFigure, PublishedTable, RunNames

PNG = b"\x89PNG\r\n\x1a\n"
CURVE = "surge/all/reach/optimal_lr_by_batch_size"


class Study(NamedTuple):
    fit: SurgeFit
    cells: pd.DataFrame
    folder: Path
    publication: Publication


def study(truth: Truth, rates: list[float], seed: int, folder: Path) -> Study:
    grid = Grid([4, 8, 16, 32, 64, 128], rates, 2)
    curves = simulate_training(truth, grid, np.random.default_rng(seed))
    found = attach_schedules(fit(curves, n_draws=200, seed=0))
    cells = measured_cells(curves)
    paths = write_report(found, cells, folder)
    return Study(found, cells, folder, publication_of(found, cells, paths, draw=True))


@pytest.fixture(scope="module")
def surge(tmp_path_factory: pytest.TempPathFactory) -> Study:
    rates = [float(f"{rate:.4g}") for rate in np.geomspace(2e-3, 0.6, 9)]
    return study(
        Truth("surge", {"eps_max": 0.1, "b_noise": 30.0}), rates, 2, tmp_path_factory.mktemp("surge")
    )


def small(value: float = 1.0, **changes: Any) -> Publication:
    """A publication made by hand."""
    table = PublishedTable(("batch_size", "lr", "empty"), ((4, value, None), (8, math.nan, None)))
    made = Publication(
        "Small", "", "## All\n\n**Recommendation.** Use it.\n\nAnswer.", "### Table\n\nDetails.",
        {"surge/all/reach/b_peak": value, "surge/all/reach/b_peak_low": value / 2, "surge/all/reach/verdict": "surge"},
        table, table, {"fit.json": b"%f" % value, "report.html": b"<p>%f</p>" % value},
        headline="Use it.", curves={CURVE: ((4, value), (8, 2 * value))},
        figures=(PublishedFigure("a.png", "A picture", PNG + b"%f" % value),),
    )  # fmt: skip
    return replace(made, **changes)


def parent(client: MlflowClient, project: str = "digits", sweep: str = "s1") -> str:
    """A sweep's parent run with one trial."""
    found = client.get_experiment_by_name(project)
    number = found.experiment_id if found else client.create_experiment(project)
    run = client.create_run(number, tags={"surge.kind": "sweep", "surge.sweep_id": sweep}, run_name="sweep")
    tags = {
        "surge.kind": "trial",
        "surge.sweep_id": sweep,
        "surge.trial_id": f"{sweep}-t",
        "surge.status": "finished",
    }
    trial = client.create_run(number, tags=tags).info.run_id
    for name, value in {"lr": 0.1, "batch_size": 8, "seed": 0}.items():
        client.log_param(trial, name, value)
    for step in (1, 2):
        client.log_metric(trial, "eval/loss", 1 / step, step=step)
        client.log_metric(trial, "examples", 8.0 * step, step=step)
    client.set_terminated(trial)
    return str(run.info.run_id)


def files(client: MlflowClient, run: str, folder: str = "surge") -> dict[str, bytes]:
    found = {}
    for one in client.list_artifacts(run, folder):
        if one.is_dir:
            found |= files(client, run, one.path)
        else:
            found[one.path] = Path(client.download_artifacts(run, one.path)).read_bytes()
    return found


def run_of(published: Published) -> str:
    return published.run.rpartition("/")[2].partition("?")[0]


def newest(client: MlflowClient, run: str, metric: str) -> dict[int, float]:
    history = sorted(client.get_metric_history(run, metric), key=lambda point: point.timestamp)
    return {point.step: point.value for point in history}


def check_whole(client: MlflowClient, run: str, publication: Publication) -> None:
    """Everything that a publication holds is what the run shows now."""
    found = client.get_run(run)
    tags = found.data.tags
    assert tags[TAG_FINGERPRINT] == publication.fingerprint()
    assert tags[NOTE_TAG].splitlines()[0] == publication.headline
    assert len(tags[NOTE_TAG]) <= NOTE_LIMIT
    shown = {name: value for name, value in found.data.metrics.items() if name.startswith("surge/")}
    kept = files(client, run)
    table = dict(json.loads(kept["surge/tables/key_results.json"])["data"])
    assert set(table) == set(publication.scalars)
    for name in shown.keys() & publication.scalars.keys():
        assert shown.pop(name) == publication.scalars[name]
    for name in publication.scalars:
        is_charted = name.count("/") > 1 and not name.endswith(("_low", "_high", "_lr"))
        assert (name in found.data.metrics) == (is_charted and not isinstance(publication.scalars[name], str))
    for name, points in publication.curves.items():
        versions = {one for one in shown if one.startswith(name)}
        (version,) = [one for one in versions if not math.isnan(shown[one])]
        shown.pop(version)
        history = client.get_metric_history(run, version)
        assert sorted((point.step, point.value) for point in history) == sorted(points)
    assert all(math.isnan(value) for value in shown.values()), "what no longer holds has no number"
    assert {name: value for name, value in tags.items() if name.startswith("surge.result.")} == result_tags(
        publication.scalars
    )
    expected = {f"surge/{name}": content for name, content in publication.files.items()}
    expected |= {f"surge/figures/{one.file}": one.content for one in publication.figures}
    tables = {f"surge/tables/{name}.json" for name in ("optimal_lr", "key_results")}
    assert set(kept) - {"surge/earlier_description.md"} == set(expected) | tables
    assert {name: kept[name] for name in expected} == expected
    assert {one["path"] for one in json.loads(tags[TABLES_TAG])} == tables


def rows(database: Path) -> list[list[tuple[object, ...]]]:
    """All that a SQLite store holds of runs."""
    with closing(sqlite3.connect(database)) as connection:
        return [
            sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in ("metrics", "tags", "experiment_tags", "runs")
        ]


# ---- there and back


def test_a_result_is_read_back_from_the_parent_run(uri: str, client: MlflowClient, surge: Study) -> None:
    run = parent(client)
    client.set_tag(run, TABLES_TAG, '[{"path": "mine.json", "type": "table"}]')
    done = publish("digits", surge.publication, uri)

    assert (done.changed, done.run_name, done.left) == (True, "sweep", ())
    page = f"#/experiments/1/runs/{run}"
    assert done.run == f"{page}?{AS_TRAINING}"
    assert done.report == f"{page}/artifacts/surge/report.html?{AS_TRAINING}"
    tags = client.get_run(run).data.tags
    assert {"path": "mine.json", "type": "table"} in json.loads(tags[TABLES_TAG])
    client.set_tag(run, TABLES_TAG, json.dumps(json.loads(tags[TABLES_TAG])[1:]))
    check_whole(client, run, surge.publication)
    note = tags[NOTE_TAG]
    assert note.splitlines()[0].startswith("No law is established, so this is only the best of what was run")
    is_cut = surge.publication.headline.endswith("More in the report.")
    assert note.count("train with batch size") == 1 + is_cut, (
        "what the first line says whole is not said twice"
    )
    assert f"({done.report})" in note
    assert f"(get-artifact?path=surge/figures/optimal_lr.png&run_uuid={run})" in note
    assert "| Batch size&ensp;|" in note
    table = json.loads(files(client, run)["surge/tables/optimal_lr.json"])
    assert len(table["data"]) == len(surge.publication.optima.rows)
    assert {"batch_size", "lr", "status"} <= set(table["columns"])
    assert "horizon" not in table["columns"], "a column of nothing is left out"
    assert all(content.startswith(PNG) for path, content in files(client, run).items() if "figures" in path)
    assert any(name.endswith("/b_crit") for name in client.get_run(run).data.metrics)


def test_nothing_is_written_when_nothing_changed(
    uri: str, client: MlflowClient, database: Path, surge: Study
) -> None:
    run = parent(client)
    names = RunNames("eval/loss", "lr", "batch_size", seed="seed")
    whole = replace(surge.publication, runs=names)
    first = publish("digits", whole, uri)
    assert [view.fragment.partition("?")[0] for view in first.views] == ["#/experiments/1/runs"] * 2
    before = rows(database), files(client, run)
    again = publish("digits", whole, uri)

    assert again == replace(first, changed=False)
    assert (rows(database), files(client, run)) == before


def test_views_that_were_deleted_come_back_with_a_result_that_did_not_change(
    uri: str, client: MlflowClient, surge: Study
) -> None:
    parent(client)
    whole = replace(surge.publication, runs=RunNames("eval/loss", "lr", "batch_size", seed="seed"))
    first = publish("digits", whole, uri)
    tags = client.get_experiment("1").tags
    for key in (found := [key for key in tags if key.startswith(TAG_VIEW)]):
        client.delete_experiment_tag("1", key)
    assert publish("digits", whole, uri) == replace(first, changed=False)
    assert [key for key in client.get_experiment("1").tags if key.startswith(TAG_VIEW)] == found


def test_views_that_become_possible_later_are_named_in_the_note(
    uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = parent(client)
    names = RunNames("eval/loss", "lr", "batch_size", seed="seed")
    with monkeypatch.context() as older:
        older.setattr("surge_sweeps.trackers.mlflow.views.write.supports_views", lambda _version: False)
        assert "are not saved" in publish("digits", small(runs=names), uri).no_views
    later = publish("digits", small(runs=names), uri)
    assert len(later.views) == 2
    assert later.views[0].fragment in client.get_run(run).data.tags[NOTE_TAG]


def test_a_changed_result_takes_the_place_of_the_last(uri: str, client: MlflowClient) -> None:
    run = parent(client)
    other = small(
        3.0, curves={CURVE: ((8, 6.0), (16, 7.0))}, scalars={"surge/all/gain/b_peak_at_least": 64.0},
        files={"fit.json": b"new"}, figures=(),
    )  # fmt: skip
    for made in (small(1.0), other):
        assert publish("digits", made, uri).changed
        check_whole(client, run, made)

    assert math.isnan(client.get_run(run).data.metrics["surge/all/reach/b_peak"])
    assert newest(client, run, f"{CURVE}_v2") == {8: 6.0, 16: 7.0}, "no chart shows a point at two places"
    # A result that holds again is written again.
    publish("digits", small(1.0), uri)
    check_whole(client, run, small(1.0))
    assert newest(client, run, "surge/all/reach/b_peak") == pytest.approx(
        {0: 1.0, 1: math.nan, 2: 1.0}, nan_ok=True
    )
    assert len(client.search_runs(["1"])) == 2


def test_a_curve_that_grows_keeps_its_name_and_its_points(uri: str, client: MlflowClient) -> None:
    run = parent(client)
    publish("digits", small(1.0), uri)
    publish("digits", small(1.0, answer="New words."), uri)
    assert len(client.get_metric_history(run, CURVE)) == 2
    longer = small(1.0, curves={CURVE: ((2, 0.5), (4, 1.0), (8, 2.0))})
    publish("digits", longer, uri)
    check_whole(client, run, longer)
    assert set(newest(client, run, CURVE)) == {2, 4, 8}


def test_through_a_server_with_proxied_artifacts(shared_server: MlflowServer, surge: Study) -> None:
    client = MlflowClient(shared_server.uri)
    run = parent(client, "published")
    done = publish("published", surge.publication, shared_server.uri)

    assert client.get_run(run).info.artifact_uri.startswith("mlflow-artifacts:")
    check_whole(client, run, surge.publication)
    assert run_of(done) == run
    publish("published", small(2.0), shared_server.uri)
    check_whole(client, run, small(2.0))
    assert not publish("published", small(2.0), shared_server.uri).changed


def test_in_postgresql(postgres_uri: str, tmp_path: Path, surge: Study) -> None:
    client = MlflowClient(postgres_uri)
    client.create_experiment("digits", artifact_location=(tmp_path / "artifacts").as_uri())
    run = parent(client)
    for made in (small(2.0), surge.publication):
        publish("digits", made, postgres_uri)
        check_whole(client, run, made)
    assert not publish("digits", surge.publication, postgres_uri).changed


def test_in_postgresql_it_is_said_where_the_files_lie(
    postgres_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched, elsewhere = tmp_path / "launched", tmp_path / "elsewhere"
    launched.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(launched)
    client = MlflowClient(postgres_uri)
    client.create_experiment("digits")  # MLflow takes the working folder
    run = parent(client)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(TrackerError, match=f"no folder '{launched / 'mlruns'}' on this machine"):
        check_publishing("digits", postgres_uri)
    (launched / "mlruns").mkdir()
    for changed in (True, False):
        done = publish("digits", small(), postgres_uri)
        assert done.changed == changed
        assert Path(done.folder, "surge", "report.html").is_file()
        assert Path(done.folder).is_relative_to(launched)
    check_whole(client, run, small())
    assert list(elsewhere.iterdir()) == []


# ---- which run


def test_runs_of_others_get_a_run_of_its_own_that_is_no_trial(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str]
) -> None:
    for rate in (0.1, 0.2):
        foreign_run({"lr": rate, "batch_size": 8, "seed": 0}, {"eval/loss": [(1, 1.0), (2, rate)]})
    before = MlflowReader(uri).collect("foreign", ReadOptions())
    first = publish("foreign", small(), uri)
    second = publish("foreign", small(2.0), uri)
    after = MlflowReader(uri).collect("foreign", ReadOptions())

    assert (first.run, first.run_name) == (second.run, "surge-report")
    run = run_of(first)
    check_whole(client, run, small(2.0))
    found = client.get_run(run)
    assert (found.info.status, found.data.tags["surge.kind"]) == ("FINISHED", "report")
    assert list(after.runs["run"]) == list(before.runs["run"])
    assert after.problems == before.problems
    # A run of it that was deleted is made anew.
    client.delete_run(run)
    assert publish("foreign", small(2.0), uri).run != first.run


def test_two_sweeps_share_a_run_and_what_stood_on_the_first_is_withdrawn(
    uri: str, client: MlflowClient
) -> None:
    first = parent(client)
    client.set_tag(first, NOTE_TAG, "My own words.")
    publish("digits", small(), uri)
    second = parent(client, sweep="s2")
    done = publish("digits", small(), uri)

    run = run_of(done)
    assert run not in (first, second)
    check_whole(client, run, small())
    old = client.get_run(first)
    assert old.data.tags[NOTE_TAG].startswith(
        "Out of date: the result of this experiment is published on [surge-rep"
    )
    assert own_text(old.data.tags[NOTE_TAG]) == "My own words."
    assert not {TAG_FINGERPRINT, TAG_SCOPE} & set(old.data.tags)
    assert not [name for name in old.data.tags if name.startswith("surge.result.")]
    assert all(math.isnan(value) for value in old.data.metrics.values())
    assert files(client, first) == {}
    assert not publish("digits", small(), uri).changed
    # With one sweep left, the result moves to its parent.
    client.delete_run(first)
    assert run_of(publish("digits", small(), uri)) == second
    check_whole(client, second, small())
    assert client.get_run(run).data.tags[NOTE_TAG].startswith("Out of date")


def test_parts_of_an_experiment_are_published_beside_it(uri: str, client: MlflowClient) -> None:
    whole = parent(client)
    part = publish("digits", small(2.0, scope="lr > 1e-3"), uri)
    assert run_of(publish("digits", small(), uri)) == whole
    assert run_of(part) != whole
    assert not publish("digits", small(2.0, scope="lr > 1e-3"), uri).changed


# ---- the note


def test_what_a_user_wrote_is_kept(uri: str, client: MlflowClient) -> None:
    run = parent(client)
    client.set_tag(run, NOTE_TAG, "Mine, first.\n\n| a |\n|---|\n| 1 |")
    publish("digits", small(), uri)
    client.set_tag(run, NOTE_TAG, client.get_run(run).data.tags[NOTE_TAG] + "\nAnd later.")
    publish("digits", small(2.0), uri)

    note = client.get_run(run).data.tags[NOTE_TAG]
    assert note.startswith("Use it.\n\n")
    assert own_text(note) == "Mine, first.\n\n| a |\n|---|\n| 1 |\n\nAnd later."
    check_whole(client, run, small(2.0))

    long = "word " * 1200
    client.set_tag(run, NOTE_TAG, long)
    publish("digits", small(3.0), uri)
    assert files(client, run)["surge/earlier_description.md"].decode() == long.strip()
    assert "surge/earlier_description.md" in client.get_run(run).data.tags[NOTE_TAG]


def test_a_long_note_ends_with_a_paragraph_and_says_where_the_rest_is() -> None:
    table = "\n".join(["| Batch size | LR |", "|---|---|", *(f"| {size} | 0.1 |" for size in range(60))])
    details = "\n\n".join(f"### Loss {place}\n\nOptimal learning rates:\n\n{table}" for place in range(20))
    report = NoteLink("Full report", "#/experiments/1/runs/r/artifacts/surge/report.html")
    note = note_text(small(details=details), "r", report, [], "Mine." * 100)

    assert len(note) <= NOTE_LIMIT
    assert len(note) > NOTE_LIMIT / 2
    shown = note.partition("\n\n<!--")[0]
    blocks = shown.split("\n\n")
    assert blocks[-1] == (
        "*The note of a run ends here: the rest stands in"
        " [Full report](#/experiments/1/runs/r/artifacts/surge/report.html).*"
    )
    assert blocks[-2].replace("&ensp;", " ") == table, "a table is whole, or it is not there"
    assert not any(block.startswith("###") for block in blocks[-3:-1])
    assert own_text(note) == "Mine." * 100


def test_names_cannot_add_markup(hostile_publication: Publication) -> None:
    evil = hostile_publication
    note = note_text(evil, "r", NoteLink("Full report", "#/x"), [NoteLink("v](http://evil)", "#/y")])
    assert "<script" not in note
    assert "<img" not in note
    assert re.search(r"(?<!\\)\]\(http", note) is None
    assert "\n# heading" not in note


@pytest.fixture
def hostile_publication(surge: Study) -> Publication:
    evil = "x](http://evil) <script>alert(1)</script> <img src=x>\n# heading $a$"
    group = surge.fit.groups[0].model_copy(update={"group": {"opt": evil}})
    found = surge.fit.model_copy(update={"groups": [group, group], "project": evil})
    cells = pd.concat([surge.cells, surge.cells.assign(group=1)])
    return publication_of(found, cells, [], draw=True)


def test_hostile_names_are_published_as_names(
    uri: str, client: MlflowClient, hostile_publication: Publication
) -> None:
    run = parent(client)
    publish("digits", hostile_publication, uri)
    check_whole(client, run, hostile_publication)


def test_bounds_alone_are_an_honest_verdict(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    """Every optimum at the edge of the grid: no number is published that the data do not have."""
    bounds = study(Truth("sqrt", {"a": 0.01}), [1e-4, 2e-4, 4e-4, 8e-4], 3, tmp_path / "bounds").publication
    run = parent(client)
    publish("digits", bounds, uri)
    check_whole(client, run, bounds)

    found = client.get_run(run).data
    assert not [name for name in found.metrics if name.endswith(("/b_peak", "_by_batch_size", "/optimal_lr"))]
    assert found.tags["surge.result.all/verdict"] == "inconclusive"


# ---- faults


STAGES = ["write_artifacts", "new_points", "_save_views", "note_text", "_published"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_publication_cut_off_is_completed(
    uri: str, client: MlflowClient, database: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    run = parent(client)
    publish("digits", small(1.0), uri)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, stage, cut)
        with pytest.raises(KeyboardInterrupt):
            publish("digits", small(2.0), uri)
    if stage != "_published":
        assert TAG_FINGERPRINT not in client.get_run(run).data.tags, "half of it is not taken for whole"
    publish("digits", small(2.0), uri)

    check_whole(client, run, small(2.0))
    points = client.get_metric_history(run, "surge/all/reach/b_peak")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 2.0)], "nothing twice"


@pytest.mark.slow
def test_a_server_that_goes_away_is_a_sentence_and_the_rest_follows(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(mlflow_server.uri)
    run = parent(client)
    real = publishing.write_artifacts

    def with_the_server_dead(*arguments: Any) -> Any:
        mlflow_server.kill()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "write_artifacts", with_the_server_dead)
        patch.setattr(publishing, "_PATIENCE_S", 0.0)
        with pytest.raises(TrackerError, match="does not answer") as caught:
            publish("digits", small(), mlflow_server.uri)
    assert "again" in str(caught.value)

    mlflow_server.start()
    publish("digits", small(), mlflow_server.uri)
    check_whole(client, run, small())
    assert len(client.get_metric_history(run, "surge/all/reach/b_peak")) == 1


def test_a_run_whose_making_was_answered_to_nobody_is_found_again(
    uri: str, client: MlflowClient, foreign_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_run({"lr": 0.1}, {"eval/loss": [(1, 1.0)]})

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_write", cut)
        with pytest.raises(KeyboardInterrupt):
            publish("foreign", small(), uri)
    publish("foreign", small(), uri)
    assert len(client.search_runs(["1"], "tags.`surge.kind` = 'report'")) == 1


# ---- bad input


def test_an_unknown_experiment_is_a_sentence_and_is_not_made(uri: str, client: MlflowClient) -> None:
    parent(client)
    for call in (lambda: publish("digist", small(), uri), lambda: check_publishing("digist", uri)):
        with pytest.raises(SurgeError, match="nearest first: digits"):
            call()
    assert {one.name for one in client.search_experiments()} == {"Default", "digits"}
    client.delete_experiment("1")
    with pytest.raises(TrackerError, match="deleted"):
        publish("digits", small(), uri)


def test_checking_makes_no_store(tmp_path: Path) -> None:
    check_publishing("digits", f"sqlite:///{tmp_path / 'none.db'}")
    assert list(tmp_path.iterdir()) == []


def test_artifacts_in_a_folder_of_another_host_are_refused(tmp_path: Path) -> None:
    """MLflow's client would write into a folder of that name here, where nobody sees it."""
    with pytest.raises(TrackerError, match="--artifacts-destination"):
        check_artifact_place("http://host:5000", "/no/such/place/mlruns/1")
    check_artifact_place("http://host:5000", "mlflow-artifacts:/1")
    check_artifact_place("http://host:5000", f"{tmp_path}/mlruns/1")


def test_a_store_that_was_moved_writes_nothing_at_its_old_place(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    moved = Path(shutil.copy(empty_store, new / "mlflow.db"))
    client = MlflowClient(f"sqlite:///{moved}")
    client.create_experiment("digits", artifact_location=str(old / "mlruns" / "1"))
    run = parent(client)
    monkeypatch.chdir(new)
    with pytest.raises(TrackerError, match="was moved or copied") as caught:
        publish("digits", small(), f"sqlite:///{moved}")
    assert f"no folder '{old / 'mlruns'}'" in str(caught.value)
    with pytest.raises(TrackerError, match="was moved or copied"):
        check_publishing("digits", f"sqlite:///{moved}")
    assert list(old.iterdir()) == []
    assert TAG_SCOPE not in client.get_run(run).data.tags
    # The folder is there: the artifacts stayed where they were.
    (old / "mlruns").mkdir()
    publish("digits", small(), f"sqlite:///{moved}")
    check_whole(client, run, small())


def test_a_copy_of_a_store_leaves_the_files_of_the_original_alone(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    original = Path(shutil.copy(empty_store, old / "mlflow.db"))
    client = MlflowClient(f"sqlite:///{original}")
    client.create_experiment("digits", artifact_location=str(old / "mlruns" / "1"))
    run = parent(client)
    publish("digits", small(), f"sqlite:///{original}")
    before = files(client, run)
    copy = Path(shutil.copy(original, new / "mlflow.db"))
    for folder in (new, tmp_path):
        monkeypatch.chdir(folder)
        with pytest.raises(TrackerError, match="looks like a copy") as caught:
            publish("digits", small(2.0), f"sqlite:///{copy}")
        assert str(original) in str(caught.value)
    assert files(client, run) == before
    # Another store whose experiments are kept in the same folder is no copy: its runs have folders of their own.
    other = MlflowClient(f"sqlite:///{shutil.copy(empty_store, new / 'other.db')}")
    other.create_experiment("digits", artifact_location=str(old / "mlruns" / "1"))
    second = parent(other)
    publish("digits", small(2.0), f"sqlite:///{new / 'other.db'}")
    check_whole(other, second, small(2.0))
    assert files(client, run) == before


def test_a_role_that_may_only_read_is_told_so_and_changes_nothing(
    postgres: Postgres, postgres_uri: str, tmp_path: Path
) -> None:
    client = MlflowClient(postgres_uri)
    client.create_experiment("digits", artifact_location=(tmp_path / "artifacts").as_uri())
    run = parent(client)
    before = client.get_run(run).to_dictionary()
    database = postgres_uri.rpartition("/")[2]
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(
        host="127.0.0.1", port=postgres.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
    ) as connection:
        connection.execute("CREATE ROLE only_reads LOGIN PASSWORD 'reads'")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO only_reads")
    with pytest.raises(TrackerError, match="permission denied for table") as caught:
        publish("digits", small(), postgres.address(database, user="only_reads", password="reads"))
    assert "can be written" in str(caught.value)
    assert client.get_run(run).to_dictionary() == before
    assert not (tmp_path / "artifacts").exists()


def test_why_there_are_no_views_is_said(uri: str, client: MlflowClient) -> None:
    run = parent(client)
    named = small(runs=RunNames("no/such/loss", "lr", "batch_size"))
    done: Published = publish("digits", named, uri)
    assert "no/such/loss" in done.no_views
    assert done.views == ()
    check_whole(client, run, named)


def test_artifacts_that_cannot_be_written_are_a_sentence(
    uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    client.create_experiment("digits", artifact_location=(place / "artifacts").as_uri())
    run = parent(client)
    with pytest.raises(TrackerError, match="could not be written"):
        publish("digits", small(), uri)
    assert TAG_FINGERPRINT not in client.get_run(run).data.tags
    place.unlink()
    publish("digits", small(), uri)
    check_whole(client, run, small())
    shutil.rmtree(place)
