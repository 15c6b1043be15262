"""Which recorded settings tell groups of runs apart, and which only name a run, its machine, folders or time."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from surge_sweeps.curves import CONTROL_COLUMNS, Problem
from surge_sweeps.trackers.naming.aliases import canonical

#: From so many runs on, a setting with more than half as many values as runs makes no groups.
_MANY_RUNS = 8

_WORD = re.compile(r"[._ ]+")

#: Settings that name a run, its machine or its folders, at the top level or as `wandb.name`, `run.id`.
_NAMES_WHOLE = frozenset({
    "name", "id", "host", "port", "date", "save", "load", "cwd", "command", "cmd", "argv", "_name_or_path",
    "notes", "logdir", "outdir", "savedir", "workdir", "default_root_dir",
})  # fmt: skip
_NAMES_OF = frozenset(
    {"run", "exp", "experiment", "job", "wandb", "mlflow", "slurm", "hydra", "cluster", "logger"}
)
#: Words that only such settings have, wherever they stand.
_NAMING_WORDS = frozenset({
    "slurm", "wandb", "mlflow", "hostname", "timestamp", "datetime", "pid", "ppid", "uuid", "guid", "unix", "started",
    "git",
})  # fmt: skip
_LAST_WORDS = frozenset({"commit", "sha", "hash", "port", "hostname", "pid"})
#: A last word, and the words one of which stands before it.
_NAMING_PAIRS: Mapping[frozenset[str], frozenset[str]] = {
    frozenset({"name", "id", "rank"}): frozenset({
        "run", "exp", "experiment", "job", "host", "node", "machine", "user", "log", "pod", "container", "session",
        "trial", "process", "array", "worker", "instance", "local", "global", "device", "gpu",
    }),
    frozenset({"dir", "directory", "folder", "path", "file", "root"}): frozenset({
        "out", "output", "outputs", "log", "logs", "logging", "save", "work", "working", "run", "runs", "result",
        "results", "exp", "experiment", "dump", "tensorboard", "tb", "cache", "tmp", "temp", "scratch", "home",
    }),
    frozenset({"dir", "directory", "folder"}): frozenset({"checkpoint", "checkpoints", "ckpt", "ckpts"}),
    frozenset({"uri", "url", "location"}): frozenset({"tracking", "artifact", "artifacts", "registry"}),
    frozenset({"time", "date", "at"}): frozenset(
        {"start", "started", "end", "ended", "run", "begin", "launch", "launched", "created", "wall"}
    ),
}  # fmt: skip

#: Words of hyper-parameters: a setting with one of them makes groups whatever its values are.
_HYPER_PARAMETERS = frozenset({
    "optimizer", "optimiser", "optim", "opt", "model", "arch", "architecture", "backbone", "network", "data", "dataset",
    "datasets", "corpus", "task", "workload", "loss", "criterion", "objective", "activation", "norm", "init",
    "schedule", "scheduler", "sched", "warmup", "cooldown", "decay", "wd", "momentum", "nesterov", "dropout", "beta",
    "betas", "beta1", "beta2", "beta3", "b1", "b2", "eps", "epsilon", "rho", "gamma", "alpha", "weight", "width",
    "depth", "layer", "layers", "head", "heads", "hidden", "dim", "dims", "embd", "embed", "embedding", "ff", "ffn",
    "kernel", "channels", "blocks", "precision", "dtype", "augment", "augmentation", "mixup", "smoothing", "clip",
    "clipping", "vocab", "tokenizer", "context", "params", "parameters", "mult", "multiplier", "ratio", "factor",
    "method", "algo", "algorithm", "variant", "type", "rank",
})  # fmt: skip
#: A setting with one of these for its last word is a place: of data or of a run, which only its values can tell.
_PLACES = frozenset({"path", "dir", "directory", "folder", "file", "filename", "url", "uri", "root"})


def names_runs(name: str) -> bool:
    """Whether a setting, by its name, names a run, its machine, its folders, its commit or its time.

    >>> names = ("cfg.run_name", "optimizer.name", "slurm_job", "out/dir", "data_dir", "tracking_uri", "data_url")
    >>> [name for name in names if names_runs(name)]
    ['cfg.run_name', 'slurm_job', 'out/dir', 'tracking_uri']
    """
    form = canonical(name)
    *parents, last = form.split(".")
    if last in _NAMES_WHOLE and (not parents or parents[-1] in _NAMES_OF):
        return True
    words = _WORD.split(form)
    before = set(words[:-1])
    return (
        not _NAMING_WORDS.isdisjoint(words)
        or words[-1] in _LAST_WORDS
        or any(words[-1] in ends and not before.isdisjoint(starts) for ends, starts in _NAMING_PAIRS.items())
    )


def is_hyper_parameter(name: str) -> bool:
    """Whether a setting is a hyper-parameter by its name.

    >>> is_hyper_parameter("adam_beta1"), is_hyper_parameter("model.x"), is_hyper_parameter("x")
    (True, True, False)
    """
    return not _is_place(name) and not _HYPER_PARAMETERS.isdisjoint(_WORD.split(canonical(name)))


def _is_place(name: str) -> bool:
    return _WORD.split(canonical(name))[-1] in _PLACES


def left_out(
    columns: Mapping[str, pd.Series], cells: pd.DataFrame, *, labels: bool
) -> tuple[frozenset[str], list[Problem]]:
    """The settings that grouping by would leave each run on its own, and what the user should know of that.

    Args:
        columns: setting -> its values by run. cells: learning rate and batch size of the same runs.
        labels: leave out text that says the learning rate and batch size once more, as `lr0.1-b8` does.
    """
    names: list[str] = []
    unique: list[str] = []
    repeats: list[str] = []
    for name, column in columns.items():
        if name in CONTROL_COLUMNS:
            continue
        if names_runs(name):
            names.append(name)
        elif _swept(cells) and not is_hyper_parameter(name):
            if _nearly_unique(column):
                unique.append(name)
            elif labels and not _is_place(name) and _says_the_cell(column, cells):
                repeats.append(name)
    told = [name for name in names if columns[name].nunique(dropna=False) > 1]
    kept = "A setting named after what it is of, as in 'model.{}', makes groups in any case"
    problems = []
    if told:
        what = f"runs are not grouped by {_listed(told)}: such names are of a run, its machine, folders or time. "
        problems.append(Problem(None, what + "A hyper-parameter among them needs another name"))
    if unique:
        what = f"runs are not grouped by {_listed(unique)}: nearly every run has a value of its own. "
        problems.append(Problem(None, what + kept.format(unique[0])))
    if repeats:
        what = f"runs are not grouped by {_listed(repeats)}: text that says the learning rate and batch size again. "
        problems.append(Problem(None, what + kept.format(repeats[0])))
    return frozenset([*names, *unique, *repeats]), problems


def _swept(cells: pd.DataFrame) -> bool:
    return len(cells.drop_duplicates()) > 1


def _nearly_unique(column: pd.Series) -> bool:
    given = int(column.notna().sum())
    return given >= _MANY_RUNS and 2 * int(column.nunique()) > given


def _says_the_cell(column: pd.Series, cells: pd.DataFrame) -> bool:
    """Text with a number in it, each value of which goes with one learning rate and batch size."""
    if not pd.api.types.is_string_dtype(column) or column.nunique() < 2:
        return False
    if not all(any(sign.isdigit() for sign in str(value)) for value in column.dropna().unique()):
        return False
    return bool((cells.groupby(column.to_numpy(), dropna=False).nunique() == 1).all(axis=None))


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))
