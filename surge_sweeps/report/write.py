"""The report's files: all of them are made in memory first, then each is written whole or left as it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from surge_sweeps import files
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.result import SurgeFit
from surge_sweeps.report.html import html_page
from surge_sweeps.report.markdown import markdown_page
from surge_sweeps.report.page import report_info
from surge_sweeps.report.tables import optimal_lr_csv, schedule_yaml

LONGEST_NAME = 80

#: Device names of Windows, which cannot be folders there.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def write_report(
    fit: SurgeFit, cells: pd.DataFrame, folder: Path | str, read_as: Mapping[str, str] | None = None
) -> list[Path]:
    """Write report.html, report.md, fit.json, schedule.yaml and optimal_lr.csv into `folder`, which is made.

    The same input gives the same bytes, and a file that already holds them is not touched. Nothing is written when
    any of the files cannot be made.

    Args:
        fit: what was found.
        cells: one row per learning rate and batch size of a target; the columns of `surfaces.CELL_COLUMNS`.
        read_as: under which names the runs were read, see `LossCurves`.
        folder: where to write; see `safe_name` for a folder named after a project.

    Returns:
        The five paths, report.html first.

    Raises:
        SurgeError: `cells` lacks a column, or the folder cannot be written.
    """
    info = report_info(fit, cells, read_as)
    contents = {
        "report.html": html_page(info),
        "report.md": markdown_page(info),
        "fit.json": json.dumps(fit.to_dict(), allow_nan=False, ensure_ascii=False, indent=1) + "\n",
        "schedule.yaml": schedule_yaml(fit),
        "optimal_lr.csv": optimal_lr_csv(fit),
    }
    paths = [Path(folder) / name for name in contents]
    try:
        # The page comes last: where it is new, the files that it speaks of are.
        for path, content in reversed(list(zip(paths, contents.values(), strict=True))):
            files.write_text(path, content)
    except OSError as error:
        raise SurgeError(
            f"the report cannot be written to {str(folder)!r}: {error.strerror or error}.",
            "Free the place, or choose another folder with --output.",
        ) from error
    return paths


def safe_name(project: str) -> str:
    """A folder name for a project: names come from servers and files, so no separator, no dots in front, no control.

    A plain name stays as it is; any other is cleaned and marked with six digits of its hash, so that two projects
    never share a folder.

    >>> safe_name("digits-demo")
    'digits-demo'
    >>> safe_name("../../etc"), safe_name("team/project")
    ('etc-74ccf3', 'team-project-424ca8')
    """
    cleaned = re.sub(r"[^\w.-]+", "-", project).strip("-._")[:LONGEST_NAME].rstrip("-._")
    if cleaned == project and project and not _RESERVED.fullmatch(project):
        return project
    mark = hashlib.sha256(project.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{cleaned or 'project'}-{mark}"
