"""Publishing a result in MLflow: on the parent run of the sweep, else on a run of its own of kind `report`.

The run is found again and updated from then on. A publication counts as whole when its fingerprint stands among the
run's tags, which is written last, and removed before anything is changed: one that was cut off is done again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.client import connect, find_experiment, search_all_runs, store_errors
from surge_sweeps.trackers.mlflow.experiment import now_ms
from surge_sweeps.trackers.mlflow.file import FileGuard, is_missing
from surge_sweeps.trackers.mlflow.note import (
    FOLDER,
    NOTE_TAG,
    OWN_LIMIT,
    NoteLink,
    note_text,
    own_text,
    run_fragment,
    withdrawn_note,
)
from surge_sweeps.trackers.mlflow.patience import keep_trying, may_pass
from surge_sweeps.trackers.mlflow.published_files import (
    TABLES_TAG,
    artifacts_of,
    check_artifact_place,
    folder_here,
    tables_tag,
    write_artifacts,
)
from surge_sweeps.trackers.mlflow.published_numbers import RESULT_TAG, Moment, new_points, result_tags
from surge_sweeps.trackers.mlflow.record import TAG_KIND, check_names
from surge_sweeps.trackers.mlflow.uri import resolve_uri, sqlite_path
from surge_sweeps.trackers.mlflow.views import ViewNames, write_views
from surge_sweeps.trackers.publication import Publication

RUN_NAME = "surge-report"

TAG_FINGERPRINT = "surge.published.fingerprint"
#: "FINGERPRINT NUMBER MS" of the publication that was begun last.
TAG_STATE = "surge.published.state"
TAG_SCOPE = "surge.published.scope"
TAG_VIEWS = "surge.published.views"

_HINT = (
    "See that the store and its artifacts can be written, then publish again: what arrived is kept, and the rest"
    " follows."
)
_WHOLE = "all"
_OWN_TEXT = f"{FOLDER}/earlier_description.md"
#: Seconds that a store may be away in the middle.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Published:
    """What became of a publication.

    Attributes:
        run_name: of the run that holds it. run: the part of its address behind the server's own; report: that of the
            report. views: the saved views that show the runs.
        changed: whether it was written; False: it held all of this already.
        left: files of an earlier publication that the artifact store did not remove.
        no_views: why no views were saved; empty where there are some, or where the runs are elsewhere.
        folder: of this machine that the files lie in, where the store is a database that others may reach from
            elsewhere; else empty.
    """

    run_name: str
    run: str
    report: str
    views: tuple[NoteLink, ...]
    changed: bool
    left: tuple[str, ...] = ()
    no_views: str = ""
    folder: str = ""


class _Home(NamedTuple):
    """The experiment's id and place of artifacts, the run of the publication if there is one, and its earlier runs."""

    experiment_id: str
    location: str
    run: Any
    earlier: list[Any]


def check_publishing(experiment: str, uri: str | None = None) -> None:
    """See that an experiment can be published in, before anything is read; writes nothing.

    Raises:
        MissingExtraError: mlflow or matplotlib is not installed.
        TrackerError: the store cannot be opened, or its artifacts lie on another machine.
        UnknownNameError: no such experiment.
    """
    uri = resolve_uri(uri)
    require("mlflow", "mlflow")
    require("matplotlib", "mlflow")
    path = sqlite_path(uri)
    if path is not None and is_missing(path):
        return  # reading says what is wrong, and connecting would make the store
    client = connect(uri)
    with store_errors(uri, "opened", _HINT):
        found = find_experiment(client, experiment)
        check_artifact_place(uri, found.artifact_location)


def publish(experiment: str, publication: Publication, uri: str | None = None) -> Published:
    """Publish a result in an experiment that exists, or update what is there; nothing is written when nothing changed.

    Args:
        experiment: its name. publication: what; with a scope, it is of a part of the experiment's runs and gets a run
            of its own. uri: the store, as everywhere.

    Raises:
        MissingExtraError: mlflow is not installed.
        UnknownNameError: no such experiment.
        TrackerError: the store cannot be written or went away; publishing again completes what was begun.
    """
    uri = resolve_uri(uri)
    client = connect(uri)
    check_names([*publication.scalars, *publication.curves], "metric")

    def attempt() -> Published:
        with store_errors(uri, "written", _HINT):
            return _publish(client, experiment, publication, uri)

    # What was done stays, so that a second attempt only goes on.
    return keep_trying(uri, attempt, _PATIENCE_S)


def _publish(client: Any, experiment: str, publication: Publication, uri: str) -> Published:
    mark, scope = publication.fingerprint(), _scope_mark(publication.scope)
    home = _find(client, experiment, scope)
    FileGuard(uri).check_holds(home.experiment_id)
    run = home.run
    if run is not None and run.data.tags.get(TAG_FINGERPRINT) == mark and not home.earlier:
        held = _published(run, False)
        # They may have been deleted, or show part of the runs while all are counted in the result.
        views, no_views = _save_views(client, home.experiment_id, publication)
        if views == held.views:
            folder = folder_here(uri, run.info.artifact_uri)
            return replace(held, no_views=no_views, folder=folder)
        # The note links them.
    if run is None:
        check_artifact_place(uri, home.location)
        tags = {TAG_KIND: "report", TAG_SCOPE: scope}
        run = client.create_run(home.experiment_id, tags=tags, run_name=RUN_NAME)
    check_artifact_place(uri, run.info.artifact_uri.rpartition(f"/{run.info.run_id}/")[0])
    left, no_views = _write(client, run, publication, scope, mark)
    for one in home.earlier:
        _withdraw(client, one, _link(run))
    done = _published(client.get_run(run.info.run_id), True)
    return replace(done, left=left, no_views=no_views, folder=folder_here(uri, run.info.artifact_uri))


def _find(client: Any, experiment: str, scope: str) -> _Home:
    """Where a publication goes: one sweep's parent run, where there is just one; else the run of an earlier one."""
    home = find_experiment(client, experiment)
    number = str(home.experiment_id)
    holders = list(search_all_runs(client, [number], f"tags.`{TAG_SCOPE}` = '{scope}'"))
    reports = [run for run in holders if run.data.tags.get(TAG_KIND) == "report"]
    found = reports[0] if reports else None
    if scope == _WHOLE:
        sweeps = list(search_all_runs(client, [number], f"tags.`{TAG_KIND}` = 'sweep'"))
        found = sweeps[0] if len(sweeps) == 1 else found
    kept = None if found is None else found.info.run_id
    return _Home(number, home.artifact_location, found, [run for run in holders if run.info.run_id != kept])


def _write(
    client: Any, run: Any, publication: Publication, scope: str, mark: str
) -> tuple[tuple[str, ...], str]:
    """Everything that a publication is, its fingerprint last; returns what `Published` calls `left` and `no_views`."""
    run_id, tags = run.info.run_id, dict(run.data.tags)
    now = _moment(tags.get(TAG_STATE, ""), mark)
    if TAG_FINGERPRINT in tags:
        client.delete_tag(run_id, TAG_FINGERPRINT)
    _set_tags(client, run_id, {TAG_STATE: f"{mark} {now.number} {now.stamp_ms}", TAG_SCOPE: scope})
    artifacts = artifacts_of(publication)
    own = own_text(tags.get(NOTE_TAG, ""))
    if len(own) > OWN_LIMIT:
        artifacts[_OWN_TEXT] = own.encode("utf-8")
        kept = run_fragment(run.info.experiment_id, run_id, _OWN_TEXT)
        own = f"[The description that stood here before, in full]({kept})"
    left = write_artifacts(client, run, artifacts)
    points = new_points(client, run, publication.scalars, publication.curves, now)
    client.log_batch(run_id, metrics=points, synchronous=True)
    views, no_views = _save_views(client, run.info.experiment_id, publication)
    results = result_tags(publication.scalars)
    for name in [name for name in tags if name.startswith(RESULT_TAG) and name not in results]:
        client.delete_tag(run_id, name)
    note = note_text(publication, run_id, _report_link(run), views, own)
    shown = {NOTE_TAG: note, TABLES_TAG: tables_tag(tags.get(TABLES_TAG, ""), artifacts)}
    if views:
        shown[TAG_VIEWS] = json.dumps([tuple(view) for view in views])
    elif TAG_VIEWS in tags:
        client.delete_tag(run_id, TAG_VIEWS)
    _set_tags(client, run_id, results | shown)
    if tags.get(TAG_KIND) == "report":
        client.set_terminated(run_id, "FINISHED")
    _set_tags(client, run_id, {TAG_FINGERPRINT: mark})
    return left, no_views


def _withdraw(client: Any, run: Any, where: NoteLink) -> None:
    """Take a publication off a run whose place another one took, and say so there."""
    run_id, tags = run.info.run_id, dict(run.data.tags)
    note = withdrawn_note(where, own_text(tags.get(NOTE_TAG, "")))
    _set_tags(client, run_id, {NOTE_TAG: note, TABLES_TAG: tables_tag(tags.get(TABLES_TAG, ""), {})})
    points = new_points(client, run, {}, {}, _moment(tags.get(TAG_STATE, ""), ""))
    client.log_batch(run_id, metrics=points, synchronous=True)
    write_artifacts(client, run, {})
    # The scope last: by it the run is found again where this is cut off.
    ours = [name for name in (TAG_FINGERPRINT, TAG_VIEWS, TAG_SCOPE) if name in tags]
    for name in [*(name for name in tags if name.startswith(RESULT_TAG)), *ours]:
        client.delete_tag(run_id, name)


def _save_views(
    client: Any, experiment_id: str, publication: Publication
) -> tuple[tuple[NoteLink, ...], str]:
    """The saved views of the runs, or why there are none: they are an addition, which not every server takes."""
    names = publication.runs
    if names is None:
        return (), ""
    asked = ViewNames(names.loss, names.lr, names.batch_size, names.seed, names.groups)
    try:
        views = write_views(client, experiment_id, asked)
    except TrackerError as error:
        if may_pass(error):
            raise
        return (), str(error)
    return tuple(NoteLink(view.name, view.url_fragment) for view in views), ""


def _moment(state: str, mark: str) -> Moment:
    """This publication's number and time; those of one that was cut off, where it is the same."""
    words = state.split()
    if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
        return Moment(0, now_ms())
    number, stamp_ms = int(words[1]), int(words[2])
    return Moment(number, stamp_ms) if words[0] == mark else Moment(number + 1, max(now_ms(), stamp_ms + 1))


def _set_tags(client: Any, run_id: str, tags: dict[str, str]) -> None:
    tag = require("mlflow.entities", "mlflow").RunTag
    client.log_batch(run_id, tags=[tag(*item) for item in tags.items()], synchronous=True)


def _scope_mark(scope: str) -> str:
    return hashlib.sha256(scope.encode("utf-8", "surrogatepass")).hexdigest()[:12] if scope else _WHOLE


def _link(run: Any) -> NoteLink:
    return NoteLink(run.info.run_name or RUN_NAME, run_fragment(run.info.experiment_id, run.info.run_id))


def _report_link(run: Any) -> NoteLink:
    fragment = run_fragment(run.info.experiment_id, run.info.run_id, f"{FOLDER}/report.html")
    return NoteLink("Full report", fragment)


def _views_of(tags: dict[str, str]) -> tuple[NoteLink, ...]:
    try:
        found = json.loads(tags.get(TAG_VIEWS, "[]"))
        return tuple(NoteLink(str(name), str(fragment)) for name, fragment in found)
    except (ValueError, TypeError):
        return ()


def _published(run: Any, changed: bool) -> Published:
    name, fragment = _link(run)
    return Published(name, fragment, _report_link(run).fragment, _views_of(run.data.tags), changed)
