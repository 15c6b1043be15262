"""The W&B report of a publication: the recommendation on top, the optima, then live panels of the runs.

It is found again by a mark in its description, and rewritten when what it shows has changed; comments stay.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from surge_sweeps.extras import require
from surge_sweeps.trackers.publication import Publication, RunNames
from surge_sweeps.trackers.wandb.client import WandbProject, connect, read_again, wandb_errors
from surge_sweeps.trackers.wandb.record import JOB_TYPE_REPORT
from surge_sweeps.trackers.wandb.session import quiet

#: Goes up whenever this module lays the page out differently, so that pages of earlier versions are rewritten.
LAYOUT = 1

#: W&B allows 128 characters.
_LONGEST_TITLE = 100

#: What stands under the title; the mark by which the page is found again follows it.
_NOTE = "Written by surge-report, which replaces it when it publishes again."


def write_page(
    api: Any, project: WandbProject, name: str, publication: Publication, run: Any, chart: tuple[str, str]
) -> tuple[str, bool]:
    """Write the page of a publication, or bring the one that is there up to date.

    Args:
        api: W&B's public API. project: with its entity. name: of the publication, by which its page is found again.
        publication: what is shown. run: where it was published.
        chart: name of W&B's chart, and key of its table in the run's summary.

    Returns:
        The page's address, and whether it was written.

    Raises:
        MissingExtraError: wandb-workspaces is not installed.
        TrackerError: the project cannot be read or written.
    """
    reports = require("wandb_workspaces.reports.v2", "wandb")
    mark = _fingerprint(publication)
    with quiet():
        pages = _pages(api, project, name)
        if pages and pages[0].description.endswith(f"{mark}."):
            return _address(pages[0].url), False
        with wandb_errors("written"):
            if pages:
                # Loaded and not made anew: the comments on it are part of it.
                page = reports.Report.from_url(pages[0].url)
            else:
                page = reports.Report(project=project.project, entity=project.entity)
            page.title = page_title(publication.title)
            page.description = f"{_NOTE} Publication {name}, content {mark}."
            page.width = "fluid"
            page.blocks = _blocks(reports, project, publication, run, chart)
            page.save()
        if not pages:
            page.id = _without_doubles(reports, project, name, page.id)
    return _address(page.url), True


def _without_doubles(reports: Any, project: WandbProject, name: str, page_id: str) -> str:
    """The id of the page that was just made, and of which there is one alone then.

    Where the answer to the first save is lost, W&B's client saves again, and that makes two.
    """
    # A listing is kept by the API object that made it.
    pages = _pages(connect(), project, name)
    with wandb_errors("written"):
        for double in pages[1:]:
            reports.Report.from_url(double.url).delete()
    return str(pages[0].id) if pages else page_id


def _address(url: str) -> str:
    # As W&B's own pages link to each other: without the padding of the id.
    return url.rstrip("=")


def page_title(title: str) -> str:
    """A title of plain words: it becomes a part of the page's address, and names from elsewhere are part of it.

    >>> page_title("team/<b>digits</b>: optimal learning rate")
    'team b digits b optimal learning rate'
    """
    return " ".join(re.findall(r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*", title))[:_LONGEST_TITLE].strip(" -")


def _fingerprint(publication: Publication) -> str:
    shown = json.dumps([LAYOUT, publication.fingerprint()])
    return hashlib.sha256(shown.encode("utf-8")).hexdigest()[:12]


def _pages(api: Any, project: WandbProject, name: str) -> list[Any]:
    """The pages that bear the mark of a publication, the oldest first: later ones are a user's copies."""
    mark = re.compile(rf"\bPublication {re.escape(name)}, content [0-9a-f]+\.$")

    def read() -> list[Any]:
        return [page for page in api.reports(project.path) if mark.search(page.description or "")]

    return sorted(read_again("read", read), key=lambda page: str(page.created_at))


def _blocks(
    reports: Any, project: WandbProject, publication: Publication, run: Any, chart: tuple[str, str]
) -> list[Any]:
    blocks = [
        reports.MarkdownBlock(text=publication.answer),
        reports.P(
            ["Everything else is in the files of ", reports.Link(text="this run", url=str(run.url)), "."]
        ),
        reports.H2(text="Optimal learning rates"),
        reports.MarkdownBlock(text=publication.details),
    ]
    published = reports.Runset(
        entity=project.entity,
        project=project.project,
        name="Published",
        filters=f"Metric('ID') == {str(run.id)!r}",
    )
    x, y = publication.chart.columns[:2]
    optimum = reports.CustomChart(
        query={"summaryTable": {"tableKey": chart[1]}},
        chart_name=chart[0],
        chart_fields={"x": x, "y": y},
        chart_strings={"title": "Optimal learning rate against batch size"},
        layout=reports.Layout(w=24, h=10),
    )
    blocks.append(reports.PanelGrid(runsets=[published], panels=[optimum]))
    if publication.runs is not None:
        filters = f"Metric('JobType') != {JOB_TYPE_REPORT!r}"
        if project.sweep:
            filters += f" and Metric('Sweep') == {project.sweep!r}"
        runs = reports.Runset(entity=project.entity, project=project.project, name="Runs", filters=filters)
        blocks.append(reports.H2(text="The runs, live"))
        blocks.append(reports.PanelGrid(runsets=[runs], panels=_panels(reports, publication.runs)))
    return blocks


def _panels(reports: Any, names: RunNames) -> list[Any]:
    """Loss curves by batch size, and the last loss against the learning rate."""
    by_size = {} if names.batch_size is None else {"groupby": reports.Config(names.batch_size)}
    curves = reports.LinePlot(
        title="Loss by batch size" if by_size else "Loss",
        x=names.examples or "Step",
        y=[names.loss],
        log_x=True,
        log_y=True,
        layout=reports.Layout(w=12, h=10),
        **by_size,
    )
    if names.lr is None:
        return [curves]
    depth = {} if names.batch_size is None else {"z": reports.Config(names.batch_size), "log_z": True}
    ends = reports.ScatterPlot(
        title="Last loss against learning rate",
        x=reports.Config(names.lr),
        y=reports.SummaryMetric(names.loss),
        log_x=True,
        layout=reports.Layout(x=12, w=12, h=10),
        **depth,
    )
    return [curves, ends]
