"""Files of Hugging Face data sets, by name and pinned revision: `hf:OWNER/NAME@COMMIT/PATTERN`.

Data sets that are scripts are not run. The files are named instead, as in
`hf:zalando/fashion@0123...cdef/data/train-*.parquet`, and the commit is given in full, so that the same text always
means the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.counting import counted
from surge_sweeps.errors import TrainingError
from surge_sweeps.extras import require
from surge_sweeps.training.data.kept_folders import kept_folder
from surge_sweeps.training.data.making import making

PREFIX = "hf:"
_FORM = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<commit>[0-9a-f]{40})/(?P<pattern>.+)")
_HELP = (
    "Write hf:OWNER/NAME@COMMIT/PATTERN, the commit in full, as in"
    f" hf:owner/name@{'0123456789' * 4}/data/train-*.parquet."
)


class HubFiles(NamedTuple):
    """Files of a data set on the hub.

    Attributes:
        name: owner and name. commit: 40 hexadecimal digits. pattern: of file names, with `*` and `?`.
    """

    name: str
    commit: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> HubFiles:
        """Read `hf:OWNER/NAME@COMMIT/PATTERN`.

        Raises:
            TrainingError: the text is of another form.

        >>> HubFiles.parse("hf:a/b@0123456789abcdef0123456789abcdef01234567/data/*.parquet").pattern
        'data/*.parquet'
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise TrainingError(f"{text!r} names no files of a Hugging Face data set at a commit.", _HELP)
        return cls(match["name"], match["commit"], match["pattern"])


def hub_files(text: str) -> tuple[Path, ...]:
    """The files that `hf:OWNER/NAME@COMMIT/PATTERN` names, sorted; fetched at first use, then found without a network.

    They lie in the hub's own cache (HF_HOME). HF_ENDPOINT and HF_TOKEN are heeded.

    Raises:
        TrainingError: another form, no such data set or file, or the hub cannot be reached.
        MissingExtraError: the extra `hub` is not installed.
    """
    wanted = HubFiles.parse(text)
    hub = require("huggingface_hub", "hub")
    key = {"name": wanted.name, "commit": wanted.commit, "pattern": wanted.pattern}

    def list_files(folder: Path) -> None:
        names = _matching(wanted)
        what = f"{counted(len(names), 'file')} of {wanted.name!r} from the Hugging Face hub"
        with making("fetching", what, f"{hub.constants.HF_HUB_CACHE!r} (HF_HOME)") as progress:
            for done, name in enumerate(names, 1):
                _download(wanted, name)
                progress(done, len(names), f"{done:,} of {counted(len(names), 'file')}")
        (folder / "files.json").write_text(json.dumps(names), encoding="utf-8")

    folder = kept_folder("hub", key, list_files)
    names = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    found = []
    for name in names:
        cached = hub.try_to_load_from_cache(wanted.name, name, revision=wanted.commit, repo_type="dataset")
        found.append(Path(cached) if isinstance(cached, str) else _download(wanted, name))
    return tuple(found)


def _matching(wanted: HubFiles) -> list[str]:
    hub = require("huggingface_hub", "hub")
    with _told(wanted):
        names = hub.HfApi(endpoint=_endpoint()).list_repo_files(
            wanted.name, repo_type="dataset", revision=wanted.commit
        )
    found = sorted(name for name in names if fnmatchcase(name, wanted.pattern))
    if not found:
        data = sorted(
            name for name in names if name.endswith((".parquet", ".jsonl", ".json.gz", ".txt", ".zip"))
        )
        raise TrainingError(
            f"no file of {wanted.name!r} is called {wanted.pattern!r}.",
            f"Its data files: {', '.join(data[:10]) or 'none'}{' ...' if len(data) > 10 else ''}.",
        )
    return found


def _download(wanted: HubFiles, name: str) -> Path:
    hub = require("huggingface_hub", "hub")
    with _told(wanted):
        return Path(
            hub.hf_hub_download(
                wanted.name, name, repo_type="dataset", revision=wanted.commit, endpoint=_endpoint()
            )
        )


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _told(wanted: HubFiles) -> Iterator[None]:
    """Turns what the hub's client raises into a sentence and the command that fetches the files elsewhere."""
    errors = require("huggingface_hub.errors", "hub")
    try:
        yield
    except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        raise TrainingError(
            f"the hub has no data set {wanted.name!r} with the commit {wanted.commit}, or you may not see it.",
            "Copy the name and the commit from the data set's page (Files, History); log in with: hf auth login.",
        ) from error
    except Exception as error:  # the errors of its HTTP library, which changes with its version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise TrainingError(
            f"the data set {wanted.name!r} cannot be fetched from the hub: {reason}.",
            "Where there is a network, fetch it with: hf download --repo-type dataset"
            f" --revision {wanted.commit} --include {shlex.quote(wanted.pattern)} --local-dir FOLDER {wanted.name}"
            "   and name the files in FOLDER as data.",
        ) from error
