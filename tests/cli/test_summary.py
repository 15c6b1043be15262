"""What `surge-report` says on the terminal where little could be found: the verdict, and what the runs lack."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from surge_sweeps.cli.summary import print_summary
from surge_sweeps.fitting.result import DriftFit, GroupFit, ProblemRecord, Slope, SurgeFit
from surge_sweeps.report.page import report_info
from surge_sweeps.report.surfaces import CELL_COLUMNS
from surge_sweeps.schedule import attach_schedules

LACKS = ["no run is longer than 6 steps: train longer", "2 batch sizes were run: add at least 3 more"]


def nothing_evaluated(*others: ProblemRecord, group: dict[str, str] | None = None) -> SurgeFit:
    label = "".join(f"{key} {value}: " for key, value in (group or {}).items())
    problems = [ProblemRecord(run=None, what=f"{label}{text}") for text in LACKS]
    nothing = GroupFit(group=group or {}, targets=[], drift=DriftFit(b_peak=Slope(), b_crit=Slope()))
    return attach_schedules(
        SurgeFit(
            project="p", source="s", batch_unit="examples", problems=[*others, *problems], groups=[nothing]
        )
    )


def summary(fit: SurgeFit) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_summary(fit, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("group", [None, {"optimizer": "sign"}])
def test_where_no_loss_could_be_evaluated_the_terminal_says_so_and_what_the_runs_lack(
    group: dict[str, str] | None,
) -> None:
    text = summary(nothing_evaluated(ProblemRecord(run="a", what="diverged at once"), group=group))
    assert "The data cannot tell how the optimal learning rate depends" in text
    assert "- No run is longer than 6 steps: train longer." in text
    assert "- 2 batch sizes were run: add at least 3 more." in text
    assert "- Diverged at once (1 run)." in text
    assert text.count("train longer") == 1
    assert "lists them" not in text


def test_what_asks_for_no_runs_is_no_run_that_would_decide() -> None:
    text = summary(nothing_evaluated(ProblemRecord(run=None, what="2 runs left out: running")))
    decide, found = text.split("Problems found:")
    assert "left out" not in decide
    assert "- 2 runs left out: running." in found


def test_many_kinds_of_problems_are_counted() -> None:
    others = [ProblemRecord(run="a", what=f"fault {place}") for place in range(4)]
    text = summary(nothing_evaluated(*others))
    assert "4 problems found; the report lists them." in text
    assert "ault 1" not in text


def test_the_page_of_such_a_group_is_its_first_screen() -> None:
    fit = nothing_evaluated()
    (group,) = report_info(fit, pd.DataFrame(columns=list(CELL_COLUMNS))).groups
    assert group.next_runs == tuple(f"{text[0].upper()}{text[1:]}." for text in LACKS)
    assert "no learning rate to advise" in group.recommendation
    assert not group.advised
    assert (group.tradeoff, group.schedule, group.families) == (None, None, ())
