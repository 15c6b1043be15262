"""What a pod starts: `python -m surge_sweeps.launch.kubernetes.pod LAUNCH_FOLDER CANCELLED_FOLDER`.

It becomes `run_task` for the task that the cluster gave it, once it is known where the runs go: a pod that nobody told
would keep them in a file of its own, and lose them. Kubernetes has no way to end one index of a Job, and would replace
a pod that is deleted: a task that was cancelled is listed in the second folder, and its pod ends here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.kubernetes.manifest import ALL, CANCELLED

#: Set by the Job controller.
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
FAILED = 1
_STORE_VARIABLE = "MLFLOW_TRACKING_URI"


def main(arguments: Sequence[str]) -> int:
    """Return only where there is nothing to run."""
    launch, cancelled = (Path(argument) for argument in arguments)
    index = os.environ.get(INDEX_VARIABLE, "")
    if not index.isdecimal():
        print(f"error: {INDEX_VARIABLE} is {index!r}: this runs in a pod of an Indexed Job.", file=sys.stderr)
        return 2
    if any((cancelled / name).exists() for name in (index, ALL)):
        print("cancelled before it began.", file=sys.stderr)
        return CANCELLED
    problem = _problem(launch)
    if not problem:
        os.execv(sys.executable, [sys.executable, "-m", "surge_sweeps.launch.run_task", str(launch), index])
    print(f"error: {problem}", file=sys.stderr)
    return FAILED


def _problem(folder: Path) -> str:
    """Why the task cannot begin; empty where it can."""
    try:
        plan = Launch.read(folder).plan
    except SurgeError as error:
        return str(error)
    if plan.tracker != "mlflow" or plan.uri is not None or os.environ.get(_STORE_VARIABLE):
        return ""
    return (
        f"no {_STORE_VARIABLE} tells this pod where the MLflow server is. Put it into a Secret, and name that with "
        "--set env_from_secret=NAME."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
