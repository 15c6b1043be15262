"""Which field of a record is its text.

In this order: the field that the user named; `text`; `raw_content` (RedPajama-v2); `answers.text` (ELI5 and
ELI5-Category: a question's answers, joined by spaces); the only field that holds text. A dot goes into a nested field,
and several texts in one field are joined by spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from surge_sweeps.errors import TrainingError, did_you_mean

#: Fields that hold a record's text; the first that is there is taken.
PREFERRED_FIELDS = ("text", "raw_content", "answers.text")
#: The way to a field, from the outside in.
Way = tuple[str, ...]


def way_in_record(record: object, wanted: str | None, where: str) -> Way:
    """The way to the text of a JSON record, and of those like it; see `choose_field`."""
    fields = dict(_fields_of_value((), record))
    return fields[choose_field(fields, wanted, where)]


def way_in_schema(schema: pa.Schema, wanted: str | None, where: str) -> Way:
    """The way to the text in the columns of a table; see `choose_field`."""
    fields = dict(_fields_of_type((), pa.struct(list(schema))))
    return fields[choose_field(fields, wanted, where)]


def choose_field(fields: Iterable[str], wanted: str | None, where: str) -> str:
    """The field that holds the text, by the rule at the top of this module.

    Args:
        fields: that hold text. where: they were found, for messages.

    Raises:
        TrainingError: there is none, or several; the message lists them.

    >>> choose_field(["url", "raw_content"], None, "a.jsonl")
    'raw_content'
    >>> choose_field(["title", "body"], None, "a.jsonl")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrainingError: which field of 'a.jsonl' is the text? Candidates: body, title.
        Name it behind the data, as in DATA#body.
    """
    candidates = sorted(fields)
    listed = ", ".join(candidates)
    if wanted is not None:
        if wanted in candidates:
            return wanted
        raise TrainingError(
            f"{where!r} has no field {wanted!r} that holds text.",
            f"Those that do: {listed or 'none'}.{did_you_mean(wanted, candidates)}",
        )
    preferred = [field for field in PREFERRED_FIELDS if field in candidates]
    if preferred or len(candidates) == 1:
        return (preferred or candidates)[0]
    if candidates:
        raise TrainingError(
            f"which field of {where!r} is the text? Candidates: {listed}.",
            f"Name it behind the data, as in DATA#{candidates[0]}.",
        )
    raise TrainingError(f"no field of {where!r} holds text.", "Give records with a field 'text'.")


def _fields_of_value(way: Way, value: object) -> Iterator[tuple[str, Way]]:
    name = ".".join(way)
    if isinstance(value, list):
        if value and not all(isinstance(one, str) for one in value):
            value = value[0]
        elif value or name in PREFERRED_FIELDS:
            yield name, way
            return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _fields_of_value((*way, str(key)), inner)
    elif isinstance(value, str) or (value is None and name in PREFERRED_FIELDS):
        yield name, way


def _fields_of_type(way: Way, kind: pa.DataType) -> Iterator[tuple[str, Way]]:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        for column in kind:
            yield from _fields_of_type((*way, column.name), column.type)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        yield ".".join(way), way


def text_at(value: object, way: Way, where: str) -> str:
    """The text at the end of a way into a record; the texts of a list are joined by spaces, null is no text."""
    if isinstance(value, list):
        return " ".join(filter(None, (text_at(one, way, where) for one in value)))
    if value is None:
        return ""
    if not way and isinstance(value, str):
        return _encodable(value, where)
    if way and isinstance(value, dict) and way[0] in value:
        return text_at(value[way[0]], way[1:], where)
    what = f"has no field {way[0]!r}" if way else f"has {type(value).__name__} where text is expected"
    raise TrainingError(f"{where} {what}.", "Give every record the same field of text.")


def _encodable(text: str, where: str) -> str:
    """The text, unless it has what JSON can spell and no encoding has: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(
            f"{where} has half of a surrogate pair, character {error.start} of its text.",
            "Replace it, by U+FFFD for example.",
        ) from error
    return text
