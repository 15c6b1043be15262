"""Saving the views of a sweep on its experiment, or bringing those that are there up to date."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.client import shorten, store_errors
from surge_sweeps.trackers.mlflow.record import TAG_KIND, check_names
from surge_sweeps.trackers.mlflow.uri import display_uri
from surge_sweeps.trackers.mlflow.views.layout import means_state, trials_state
from surge_sweeps.trackers.mlflow.views.measured import (
    PAGE_RUNS,
    Measured,
    ViewNames,
    group_keys,
    measure,
    whole_groups,
)
from surge_sweeps.trackers.mlflow.views.saved import (
    TAG_VIEW,
    SavedView,
    View,
    parse_view_tag,
    supports_views,
    tried_versions,
    view_fragment,
    view_tag,
)

_HINT = "Everything else is published; publish again for the views."
#: MLflow draws an infinite loss as 1.8e308, which leaves a chart of nothing else. The first part says to its page that
#: this is no name to search for, which it else takes a filter for whose names hold blanks.
_FINITE = "attributes.start_time > 0 AND metrics.`{loss}` < 1e308 AND metrics.`{loss}` > -1e308"
_LONGEST_LABEL = 60
_VERSION_TIMEOUT_S = 10


def write_views(client: Any, experiment_id: str, names: ViewNames) -> list[View]:
    """Save the views of an experiment's runs: the trials, best first; and, where it can be taken, the mean over seeds.

    A second call writes only what changed, under the same keys, and removes means that can no longer be taken.

    Args:
        client: an `MlflowClient`. experiment_id: where the views go. names: what the runs call what is shown.

    Returns:
        The views, in the order above. There is one alone where the learning rate or the batch size is no single
        parameter, no run ran to its end, or no group of runs fits on one of MLflow's pages.

    Raises:
        TrackerError: the server's MLflow is not one whose views were tried, no run holds the loss, a name that MLflow
            would refuse, or the store cannot be read or written. Nothing else on the server depends on a view.
    """
    params = [key for key in (names.lr, names.batch_size, names.seed, *names.groups) if key is not None]
    check_names([names.loss], "metric")
    check_names(params, "parameter")
    version = ui_version(client)
    if not supports_views(version):
        raise TrackerError(
            f"chart views are not saved: the server runs MLflow {version}, and they are known to open in "
            f"{tried_versions()}.",
            "Everything else is published; a newer surge-sweeps, or one of those servers, saves them.",
        )
    with store_errors(client.tracking_uri, "read", _HINT):
        found = measure(client, experiment_id, names)
        tags = client.get_experiment(experiment_id).tags
    if found.count == 0:
        raise TrackerError(
            f"chart views are not saved: none of the runs holds the metric {names.loss!r}.",
            "See that its name and the sweep are the right ones.",
        )
    views = []
    for view, state in _states(experiment_id, names, found):
        before = parse_view_tag(tags.get(TAG_VIEW + view.key, ""))
        if before is None or (before.name, before.state) != (view.name, state):
            now = int(time.time() * 1000)
            saved = SavedView(view.name, state, before.created_ms if before else now, now)
            with store_errors(client.tracking_uri, "written", _HINT):
                client.set_experiment_tag(experiment_id, TAG_VIEW + view.key, view_tag(saved))
        views.append(view)
    # Means that can no longer be taken would be of runs that no longer stand for the grid.
    means = _view(experiment_id, names, "means", "").key
    if TAG_VIEW + means in tags and means not in {view.key for view in views}:
        with store_errors(client.tracking_uri, "written", _HINT):
            client.delete_experiment_tag(experiment_id, TAG_VIEW + means)
    return views


def ui_version(client: Any) -> str:
    """The MLflow version of the pages that show the client's store: the server's, or the one that is installed here.

    Raises:
        TrackerError: the server does not say.
    """
    uri = client.tracking_uri
    if urlsplit(uri).scheme not in ("http", "https"):
        return str(require("mlflow", "mlflow").__version__)
    # Through MLflow's own function, since it knows the user's credentials.
    request = require("mlflow.utils.rest_utils", "mlflow").http_request
    credentials = require("mlflow.utils.credentials", "mlflow").get_default_host_creds(uri)
    with store_errors(uri, "asked for its version", _HINT):
        answer = request(credentials, "/version", "GET", max_retries=1, timeout=_VERSION_TIMEOUT_S)
    if answer.status_code != 200:
        raise TrackerError(
            f"chart views are not saved: {display_uri(uri)} does not say which MLflow it runs.", _HINT
        )
    return shorten(str(answer.text).strip(), 40)


def _states(
    experiment_id: str, names: ViewNames, found: Measured
) -> Iterator[tuple[View, dict[str, object]]]:
    # A sweep's parent and a report are no trials.
    ours = f"tags.`{TAG_KIND}` = 'trial'" if found.only_trials else ""
    query = " AND ".join(part for part in (_FINITE.format(loss=names.loss), ours, names.sweep_filter) if part)
    yield (
        _view(experiment_id, names, "trials", "trials, best first"),
        trials_state(names, query, found),
    )
    if not group_keys(names) or not found.ended:
        return
    query = " AND ".join(
        part for part in ("attributes.status = 'FINISHED'", ours, names.sweep_filter) if part
    )
    is_paged = len(found.ended) > PAGE_RUNS
    left_out = "part of the grid" if is_paged else "none diverged" if found.has_diverged else ""
    if left_out:
        chosen = whole_groups(found.ended)
        if not chosen:
            return
        listed = ", ".join(f"'{run}'" for run in chosen)
        query = f"attributes.run_id IN ({listed})"
    yield (
        _view(experiment_id, names, "means", "mean over seeds"),
        means_state(names, query, found, left_out),
    )


def _view(experiment_id: str, names: ViewNames, key: str, title: str) -> View:
    label = shorten(" ".join(names.label.split()), _LONGEST_LABEL)
    name = f"surge {label}: {title}" if label else f"surge: {title}"
    if names.sweep_filter:
        # Of each part of an experiment that was published.
        key += "-" + hashlib.sha256(names.sweep_filter.encode("utf-8")).hexdigest()[:8]
    key = f"surge-{key}"
    return View(name, key, view_fragment(experiment_id, key))
