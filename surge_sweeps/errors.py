"""The errors a user can meet.

Every one carries two sentences: what is wrong, and what to do next. The command line prints them without a
traceback and exits 1; a library caller catches `SurgeError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class SurgeError(Exception):
    """Something the user can mend.

    Args:
        what: the cause, one sentence.
        hint: the next thing to do; empty when the cause says it all.

    >>> str(SurgeError("no runs in 'digits'.", "Launch the sweep first."))
    "no runs in 'digits'. Launch the sweep first."
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what} {hint}".strip())
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the subclass with the message alone, and an error raised in a worker process would
        # break the pool that carries it home.
        return _restore, (type(self), self.what, self.hint), self.__dict__


def _restore(kind: type[SurgeError], what: str, hint: str) -> SurgeError:
    error = kind.__new__(kind)
    SurgeError.__init__(error, what, hint)
    return error


class UnknownNameError(SurgeError):
    """A name that is not one of the valid ones; the message lists them all.

    >>> str(UnknownNameError("optimizer", "adm", ["adam", "sgd"]))
    "unknown optimizer 'adm'. Valid: adam, sgd. Did you mean 'adam'?"
    """

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        names = sorted(valid)
        super().__init__(
            f"unknown {kind} {name!r}.", f"Valid: {', '.join(names) or 'none'}.{did_you_mean(name, names)}"
        )
        self.name = name
        self.valid = tuple(names)


def did_you_mean(name: str, valid: Sequence[str]) -> str:
    """The nearest valid name as a question behind a sentence, capitals aside; empty where none is near.

    >>> did_you_mean("ADAM", ["adam", "sgd"]), did_you_mean("lion", ["adam", "sgd"])
    (" Did you mean 'adam'?", '')
    """
    spelled = {one.casefold(): one for one in reversed(valid)}
    close = get_close_matches(name.casefold(), spelled, n=1)
    return f" Did you mean {spelled[close[0]]!r}?" if close else ""


class SweepFileError(SurgeError):
    """A sweep file that cannot be used as it stands."""


class MissingExtraError(SurgeError):
    """A package that only some commands need is not installed."""


class NotEnoughDataError(SurgeError):
    """The runs cannot answer the question; the hint says which runs would."""


class TrackerError(SurgeError):
    """The tracking store cannot be read or written."""


class TrainingError(SurgeError):
    """A training run cannot start or go on."""
