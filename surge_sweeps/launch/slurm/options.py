"""What a user asks of SLURM beside the resources of a task."""

from __future__ import annotations

from dataclasses import dataclass

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.plan import Resources

_MIB_PER_GIB = 1024
#: Options that the launch itself gives, and relies on.
_OWN = (
    "--array", "--chdir", "--comment", "--error", "--export", "--job-name", "--no-requeue", "--open-mode", "--output",
    "--parsable", "--requeue", "--signal", "--test-only", "--wait", "--wrap",
)  # fmt: skip
_NAMES = ("partition", "account", "qos", "constraint", "reservation")


@dataclass(frozen=True)
class SlurmOptions:
    """What is asked of SLURM; what is None is left to the cluster.

    Attributes:
        partition, account, qos, constraint, reservation: as `sbatch` calls them.
        gpu_type: of the GPUs, as in `--gres=gpu:TYPE:2`.
        at_most: tasks at work at a time; None: as many as the cluster gives.
        signal_seconds_before_limit: a task is told so long before its time limit that it has to save its state and make
            room; SLURM may be up to 60 s early. 0: not told.
        container_image: image in which the tasks run, by pyxis (`srun --container-image`).
        python: interpreter of the nodes; default: the one that runs this tool, in a container `python`.
        extra: more options of `sbatch`, each as one text: `--exclusive`, `--mail-type=END`.

    Raises:
        SurgeError: an option that cannot be.

    >>> SlurmOptions(extra=("--mail-type END",)).extra
    ('--mail-type=END',)
    >>> SlurmOptions(extra=("--array=0-3",))
    Traceback (most recent call last):
    surge_sweeps.errors.SurgeError: '--array=0-3' is an option that the launch gives itself. Leave it out.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gpu_type: str | None = None
    at_most: int | None = None
    signal_seconds_before_limit: int = 120
    container_image: str | None = None
    python: str | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*_NAMES, "gpu_type", "container_image", "python"):
            value = getattr(self, name)
            if value is not None and (not value.strip() or not value.isprintable()):
                raise SurgeError(f"{name} is {value!r}.", "Give a name, or leave it out.")
        if self.at_most is not None and self.at_most < 1:
            raise SurgeError(f"at_most is {self.at_most}.", "It must be 1 or more.")
        if not 0 <= self.signal_seconds_before_limit <= 65535:
            raise SurgeError(
                f"signal_seconds_before_limit is {self.signal_seconds_before_limit}.",
                "SLURM takes 0 to 65535 seconds.",
            )
        object.__setattr__(self, "extra", tuple(_checked(option) for option in self.extra))

    def arguments(self, resources: Resources) -> list[str]:
        """The options of `sbatch` for tasks with these resources.

        A task's GPUs, cores and memory are those of all its nodes together.

        Raises:
            SurgeError: resources that SLURM cannot give.

        >>> SlurmOptions(partition="low").arguments(Resources(gpus_per_task=4, nodes=2, time_limit_minutes=30))
        ['--nodes=2', '--ntasks-per-node=1', '--gres=gpu:2', '--time=30', '--signal=B:USR2@120', '--partition=low']
        """
        nodes, kind = resources.nodes, f"{self.gpu_type}:" if self.gpu_type else ""
        found = [f"--nodes={nodes}", "--ntasks-per-node=1"]
        if resources.cpus_per_task is not None:
            found.append(f"--cpus-per-task={_share('cpus_per_task', resources.cpus_per_task, nodes)}")
        if resources.memory_gb is not None:
            # Rounded up.
            found.append(f"--mem={-int(-resources.memory_gb * _MIB_PER_GIB // nodes)}M")
        if resources.gpus_per_task:
            found.append(f"--gres=gpu:{kind}{_share('gpus_per_task', resources.gpus_per_task, nodes)}")
        if resources.time_limit_minutes is not None:
            self._check_limit(resources.time_limit_minutes)
            found.append(f"--time={resources.time_limit_minutes}")
        if self.signal_seconds_before_limit:
            found.append(f"--signal=B:USR2@{self.signal_seconds_before_limit}")
        given = {name: getattr(self, name) for name in _NAMES}
        found += [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [*found, *self.extra]

    def _check_limit(self, minutes: int) -> None:
        if self.signal_seconds_before_limit > minutes * 60 / 2:
            raise SurgeError(
                f"tasks with a time limit of {minutes} min would be told to stop "
                f"{self.signal_seconds_before_limit} s before it, and hardly get to work.",
                "Give them more time, or lower signal_seconds_before_limit to less than half the limit.",
            )


def _share(name: str, value: float, nodes: int) -> int:
    """What one node gives."""
    if value != int(value):
        raise SurgeError(
            f"{name} is {value:g}, and SLURM hands out whole ones.",
            "Ask for 1, and train the trials of a batch size together to fill it; or ask for a share of a GPU by an "
            "extra option of your cluster, as --gres=shard:1.",
        )
    if value % nodes:
        raise SurgeError(
            f"{name} is {value:g}, which {nodes} nodes cannot share evenly.", f"Give a multiple of {nodes}."
        )
    return int(value) // nodes


def _checked(option: str) -> str:
    """An option as one argument, `--name` or `--name=value`."""
    name, blank, value = option.strip().partition(" ")
    if blank and "=" not in name:
        option = f"{name}={value.strip()}"
    option = option.strip()
    name = option.partition("=")[0]
    if option.startswith("-M") or (len(name) > 2 and "--clusters".startswith(name)):
        raise SurgeError(
            f"{option!r} is another cluster, which is not asked how the tasks stand: they would be run again.",
            "Launch on a login node of that cluster, or let SLURM_CONF name its slurm.conf.",
        )
    if len(name) < 3 or not option.startswith("--") or not option.isprintable():
        raise SurgeError(
            f"{option!r} is no option of sbatch.", "Write it as --name or --name=value, without '#SBATCH'."
        )
    # sbatch takes the beginning of a name for the name.
    if any(own.startswith(name) for own in _OWN):
        raise SurgeError(f"{option!r} is an option that the launch gives itself.", "Leave it out.")
    return option
