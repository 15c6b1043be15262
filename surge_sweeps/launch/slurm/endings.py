"""Why a task that left no word has failed, in a sentence."""

from __future__ import annotations

from surge_sweeps.launch.slurm.queue import Element

#: `run_task` and its script: the task made room.
_MADE_ROOM = 85
#: It was asked to before it listened.
_ASKED_EARLY = 140
_KILLED = 137

_CANCELLED = "it was cancelled."
_UNKNOWN = (
    "SLURM knows nothing of it any more, and it left no word: it was cancelled or killed, or never submitted."
)
_SENTENCES = {
    "CANCELLED": _CANCELLED,
    "OUT_OF_MEMORY": "it was killed for want of memory: give its tasks more, or smaller micro-batches.",
    "TIMEOUT": "its time limit came before it had saved its state: give it more time, or tell it earlier that it ends "
    "(signal_seconds_before_limit).",
    "NODE_FAIL": "its node went down, and SLURM did not start it again.",
    "BOOT_FAIL": "its node did not start.",
    "PREEMPTED": "it had to make room, and SLURM did not put it back into the queue.",
    "DEADLINE": "its deadline passed.",
    "COMPLETED": "it ended, but left no word in the launch's folder: every node has to see the working folder.",
}


def why_it_failed(element: Element | None, *, cancelled: bool) -> str:
    """What is known of a task that has ended without a word.

    Args:
        element: as SLURM remembers it; None where it does not. cancelled: whether this launch asked for its end.

    >>> why_it_failed(Element("7_3", "FAILED", 137), cancelled=False)
    'it was killed (SLURM job 7_3: FAILED, exit code 137): often for want of memory.'
    >>> why_it_failed(None, cancelled=True)
    'it was cancelled.'
    """
    if element is None:
        return _CANCELLED if cancelled else _UNKNOWN
    if cancelled and (element.word == "CANCELLED" or element.exit_code in (_MADE_ROOM, _ASKED_EARLY)):
        return _CANCELLED
    if element.word in _SENTENCES:
        return _SENTENCES[element.word]
    parts = [f"SLURM job {element.job}: {element.word}"]
    parts += [f"exit code {element.exit_code}"] if element.exit_code is not None else []
    parts += [element.reason] if element.reason not in ("", "None", "NonZeroExitCode") else []
    known = f"({', '.join(parts)})"
    if element.exit_code in (_MADE_ROOM, _ASKED_EARLY):
        return f"it made room, and could not be put back into the queue {known}; see its log."
    if element.exit_code == _KILLED:
        return f"it was killed {known}: often for want of memory."
    return f"it could not start, or was killed {known}; see its log."
