"""The note of a run that a result is published on: what MLflow shows under "Description".

MLflow shows the first line alone until the reader opens the rest, so the recommendation stands there. What does not fit
MLflow's limit is cut at the end of a paragraph. Text that a user wrote there himself is kept below a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from surge_sweeps.trackers.publication import Publication

NOTE_TAG = "mlflow.note.content"
#: The folder of all that is published, among a run's artifacts.
FOLDER = "surge"
FIGURES = f"{FOLDER}/figures"

#: In an address: MLflow's pages then show the menu for trained models, else the one for language models in use.
AS_TRAINING = "workflowType=machine_learning"

#: MLflow cuts a longer tag without a word.
NOTE_LIMIT = 8000
#: A user's own text may take this much of it; a longer one is kept as a file.
OWN_LIMIT = 3000

#: Not shown; what stands below it is not ours.
_MARK = "<!-- surge-report writes what stands above anew each time, and keeps what stands below -->"


class NoteLink(NamedTuple):
    """A place in the UI: its name, and the part of its address behind the server's own."""

    name: str
    fragment: str


def run_fragment(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """The part of an address behind the server's own that opens a run, or an artifact of it.

    >>> run_fragment("3", "ab12")
    '#/experiments/3/runs/ab12?workflowType=machine_learning'
    >>> run_fragment("3", "ab12", "surge/report.html")
    '#/experiments/3/runs/ab12/artifacts/surge/report.html?workflowType=machine_learning'
    """
    run = f"#/experiments/{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}"
    return f"{run}/artifacts/{quote(artifact)}?{AS_TRAINING}" if artifact else f"{run}?{AS_TRAINING}"


def note_text(
    publication: Publication, run_id: str, report: NoteLink, views: Sequence[NoteLink], own: str = ""
) -> str:
    """The note: recommendation, links, key numbers, pictures and tables, and the user's own text last.

    Args:
        publication: what is published. run_id: the run, which holds the pictures. report, views: what is linked.
        own: what the user wrote, see `own_text`; at most `OWN_LIMIT` characters.
    """
    end = f"\n\n{_MARK}\n" + (f"\n{own}\n" if own else "")
    more = f"*The note of a run ends here: the rest stands in [{_words(report.name)}]({report.fragment}).*"
    blocks = list(_blocks(publication, run_id, [report, *views]))
    room = NOTE_LIMIT - len(end)
    whole = "\n\n".join(blocks)
    if len(whole) <= room:
        return whole + end
    return "\n\n".join([*_fitting(blocks, room - len(more) - 2), more]) + end


def own_text(note: str) -> str:
    """What a user wrote: all of a note that is not ours, and of ours what stands below the mark."""
    return note.partition(_MARK)[2].strip() if _MARK in note else note.strip()


def withdrawn_note(where: NoteLink, own: str) -> str:
    """The note of a run whose result is published on another run now."""
    words = f"Out of date: the result of this experiment is published on [{_words(where.name)}]({where.fragment})."
    return f"{words}\n\n{_MARK}\n" + (f"\n{own}\n" if own else "")


def _blocks(publication: Publication, run_id: str, links: Iterable[NoteLink]) -> Iterable[str]:
    """The paragraphs in the order in which they matter; a table is one."""
    yield publication.headline
    yield " · ".join(f"[{_words(link.name)}]({link.fragment})" for link in links)
    pictures = [
        f"![{_words(figure.caption)}](get-artifact?path={quote(f'{FIGURES}/{figure.file}')}&run_uuid={quote(run_id)})"
        for figure in publication.figures
    ]
    yield from pictures[:1]
    # The first line has said it.
    yield from _paragraphs(publication.answer.replace(f"**Recommendation.** {publication.headline}\n", ""))
    yield from pictures[1:]
    yield from _paragraphs(publication.details)


def _paragraphs(text: str) -> list[str]:
    parts = [part.strip("\n") for part in re.split(r"\n\s*\n", text) if part.strip()]
    return [_spaced_table(part) if part.startswith("|") else part for part in parts]


def _spaced_table(table: str) -> str:
    """A table as the UI shows it readably: cells apart, which it does not do, and no spaces for aligned source.

    >>> print(_spaced_table("| B  | LR   |\\n|----|------|\\n| 4  | 0.1  |"))
    | B&ensp;| LR&ensp;|
    |---|---|
    | 4&ensp;| 0.1&ensp;|
    """
    rules = re.compile(r"[|-]+")
    return "\n".join(
        re.sub("-+", "---", line) if rules.fullmatch(line) else re.sub(r" +\|", "&ensp;|", line)
        for line in table.splitlines()
    )


def _fitting(blocks: Sequence[str], room: int) -> list[str]:
    """The first blocks that fit, less a heading that would stand over nothing."""
    kept: list[str] = []
    for block in blocks:
        if sum(len(one) + 2 for one in kept) + len(block) > room:
            break
        kept.append(block)
    while kept and (kept[-1].startswith("#") or kept[-1].endswith(":")):
        kept.pop()
    return kept


def _words(text: str) -> str:
    """A name inside a link or a picture, without what would end it or begin markup.

    >>> _words("a](http://x) <b>")
    'a (http: x) b'
    """
    return " ".join(re.sub(r"[^\w .,:;()=+-]+", " ", text).split()) or "link"
