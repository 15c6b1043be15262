"""Which GPUs this machine has, found without torch: by CUDA_VISIBLE_DEVICES if it is set, else by `nvidia-smi`."""

from __future__ import annotations

import os
import subprocess

from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError

#: What CUDA, and so every framework, takes for the GPUs that a process may use.
VISIBLE = "CUDA_VISIBLE_DEVICES"
_QUERY = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
#: A driver that does not come up makes it hang.
_QUERY_SECONDS = 30.0


def find_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; none where there is no driver.

    Raises:
        SurgeError: `nvidia-smi` is there and fails.
    """
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        # CUDA stops at the first one that it does not know, such as -1.
        names = [name.strip() for name in visible.split(",")]
        known = next((at for at, name in enumerate(names) if not name or name.startswith("-")), len(names))
        return names[:known]
    try:
        listed = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=False)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SurgeError(f"nvidia-smi does not answer: {error}.", _BY_HAND) from error
    if listed.returncode != 0:
        said = " ".join((listed.stdout + listed.stderr).split())[:200]
        raise SurgeError(
            f"nvidia-smi failed with exit code {listed.returncode}: {said or 'no output'}.", _BY_HAND
        )
    return [line.partition(",")[0].strip() for line in listed.stdout.splitlines() if line.strip()]


_BY_HAND = f"Mend the driver, or name the GPUs by hand: {VISIBLE}=0,1"


def take_gpus(wanted: int | None) -> list[str]:
    """The first `wanted` GPUs of this machine; None: all of them.

    Raises:
        SurgeError: there are fewer, or none.
    """
    if wanted is not None and wanted < 0:
        raise SurgeError(f"the number of GPUs is {wanted}.", "It must be 0 or more.")
    if wanted == 0:
        return []
    found = find_gpus()
    if not found or len(found) < (wanted or 1):
        where = f"{VISIBLE} names" if VISIBLE in os.environ else "this machine has"
        asked = (
            "GPUs were" if wanted is None else f"{counted(wanted, 'GPU')} {'was' if wanted == 1 else 'were'}"
        )
        less = f"Ask for {len(found)} at most." if found else "Leave that out to train on the processor."
        raise SurgeError(
            f"{asked} asked for, and {where} {counted(len(found), 'GPU') if found else 'none'}.", less
        )
    return found if wanted is None else found[:wanted]
