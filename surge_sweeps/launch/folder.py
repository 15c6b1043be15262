"""A launch in its folder: the plan, and what engine and tasks leave there for one another and for later calls."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.files import write_text
from surge_sweeps.launch.plan import Plan

#: What launches left behind, one folder each, in the working folder.
LAUNCH_FOLDER = Path(".surge") / "launches"
_PLAN_FILE = "plan.json"
_OVER_FILE = "over"
_LAUNCH_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")


@dataclass(frozen=True)
class Launch:
    """A plan in its folder, which every node of a cluster sees; what the engine and its tasks leave is kept there.

    Attributes:
        plan: what was handed over. folder: `.surge/launches/LAUNCH_ID` in the working folder, absolute.
    """

    plan: Plan
    folder: Path

    @classmethod
    def create(cls, plan: Plan) -> Launch:
        """Write a plan to a folder of its own, atomically.

        Raises:
            SurgeError: the working folder cannot be written.
        """
        launch = cls.at_home(plan)
        # What lies there is of this machine and this user: in a repository it would be taken for the next user's own.
        write_text(launch.folder.parent.parent / ".gitignore", "*\n")
        write_text(launch.plan_file, plan.to_json())
        return launch

    @classmethod
    def at_home(cls, plan: Plan) -> Launch:
        """A plan with the folder that `create` would write it to; nothing is written."""
        return cls(plan, plan.working_folder.absolute() / LAUNCH_FOLDER / plan.launch_id)

    @classmethod
    def read(cls, folder: Path) -> Launch:
        """Raises `SurgeError` where the folder holds no plan."""
        try:
            text = (folder / _PLAN_FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SurgeError(f"{str(folder)!r} holds no plan of a launch: {error}.") from error
        try:
            plan = Plan.from_json(text)
        except SurgeError as error:
            raise SurgeError(
                f"the plan in {str(folder)!r} cannot be read: {error.what}",
                f"If its tasks have ended: surge-sweep cancel {folder.name} --forget",
            ) from error
        return cls(plan, folder.absolute())

    @classmethod
    def all_in(cls, working_folder: Path, *, over: bool = True) -> list[Launch]:
        """The launches made in a working folder, oldest first; what is no launch is passed over.

        Args:
            over: also those all of whose tasks have ended.

        Raises:
            SurgeError: a plan cannot be read.
        """
        folders = launch_folders(working_folder)
        return [cls.read(folder) for folder in folders.values() if over or not is_over(folder)]

    @property
    def plan_file(self) -> Path:
        """The plan."""
        return self.folder / _PLAN_FILE

    @property
    def is_over(self) -> bool:
        """Whether every task was seen to have ended: then no engine has to be asked again."""
        return is_over(self.folder)

    def set_over(self) -> None:
        """Note that every task has ended."""
        forget(self.folder)

    def log_file(self, task: int) -> Path:
        """What a task prints, where its engine leaves that to us."""
        return self.folder / "logs" / f"{task}.log"

    def log_text(self, task: int) -> str:
        """What is in `log_file` so far; empty where the task has not begun."""
        try:
            return self.log_file(task).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise SurgeError(f"{str(self.log_file(task))!r} cannot be read: {error}.") from error

    def ended_file(self, task: int) -> Path:
        """Written by a task as the last thing it does; see `TaskEnd`. One that was killed leaves none."""
        return self.folder / "ended" / f"{task}.json"

    def end_of(self, task: int) -> TaskEnd | None:
        """How a task ended by its own word; None if it has not, or was killed."""
        try:
            return TaskEnd(**json.loads(self.ended_file(task).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise SurgeError(f"{str(self.ended_file(task))!r} cannot be read: {error}.") from error


def launch_folders(working_folder: Path) -> dict[str, Path]:
    """Id -> folder of the launches made in a working folder, oldest first."""
    root = working_folder / LAUNCH_FOLDER
    entries = sorted(root.iterdir()) if root.is_dir() else []
    return {
        folder.name: folder
        for folder in entries
        if _LAUNCH_ID.fullmatch(folder.name) and (folder / _PLAN_FILE).is_file()
    }


def is_over(folder: Path) -> bool:
    """Whether every task of a launch was seen to have ended, whatever its plan says."""
    return (folder / _OVER_FILE).exists()


def forget(folder: Path) -> None:
    """Note of a launch, whatever its plan says, that every task has ended."""
    write_text(folder / _OVER_FILE, "")


@dataclass(frozen=True)
class TaskEnd:
    """A task's last word.

    Attributes:
        exit_code: of `run_task`: 0 if every trial of it has a result. why: a sentence where one has none; else empty.
    """

    exit_code: int
    why: str = ""

    def write(self, launch: Launch, task: int) -> None:
        """Leave it in the launch's folder."""
        write_text(launch.ended_file(task), json.dumps(asdict(self)))
