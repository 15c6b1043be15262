"""One `.wandb` file as a value: by our own reader, or by W&B's where ours does not know the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.wandb.offline.decode import decode
from surge_sweeps.trackers.wandb.offline.inspect import inspect
from surge_sweeps.trackers.wandb.offline.run import OfflineFile
from surge_sweeps.trackers.wandb.offline.transaction_log import UnknownLogError


def read_offline_file(path: Path) -> OfflineFile:
    """Read a file, as far as it goes; how far is in `ending`, and that W&B's reader was needed in `problems`.

    Raises:
        TrackerError: neither reader can read it. MissingExtraError: wandb is not installed.
    """
    try:
        return decode(path)
    except OSError as error:
        raise TrackerError(
            f"{str(path)!r} cannot be read ({error.strerror or error}).",
            "Check the path and who may read it.",
        ) from error
    except UnknownLogError as error:
        found = inspect(path)
        return replace(found, problems=(f"{error.what} It was read by `wandb leet inspect`", *found.problems))
