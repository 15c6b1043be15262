"""Publishing a result on W&B: one run of job type `surge-report` for each project, sweep or selection of runs.

The run is made once and updated from then on. A publication counts as whole when its fingerprint stands in a run that
finished, and finishing is what W&B's client does last, after the uploads. One that was cut off is therefore done again,
and what had arrived is not stored twice: see `report_run`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any

import tenacity

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.publication import Publication
from surge_sweeps.trackers.wandb.client import WandbProject, connect, read_again, wandb_errors, with_entity
from surge_sweeps.trackers.wandb.record import JOB_TYPE_REPORT
from surge_sweeps.trackers.wandb.report_run import CHART, CHART_TABLE, FINGERPRINT, SCATTER, write_run

#: How often a run that was deleted may be made anew: W&B never gives the id of a deleted run again.
_MOST_IDS = 20
#: Seconds for the server to show a run as it was sent.
_SHOW_SECONDS = 20
_CONFLICT = re.compile(r"\b409\b|previously created and deleted", re.IGNORECASE)


@dataclass(frozen=True)
class Published:
    """What became of a publication.

    Attributes:
        url: address of the run. changed: whether it was written; False: it held all of this already.
        page_url, page_changed: the same of the W&B report, None and False where none was asked for.
    """

    url: str
    changed: bool
    page_url: str | None = None
    page_changed: bool = False


def publish(project: WandbProject, publication: Publication, *, with_page: bool = False) -> Published:
    """Publish a result in a project that exists, or update what is there; nothing is written when nothing changed.

    Args:
        project: where; with a sweep, the publication is that sweep's. publication: what; with a scope, it is of that
            part of the project's runs. with_page: also write a W&B report, see `page`.

    Raises:
        MissingExtraError: wandb, or wandb-workspaces for a page, is not installed.
        TrackerError: no key, a project that is unknown or cannot be written, the server away, or it did not keep all.
    """
    if with_page:
        require("wandb_workspaces.reports.v2", "wandb")
    api = connect()
    project = with_entity(api, project)
    mark = publication.fingerprint()
    name = report_name(project.sweep, publication.scope)
    taken = _runs_of(api, project, name)
    found: Any = next((one for one in reversed(taken.values()) if _is_ours(one)), None)
    changed = found is None or not _is_whole(found, mark)
    if changed:
        free = [one for one in _ids(name) if one not in taken]
        run_id = str(found.id) if found is not None else _new_run(api, project, free)
        write_run(project, run_id, name, publication, has_chart=_has_chart(found))
        found = _confirmed(api, project, run_id, mark)
    done = Published(str(found.url), changed)
    if not with_page:
        return done
    from surge_sweeps.trackers.wandb.page import write_page

    page_url, page_changed = write_page(api, project, name, publication, found, (SCATTER, CHART_TABLE))
    return replace(done, page_url=page_url, page_changed=page_changed)


def report_name(sweep: str | None, scope: str) -> str:
    """Id of the run and name of the artifact of a publication; a scope is told apart by six digits of its hash.

    >>> report_name(None, ""), report_name("ab12cd34", ""), report_name(None, "lr > 1e-3")
    ('surge-report', 'surge-report-ab12cd34', 'surge-report-58632c')
    """
    mark = hashlib.sha256(scope.encode("utf-8", "surrogatepass")).hexdigest()[:6] if scope else ""
    return "-".join(part for part in (JOB_TYPE_REPORT, sweep or "", mark) if part)


def _ids(name: str) -> list[str]:
    return [name, *(f"{name}_{number}" for number in range(2, _MOST_IDS + 1))]


def _runs_of(api: Any, project: WandbProject, name: str) -> dict[str, Any]:
    """The runs that bear one of a publication's ids, in the order of the ids."""
    ids = _ids(name)

    def read() -> dict[str, Any]:
        api.flush()
        return {run.id: run for run in api.runs(project.path, filters={"name": {"$in": ids}}, lazy=False)}

    try:
        found = read_again("read", read)
    except ValueError as error:
        raise TrackerError(
            f"W&B has no project {project.path!r} that your key may read.",
            "Check the name, or make the project on W&B first.",
        ) from error
    return {one: found[one] for one in ids if one in found}


def _is_ours(run: Any) -> bool:
    """Whether a run is a publication, and not one of the user's own that bears the same id.

    One that was cut off at once has no job type yet, and no history.
    """
    return bool(run.job_type == JOB_TYPE_REPORT or (not run.job_type and run.lastHistoryStep < 0))


def _is_whole(run: Any, mark: str) -> bool:
    return bool(run.state == "finished" and run.summary.get(FINGERPRINT) == mark)


def _has_chart(run: Any) -> bool:
    """Whether a run knows of its chart already; None: there is no run."""
    return run is not None and CHART in run.rawconfig.get("_wandb", {}).get("visualize", {})


def _new_run(api: Any, project: WandbProject, ids: list[str]) -> str:
    """Make a run under the first id that W&B gives, and return the id.

    `wandb.init` would make it too, but asks for the id of a deleted run again and again for a minute and a half.
    """
    for run_id in ids:
        try:
            with wandb_errors("written"):
                api.create_run(run_id=run_id, project=project.project, entity=project.entity)
        except TrackerError as error:
            if _CONFLICT.search(error.what) is None:
                raise
        else:
            return run_id
    raise TrackerError(
        f"W&B gives none of the {_MOST_IDS} ids for this report in {project.path!r}: its run was deleted too often.",
        "Publish to another project.",
    )


def _confirmed(api: Any, project: WandbProject, run_id: str, mark: str) -> Any:
    """The run as the server shows it, once it shows all; it may take W&B some seconds."""

    def shown() -> Any:
        api.flush()
        return api.run(f"{project.path}/{run_id}")

    try:
        return tenacity.Retrying(
            # ValueError: W&B does not show the run at all yet.
            retry=tenacity.retry_if_result(lambda run: not _is_whole(run, mark))
            | tenacity.retry_if_exception_type(ValueError),
            wait=tenacity.wait_exponential(0.2, max=5),
            stop=tenacity.stop_after_delay(_SHOW_SECONDS),
        )(read_again, "read", shown)
    except tenacity.RetryError as error:
        raise TrackerError(
            f"the run {run_id!r} in {project.path!r} does not hold all that was published.",
            "Publish again: what arrived is kept.",
        ) from error
