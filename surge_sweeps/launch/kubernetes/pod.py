"""What a pod starts: `python -m surge_sweeps.launch.kubernetes.pod LAUNCH_FOLDER CANCELLED_FOLDER`.

It becomes `run_task` for the task that the cluster gave it. Kubernetes has no way to end one index of a Job, and would
replace a pod that is deleted: a task that was cancelled is listed in the second folder, and its pod ends here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from surge_sweeps.launch.kubernetes.manifest import ALL, CANCELLED

#: Set by the Job controller.
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"


def main(arguments: Sequence[str]) -> int:
    """Return only where there is nothing to run."""
    launch, cancelled = (Path(argument) for argument in arguments)
    index = os.environ.get(INDEX_VARIABLE, "")
    if not index.isdecimal():
        print(f"error: {INDEX_VARIABLE} is {index!r}: this runs in a pod of an Indexed Job.", file=sys.stderr)
        return 2
    if not any((cancelled / name).exists() for name in (index, ALL)):
        os.execv(sys.executable, [sys.executable, "-m", "surge_sweeps.launch.run_task", str(launch), index])
    print("cancelled before it began.", file=sys.stderr)
    return CANCELLED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
