"""How MLflow saves a chart view: an experiment tag that holds a name, two times and the packed state of the page.

Read in the pages of MLflow itself, where it is not documented; a test pins it against the installed version.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.note import AS_TRAINING

#: Begins the tag of every saved view; its key follows.
TAG_VIEW = "mlflow.sharedViewState."

#: Major and minor version of the first and the last MLflow whose views were opened in a browser.
FIRST_TRIED = (3, 15)
LAST_TRIED = (3, 18)

_PACKED = "deflate;"
_LONGEST_TAG = 20_000
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\D.*)?")


@dataclass(frozen=True)
class View:
    """A saved view.

    Attributes:
        name: as the "Views" menu lists it. key: of the tag, unique in the experiment.
        url_fragment: what follows a server's address to open it, from `#` on.
    """

    name: str
    key: str
    url_fragment: str


@dataclass(frozen=True)
class SavedView:
    """What the tag of a view holds.

    Attributes:
        name: as listed. state: of the page, plain data. created_ms, updated_ms: since 1970.
    """

    name: str
    state: Mapping[str, object]
    created_ms: int
    updated_ms: int


def supports_views(version: str) -> bool:
    """Whether views are known to open on a server of this MLflow version.

    >>> [supports_views(version) for version in ("3.17.2", "3.15.0rc1", "3.14.0", "4.0.0", "unknown")]
    [True, True, False, False, False]
    """
    found = _VERSION.fullmatch(version.strip())
    return found is not None and FIRST_TRIED <= (int(found[1]), int(found[2])) <= LAST_TRIED


def tried_versions() -> str:
    """The versions of `supports_views`, in words.

    >>> tried_versions()
    'MLflow 3.15 to 3.18'
    """
    first, last = (".".join(map(str, version)) for version in (FIRST_TRIED, LAST_TRIED))
    return f"MLflow {first} to {last}"


def view_fragment(experiment_id: str, key: str) -> str:
    """What opens a view, after the server's address.

    >>> view_fragment("1", "surge-trials")
    '#/experiments/1/runs?viewStateShareKey=surge-trials&compareRunsMode=CHART&workflowType=machine_learning'
    """
    return (
        f"#/experiments/{quote(experiment_id, safe='')}/runs"
        f"?viewStateShareKey={quote(key, safe='')}&compareRunsMode=CHART&{AS_TRAINING}"
    )


def view_tag(view: SavedView) -> str:
    """The value of a view's tag.

    Raises:
        TrackerError: it is longer than MLflow keeps, which only names of great length can make it.

    >>> saved = SavedView("trials", {"orderByAsc": True}, 1, 2)
    >>> parse_view_tag(view_tag(saved)) == saved
    True
    """
    state = json.dumps(view.state, separators=(",", ":"), ensure_ascii=False)
    packed = _PACKED + base64.b64encode(zlib.compress(state.encode("utf-8"), 9)).decode("ascii")
    envelope = {
        "name": view.name,
        "createdAt": view.created_ms,
        "updatedAt": view.updated_ms,
        "state": packed,
    }
    text = json.dumps(envelope, separators=(",", ":"))
    if len(text) > _LONGEST_TAG:
        raise TrackerError(
            f"the view {view.name!r} takes {len(text)} characters and MLflow keeps at most {_LONGEST_TAG}.",
            "Views are left out; shorter names of metrics and parameters make room.",
        )
    return text


def parse_view_tag(text: str) -> SavedView | None:
    """What `view_tag` wrote, or None for anything else, such as a view that MLflow's own pages saved differently.

    >>> parse_view_tag("deflate;eJw=") is None
    True
    """
    try:
        envelope = json.loads(text)
        name, state, created = envelope["name"], envelope["state"], envelope["createdAt"]
        if not state.startswith(_PACKED):
            return None
        unpacked = json.loads(zlib.decompress(base64.b64decode(state.removeprefix(_PACKED), validate=True)))
        return SavedView(str(name), dict(unpacked), int(created), int(envelope.get("updatedAt", created)))
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error):
        return None
