"""What Kubernetes takes as a name, a label and a quantity."""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?")


def is_label(name: str) -> bool:
    """Whether it names a job, a namespace or a pod.

    >>> is_label("surge-20261122"), is_label("Surge"), is_label("a" * 64)
    (True, False, False)
    """
    return len(name) <= 63 and bool(_LABEL.fullmatch(name))


def is_subdomain(name: str) -> bool:
    """Whether it names a ConfigMap, a Secret, a claim.

    >>> is_subdomain("my.secret-1"), is_subdomain("my_secret"), is_subdomain("")
    (True, False, False)
    """
    return len(name) <= 253 and bool(_SUBDOMAIN.fullmatch(name))


def is_label_value(value: str) -> bool:
    """Whether it can stand behind a label's name; an empty one can.

    >>> is_label_value("A100.80GB"), is_label_value(""), is_label_value("a b")
    (True, True, False)
    """
    return len(value) <= 63 and (value == "" or bool(_VALUE.fullmatch(value)))


def is_qualified_name(name: str) -> bool:
    """Whether it names a label, an annotation or a resource.

    >>> is_qualified_name("nvidia.com/gpu"), is_qualified_name("gpu"), is_qualified_name("a/b/c")
    (True, True, False)
    """
    prefix, slash, rest = name.rpartition("/")
    return bool(rest) and is_label_value(rest) and (not slash or is_subdomain(prefix))


def is_quantity(value: object) -> bool:
    """Whether it says how much: a number, or text with one of Kubernetes' units.

    >>> is_quantity("1536Mi"), is_quantity("500m"), is_quantity(2), is_quantity("2 GB")
    (True, True, True, False)
    """
    return not isinstance(value, bool) and bool(_QUANTITY.fullmatch(str(value)))
