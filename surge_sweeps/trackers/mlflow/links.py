"""Where a browser finds the sweeps of a tracking server: experiments, parent runs with their result, saved views."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from surge_sweeps.trackers.mlflow.client import connect, quoted, store_errors
from surge_sweeps.trackers.mlflow.note import FOLDER, NOTE_TAG, run_fragment
from surge_sweeps.trackers.mlflow.publish import TAG_FINGERPRINT
from surge_sweeps.trackers.mlflow.record import NOT_TRIALS, TAG_KIND
from surge_sweeps.trackers.mlflow.schema import READ_HINT
from surge_sweeps.trackers.mlflow.uri import display_uri
from surge_sweeps.trackers.mlflow.views.saved import TAG_VIEW, view_fragment

_PAGE = 1000
#: Marks of GitHub's Markdown that only disturb in a terminal: emphasis, headings, quotes, code.
_MARKS = re.compile(r"\*\*|__|`|^[#>\s]+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_NOTE_LIMIT = 300


@dataclass(frozen=True)
class Link:
    """A place in the UI: what it is called, and its address."""

    name: str
    url: str


@dataclass(frozen=True)
class SweepLink(Link):
    """The run that stands for a sweep, or for a report of several.

    Attributes:
        note: the first line of its description, which is the recommendation where a result is published.
        report_url: of the report published on it; empty without one.
    """

    note: str = ""
    report_url: str = ""


@dataclass(frozen=True)
class ExperimentLinks:
    """One experiment: its runs, the runs that stand for our sweeps in it, and its saved views."""

    runs: Link
    sweeps: list[SweepLink] = field(default_factory=list)
    views: list[Link] = field(default_factory=list)


@dataclass(frozen=True)
class ServerLinks:
    """Everything worth opening: those experiments that hold sweeps or views, and how many others there are."""

    home: str
    experiments: list[ExperimentLinks]
    others: int


def find_links(url: str) -> ServerLinks:
    """Ask a running server what there is; three requests, and more for each thousand experiments or sweeps.

    Raises:
        TrackerError: it does not answer.
    """
    client = connect(url)
    shown = display_uri(url).rstrip("/")
    with store_errors(url, "read", READ_HINT):
        experiments = _all_pages(lambda token: client.search_experiments(max_results=_PAGE, page_token=token))
        ids = [found.experiment_id for found in experiments]
        parents: defaultdict[str, list[Any]] = defaultdict(list)
        for kind in NOT_TRIALS:
            query = f"tags.`{TAG_KIND}` = {quoted(kind)}"
            for start in range(0, len(ids), _PAGE):
                for run in _all_pages(
                    lambda token, some=ids[start : start + _PAGE], query=query: client.search_runs(
                        some,
                        query,
                        max_results=_PAGE,
                        page_token=token,
                        order_by=["attributes.start_time ASC"],
                    )
                ):
                    parents[run.info.experiment_id].append(run)
    found = [_experiment(shown, item, parents[item.experiment_id]) for item in experiments]
    kept = [item for item in found if item.sweeps or item.views]
    kept.sort(key=lambda item: item.runs.name)
    return ServerLinks(f"{shown}/#/experiments", kept, len(found) - len(kept))


def first_line(note: str) -> str:
    """The first line of a note in Markdown, as plain text of at most 300 characters.

    >>> first_line("## **Use LR 0.1** at `batch` 64\\n\\n| a |")
    'Use LR 0.1 at batch 64'
    """
    line = next((line for line in note.splitlines() if line.strip()), "")
    text = _MARKS.sub("", _LINK.sub(r"\1", line))
    plain = "".join(letter for letter in text if letter.isprintable()).strip()
    return plain if len(plain) <= _NOTE_LIMIT else f"{plain[: _NOTE_LIMIT - 3]}..."


def _experiment(url: str, experiment: Any, parents: list[Any]) -> ExperimentLinks:
    number = str(experiment.experiment_id)
    tags = dict(experiment.tags or {})
    runs = f"{url}/#/experiments/{quote(number, safe='')}/runs"
    sweeps = [_sweep(url, number, run) for run in parents]
    return ExperimentLinks(Link(_plain(experiment.name), runs), sweeps, _views(url, number, tags))


def _sweep(url: str, number: str, run: Any) -> SweepLink:
    info, tags = run.info, run.data.tags
    report = f"{url}/{run_fragment(number, info.run_id, f'{FOLDER}/report.html')}"
    return SweepLink(
        _plain(info.run_name or info.run_id),
        f"{url}/{run_fragment(number, info.run_id)}",
        first_line(tags.get(NOTE_TAG, "")),
        report if TAG_FINGERPRINT in tags else "",
    )


def _views(url: str, number: str, tags: Mapping[str, str]) -> list[Link]:
    found = [
        Link(_view_name(text, key), f"{url}/{view_fragment(number, key)}")
        for key, text in (
            (tag[len(TAG_VIEW) :], text) for tag, text in tags.items() if tag.startswith(TAG_VIEW)
        )
    ]
    return sorted(found, key=lambda link: link.name)


def _view_name(text: str, key: str) -> str:
    """The name in a view's JSON; one of an unnamed or unknown form is called by its key."""
    try:
        name = json.loads(text)["name"]
    except (ValueError, KeyError, TypeError):
        return _plain(key)
    return _plain(str(name)) or _plain(key)


def _plain(text: str) -> str:
    # Names come from whoever may write to the server: nothing in them may command the terminal.
    return "".join(letter for letter in text if letter.isprintable())


def _all_pages(page: Any) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        part = page(token)
        found += part
        token = part.token
        if not token:
            return found
