"""Text that others wrote (servers, programs, files of a folder) as one line that is safe to show on a terminal."""

from __future__ import annotations

import re

#: What a terminal acts upon: ESC [ ... letter, ESC ] ... BEL (titles and links), and the short ones.
_SEQUENCE = re.compile(
    r"(\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]P^_X][^\x07\x1b]*(\x07|\x1b\\)?|\x1b[ -/]*[0-~]"
)
_CHARACTERS = 300


def one_line(text: object, most: int = _CHARACTERS, *, keep_end: bool = False) -> str:
    r"""Text on one line, without escape sequences and control characters, and not too long.

    Args:
        most: characters at most. keep_end: of what is too long keep the end, not the beginning.

    >>> one_line("quota\n\x1b[31m exceeded\x1b]0;title\x07\x00")
    'quota exceeded'
    >>> one_line("0123456789", most=6), one_line("0123456789", most=6, keep_end=True)
    ('012...', '...789')
    """
    plain = _SEQUENCE.sub("", str(text))
    words = "".join(letter if letter.isprintable() else " " if letter.isspace() else "" for letter in plain)
    line = " ".join(words.split())
    if len(line) <= most:
        return line
    return f"...{line[-(most - 3) :]}" if keep_end else f"{line[: most - 3]}..."
