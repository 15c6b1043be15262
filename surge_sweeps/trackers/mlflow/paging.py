"""Listings of a store that come in pages, whole although entries are deleted meanwhile.

MLflow counts its pages by offset: where an entry of a page before is deleted, every one behind moves up, and the first
of the next page would be given by neither. So each page begins with the last entry of the one before, and where that
does not stand there any more, the listing goes back until it meets an entry that it has given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from surge_sweeps.extras import require

#: Entries asked for at once.
PAGE = 1000

_Entry = TypeVar("_Entry")


def page_token(offset: int) -> str:
    """The token by which stores of MLflow's own give the page that begins with an entry; none for the first."""
    if offset == 0:
        return ""
    return token_text(require("mlflow.utils.search_utils", "mlflow").SearchUtils.create_page_token(offset))


def token_text(token: str | bytes | None) -> str:
    """A token as a server sends it; databases give bytes, or None where there is no next page."""
    return token.decode() if isinstance(token, bytes) else token or ""


def whole_listing(
    ask: Callable[[str], tuple[Sequence[_Entry], str]], name: Callable[[_Entry], str]
) -> Iterator[_Entry]:
    """Every entry of a listing in a fixed order, each once, as the pages come.

    Where the tokens of a store count no entries, as those of other makers may, they are taken as they are, and the
    listing is as whole as that store makes it.

    Args:
        ask: token, empty for the first page -> the page's entries, two or more where there are more to come, and the
            next page's token, empty where there is none. name: what tells entries apart.

    >>> def ask(token):
    ...     start = {page_token(offset): offset for offset in range(9)}[token]
    ...     return "abcdefgh"[start : start + 3], page_token(start + 3) if start + 3 < 8 else ""
    >>> "".join(whole_listing(ask, str))
    'abcdefgh'
    """
    seen: set[str] = set()
    token, offset = "", 0
    while True:
        entries, following = ask(token)
        names = [name(entry) for entry in entries]
        if offset and (not names or names[0] not in seen):
            offset = max(offset - PAGE, 0)
            token = page_token(offset)
            continue
        for entry, called in zip(entries, names, strict=True):
            if called not in seen:
                seen.add(called)
                yield entry
        if not following:
            return
        if following == page_token(offset + len(names)) and len(names) > 1:
            offset += len(names) - 1
            token = page_token(offset)
        else:
            token, offset = following, 0
