"""Where a browser finds the sweeps of a tracking server: experiments, parent runs with their result, saved views."""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from surge_sweeps.trackers.mlflow.client import (
    connect,
    quoted,
    search_all_experiments,
    search_all_runs,
    store_errors,
)
from surge_sweeps.trackers.mlflow.note import AS_TRAINING, FOLDER, NOTE_TAG, run_fragment
from surge_sweeps.trackers.mlflow.publish import TAG_FINGERPRINT, TAG_STATE
from surge_sweeps.trackers.mlflow.record import NOT_TRIALS, TAG_KIND
from surge_sweeps.trackers.mlflow.schema import READ_HINT
from surge_sweeps.trackers.mlflow.uri import display_uri
from surge_sweeps.trackers.mlflow.views.saved import TAG_VIEW, view_fragment

#: Asked about at once.
_MOST_EXPERIMENTS = 1000
#: Marks of GitHub's Markdown that only disturb in a terminal: emphasis, headings, quotes, code; and the backslash of
#: a letter that is meant as itself.
_MARKS = re.compile(r"\\([^\w\s]|_)|\*\*|__|`|^[#>\s]+")
_LINK = re.compile(r"(?<!\\)!?\[([^\]]*)\]\([^)]*\)")
_NOTE_LIMIT = 300


@dataclass(frozen=True)
class Link:
    """A place in the UI: what it is called, and its address."""

    name: str
    url: str


@dataclass(frozen=True)
class SweepLink(Link):
    """The run that stands for a sweep; its note is the first line of its description."""

    note: str = ""


@dataclass(frozen=True)
class ResultLink(SweepLink):
    """A run that a result is published on: a sweep's, or one of its own. Its note is the recommendation."""

    report_url: str = ""


@dataclass(frozen=True)
class ExperimentLinks:
    """One experiment.

    Attributes:
        runs: the list of its runs.
        results: what is published, the newest first. views: the saved ones.
        sweeps: the runs of our sweeps without a result on them, the newest first.
    """

    runs: Link
    results: list[ResultLink] = field(default_factory=list)
    views: list[Link] = field(default_factory=list)
    sweeps: list[SweepLink] = field(default_factory=list)


@dataclass(frozen=True)
class ServerLinks:
    """Everything worth opening: the experiments that hold results, sweeps or views, and how many others there are.

    Those with results come first.
    """

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
        experiments = list(search_all_experiments(client))
        ids = [found.experiment_id for found in experiments]
        parents: defaultdict[str, list[Any]] = defaultdict(list)
        for kind in NOT_TRIALS:
            query = f"tags.`{TAG_KIND}` = {quoted(kind)}"
            for start in range(0, len(ids), _MOST_EXPERIMENTS):
                for run in search_all_runs(client, ids[start : start + _MOST_EXPERIMENTS], query):
                    parents[run.info.experiment_id].append(run)
    found = [_experiment(shown, item, parents[item.experiment_id]) for item in experiments]
    kept = [item for item in found if item.results or item.views or item.sweeps]
    kept.sort(key=lambda item: (not item.results, item.runs.name))
    return ServerLinks(f"{shown}/#/experiments", kept, len(found) - len(kept))


def first_line(note: str) -> str:
    r"""The first line of a note in Markdown, as plain text of at most 300 characters.

    >>> first_line("## **Use LR 0.1** at `batch` 64\n\n| a |")
    'Use LR 0.1 at batch 64'
    >>> print(first_line(r"\_name\*: loss &lt; 1 at \[8\](x)"))
    _name*: loss < 1 at [8](x)
    """
    line = next((line for line in note.splitlines() if line.strip()), "")
    text = html.unescape(_MARKS.sub(lambda mark: mark[1] or "", _LINK.sub(r"\1", line)))
    plain = "".join(letter for letter in text if letter.isprintable()).strip()
    return plain if len(plain) <= _NOTE_LIMIT else f"{plain[: _NOTE_LIMIT - 3]}..."


def _experiment(url: str, experiment: Any, parents: list[Any]) -> ExperimentLinks:
    number = str(experiment.experiment_id)
    tags = dict(experiment.tags or {})
    runs = f"{url}/#/experiments/{quote(number, safe='')}/runs?{AS_TRAINING}"
    newest = sorted(parents, key=lambda run: int(run.info.start_time or 0), reverse=True)
    published = [run for run in newest if TAG_FINGERPRINT in run.data.tags]
    published.sort(key=_published_ms, reverse=True)
    # A report without a fingerprint was cut off, or its place was taken by another run: it is no result.
    others = [
        run for run in newest if TAG_FINGERPRINT not in run.data.tags and run.data.tags[TAG_KIND] == "sweep"
    ]
    return ExperimentLinks(
        Link(_plain(experiment.name), runs),
        [_result(url, number, run) for run in published],
        _views(url, number, tags),
        [SweepLink(*_run(url, number, run)) for run in others],
    )


def _result(url: str, number: str, run: Any) -> ResultLink:
    report = f"{url}/{run_fragment(number, run.info.run_id, f'{FOLDER}/report.html')}"
    return ResultLink(*_run(url, number, run), report)


def _run(url: str, number: str, run: Any) -> tuple[str, str, str]:
    """The name of a run, its address and the first line of its description."""
    info = run.info
    address = f"{url}/{run_fragment(number, info.run_id)}"
    return _plain(info.run_name or info.run_id), address, first_line(run.data.tags.get(NOTE_TAG, ""))


def _published_ms(run: Any) -> int:
    stamp = str(run.data.tags.get(TAG_STATE, "")).rpartition(" ")[2]
    return int(stamp) if stamp.isascii() and stamp.isdecimal() else 0


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
