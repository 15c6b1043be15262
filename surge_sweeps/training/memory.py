"""Running out of memory: how it is told from other errors, and giving back what a failed attempt held."""

from __future__ import annotations

import torch

#: What torch says where the system's own memory is at its end; it raises a plain RuntimeError for that.
_HOST_WORDS = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host.

    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")), is_out_of_memory(RuntimeError("shapes"))
    (True, False)
    """
    # torch.compile wraps what is raised while it compiles.
    error = getattr(error, "inner_exception", None) or error
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _HOST_WORDS)


def release_memory() -> None:
    """Give back what nothing refers to any more; call once the error and its traceback are gone."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
