"""Where a browser finds the sweeps of a tracking server: experiments, parent runs with their result, saved views."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from surge_sweeps.trackers.mlflow.client import connect, quoted, store_errors
from surge_sweeps.trackers.mlflow.record import TAG_KIND
from surge_sweeps.trackers.mlflow.schema import READ_HINT
from surge_sweeps.trackers.mlflow.uri import display_uri

_VIEW_TAG = "mlflow.sharedViewState."
_NOTE = "mlflow.note.content"
_PAGE = 1000
#: Marks of GitHub's Markdown that only disturb in a terminal: emphasis, headings, quotes, code.
_MARKS = re.compile(r"\*\*|__|`|^[#>\s]+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_NOTE_LIMIT = 300


@dataclass(frozen=True)
class Link:
    """A place in the UI: what it is called, its address, and for a sweep the first line of its published result."""

    name: str
    url: str
    note: str = ""


@dataclass(frozen=True)
class ExperimentLinks:
    """One experiment: its runs, the parents of our sweeps in it, and its saved views."""

    runs: Link
    sweeps: list[Link] = field(default_factory=list)
    views: list[Link] = field(default_factory=list)


@dataclass(frozen=True)
class ServerLinks:
    """Everything worth opening: those experiments that hold sweeps or views, and how many others there are."""

    home: str
    experiments: list[ExperimentLinks]
    others: int


def find_links(url: str) -> ServerLinks:
    """Ask a running server what there is; two requests, and one more for each thousand experiments or sweeps.

    Raises:
        TrackerError: it does not answer.
    """
    client = connect(url)
    shown = display_uri(url).rstrip("/")
    with store_errors(url, "read", READ_HINT):
        experiments = _all_pages(lambda token: client.search_experiments(max_results=_PAGE, page_token=token))
        ids = [found.experiment_id for found in experiments]
        parents: defaultdict[str, list[Any]] = defaultdict(list)
        query = f"tags.`{TAG_KIND}` = {quoted('sweep')}"
        for start in range(0, len(ids), _PAGE):
            for run in _all_pages(
                lambda token, some=ids[start : start + _PAGE]: client.search_runs(
                    some, query, max_results=_PAGE, page_token=token, order_by=["attributes.start_time ASC"]
                )
            ):
                parents[run.info.experiment_id].append(run)
    found = [_experiment(shown, item, parents[item.experiment_id]) for item in experiments]
    kept = [item for item in found if item.sweeps or item.views]
    kept.sort(key=lambda item: item.runs.name)
    return ServerLinks(f"{shown}/#/experiments", kept, len(found) - len(kept))


def view_fragment(experiment_id: str, key: str) -> str:
    """The part of an address behind the server's own that opens a saved view.

    >>> view_fragment("3", "surge-1")
    '#/experiments/3/runs?viewStateShareKey=surge-1&compareRunsMode=CHART'
    """
    query = urlencode({"viewStateShareKey": key, "compareRunsMode": "CHART"})
    return f"#/experiments/{quote(experiment_id, safe='')}/runs?{query}"


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
    sweeps = [
        Link(
            _plain(run.info.run_name or run.info.run_id),
            f"{runs}/{quote(run.info.run_id, safe='')}",
            first_line(run.data.tags.get(_NOTE, "")),
        )
        for run in parents
    ]
    return ExperimentLinks(Link(_plain(experiment.name), runs), sweeps, _views(url, number, tags))


def _views(url: str, number: str, tags: Mapping[str, str]) -> list[Link]:
    found = [
        Link(_view_name(text, key), f"{url}/{view_fragment(number, key)}")
        for key, text in (
            (tag[len(_VIEW_TAG) :], text) for tag, text in tags.items() if tag.startswith(_VIEW_TAG)
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
