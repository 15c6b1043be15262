"""How many threads torch takes: trainers side by side must share the cores."""

from __future__ import annotations

import torch


def limit_threads(threads: int) -> None:
    """Let torch use this many threads in this process."""
    torch.set_num_threads(threads)
