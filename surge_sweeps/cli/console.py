"""What both commands share at the terminal: errors without a traceback, and a progress bar with the time left."""

from __future__ import annotations

import math
import os
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from surge_sweeps.cli.entry import EXIT_INTERRUPTED
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import Interrupted
from surge_sweeps.progress import ProgressCallback, no_progress


class TextConsole(Console):
    """Shows text as it stands: `:x:` in a name is no emoji. A closed pipe, as behind `head`, stops no work."""

    def __init__(self, *, stderr: bool = False, force_terminal: bool | None = None) -> None:
        super().__init__(stderr=stderr, force_terminal=force_terminal, emoji=False)

    def on_broken_pipe(self) -> None:
        """Whoever read has gone: write what is left to nowhere, and go on."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            # The stream still holds what it could not write and would complain once more in the end.
            os.dup2(nowhere, self.file.fileno())
        finally:
            os.close(nowhere)


out = TextConsole()
err = TextConsole(stderr=True)

EXIT_ERROR = 1
#: How often a line tells how far it is where there is no terminal to draw on.
LINE_SECONDS = 60.0


def run(app: Callable[[], object]) -> None:
    """Run a command; what the user can mend is printed as a sentence and the next step, exit 1."""
    try:
        app()
    except SystemExit as ended:
        # Typer turns Ctrl-C into a silent exit.
        if ended.code == EXIT_INTERRUPTED:
            err.print("stopped.")
        raise
    except Interrupted as error:
        _say_what(error, "")
        sys.exit(EXIT_INTERRUPTED)
    except SurgeError as error:
        _complain(error)
        sys.exit(EXIT_ERROR)
    except MemoryError:
        _complain(SurgeError("the memory is full.", "Ask for fewer --draws, or close other programs."))
        sys.exit(EXIT_ERROR)
    except OSError as error:
        where = f"{str(error.filename)!r}: " if error.filename else ""
        _complain(
            SurgeError(f"{where}{error.strerror or error}.", "Check that the folder can be read and written.")
        )
        sys.exit(EXIT_ERROR)


def _complain(error: SurgeError) -> None:
    _say_what(error, "[bold red]error:[/] ", "       ")


def _say_what(error: SurgeError, mark: str, indent: str = "") -> None:
    err.print(f"{mark}{escape(printable(error.what))}", highlight=False, soft_wrap=True)
    if error.hint:
        err.print(f"{indent}{escape(printable(error.hint))}", highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(title: str, *, quiet: bool, lines: bool = False) -> Iterator[ProgressCallback]:
    """A callback that draws a bar with the time left; it draws nothing when quiet or not on a terminal.

    `lines`: without a terminal, as in a job's log, print a line each minute and one in the end instead.
    """
    if quiet or not err.is_terminal:
        yield from [no_progress] if quiet or not lines else _progress_lines(title)
        return
    columns = (
        TextColumn("{task.fields[title]}", style="bold", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", style="dim", markup=False),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None, title=title)

        def update(done: float, total: float, text: str) -> None:
            progress.update(task, completed=done, total=total, description=text)

        yield update


def _progress_lines(title: str) -> Iterator[ProgressCallback]:
    told_s, newest = time.monotonic(), ""

    def update(done: float, total: float, text: str) -> None:
        nonlocal told_s, newest
        newest = f"{title}: {math.floor(100 * done / total) if total else 0}%, {text}"
        if time.monotonic() - told_s >= LINE_SECONDS:
            told_s = time.monotonic()
            say(newest)

    yield update
    if newest:
        say(newest)


def say(text: str, *, quiet: bool = False) -> None:
    """One line about what is going on."""
    if not quiet:
        err.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def tell(text: str) -> None:
    """One line, or a few, of what was asked for."""
    lines = [printable(line) for line in text.split("\n")]
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """A text with nothing in it that steers a terminal, wherever its names come from.

    >>> printable("a\\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def show_page(path: Path) -> None:
    """Open a page in the user's browser where there is a screen; elsewhere the printed path must do."""
    show_address(path.resolve().as_uri())


def show_address(url: str) -> None:
    """As `show_page`, for an address."""
    has_screen = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if has_screen:
        webbrowser.open(url)


def typer_app(help_text: str) -> typer.Typer:
    """A command group whose errors are left to `run`."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
