"""docs/own_script.md as the tests of its scripts read it: blocks, scripts, and the commands beside them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "own_script.md"
#: On the path of the scripts they start and end sooner.
QUICK_START = str(Path(__file__).parent / "quick_start")


def fenced_blocks(language: str) -> list[str]:
    """The text of every block of the page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def printed_scripts() -> dict[str, str]:
    """File name to text of every script: those printed whole, by their first line, and what the diffs make of them."""
    scripts = {text.splitlines()[0].removeprefix("# "): text for text in fenced_blocks("python")}
    for diff in fenced_blocks("diff"):
        old, new, *changes = diff.splitlines()
        text = scripts[old.removeprefix("--- ")]
        for hunk in "\n".join([*changes, ""]).split("@@\n")[1:]:
            before, after = (
                "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[0] in signs)
                for signs in (" -", " +")
            )
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        scripts[new.removeprefix("+++ ")] = text
    return scripts


def added_lines(program: str) -> list[str]:
    """The lines that a diff of the page adds to make that script."""
    (diff,) = [diff for diff in fenced_blocks("diff") if diff.splitlines()[1] == f"+++ {program}"]
    return [line[1:] for line in diff.splitlines()[2:] if line.startswith("+")]


def printed_commands(command: str) -> list[list[str]]:
    """The words after each call of the command in the page's console blocks."""
    lines = "".join(fenced_blocks("console")).splitlines()
    return [
        shlex.split(line, comments=True)[1 + len(command.split()) :]
        for line in lines
        if line.startswith(f"$ {command} ")
    ]


def sweep_command(program: str) -> list[str]:
    """The words after `surge-sweep` in the one call of `surge-sweep new` that names the script."""
    (words,) = [words for words in printed_commands("surge-sweep") if program in words]
    return words
