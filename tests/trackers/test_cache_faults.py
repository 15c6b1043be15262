"""A cache that cannot be written, is cut off or shared never changes a result, loses what was read, or is silent."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stored_rows import Store

from surge_sweeps.cli.project_report import write_project_report
from surge_sweeps.curve_cache import CacheWarning, Series, SeriesCache, Wanted, join_series
from surge_sweeps.trackers.base import ReadOptions

RUNS = [f"run-{number:02d}" for number in range(12)]
POINTS = 4000

#: A store for a process of its own: what it reads is a function of the run's name, and cannot be compressed.
STORE = """
    import sys, time, resource, signal
    import numpy as np
    from pathlib import Path
    from surge_sweeps import curve_cache
    from surge_sweeps.curve_cache import Series, SeriesCache, Wanted, join_series

    RUNS = [f"run-{number:02d}" for number in range(12)]
    curve_cache.CHUNK_POINTS = 4000

    def fetch(runs):
        values = [np.random.default_rng(int(run[4:])).random(4000) for run in runs]
        steps = [np.arange(4000.0) for run in runs]
        times = [np.arange(4000) for run in runs]
        return Series(tuple(runs), np.full(len(runs), 4000), *map(np.concatenate, (steps, values, times)))

    def read(signature="1"):
        cache = SeriesCache(Path(sys.argv[1]), ["x"])
        wanted = Wanted(dict.fromkeys(RUNS, signature), sizes=dict.fromkeys(RUNS, 4000))
        return join_series(list(cache.read(wanted, fetch))).take(RUNS)
"""


def fetch(runs: list[str]) -> Series:
    """As in `STORE`."""
    values = [np.random.default_rng(int(run[4:])).random(POINTS) for run in runs]
    steps = [np.arange(float(POINTS)) for _ in runs]
    times = [np.arange(POINTS) for _ in runs]
    return Series(tuple(runs), np.full(len(runs), POINTS), *map(np.concatenate, (steps, values, times)))


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    text = textwrap.dedent(STORE) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE, text=True)


def read_again(folder: Path) -> tuple[Series, list[str]]:
    """What a read gives, and which runs it had to fetch; the cache must not be told to be damaged."""
    asked: list[str] = []

    def counts(runs: list[str]) -> Series:
        asked.extend(runs)
        return fetch(runs)

    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        wanted = Wanted(dict.fromkeys(RUNS, "1"), sizes=dict.fromkeys(RUNS, POINTS))
        parts = list(SeriesCache(folder, ["x"]).read(wanted, counts))  # type: ignore[arg-type]
    return join_series(parts).take(RUNS), asked


def assert_whole(series: Series) -> None:
    expected = fetch(RUNS)
    assert series.runs == expected.runs
    for name in ("rows", "step", "value", "timestamp"):
        np.testing.assert_array_equal(getattr(series, name), getattr(expected, name))


def test_killed_at_any_moment_it_is_whole(tmp_path: Path) -> None:
    child = python(
        """
        for turn in range(10**6):
            read(str(turn))
            print(turn, flush=True)
        """,
        str(tmp_path),
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.05)
    for pause_s in (0.013, 0.001, 0.029, 0.007):
        # A stopped process is one that is killed there, and may then be let go on to the next moment.
        child.send_signal(signal.SIGSTOP)
        series, _ = read_again(tmp_path)
        assert_whole(series)
        child.send_signal(signal.SIGCONT)
        time.sleep(pause_s)
    child.kill()
    child.wait()
    child.stdout.close()
    series, _ = read_again(tmp_path)
    assert_whole(series)
    series, asked = read_again(tmp_path)
    assert_whole(series)
    assert asked == []


def test_what_a_killed_process_left_half_written_is_removed_in_time(tmp_path: Path) -> None:
    read_again(tmp_path)
    (folder,) = tmp_path.iterdir()
    for name, age_s in (("old", 7200), ("new", 60)):
        path = folder / f".shard-{name}.tmp"
        path.write_bytes(b"half a shard")
        os.utime(path, (time.time() - age_s,) * 2)
    _, asked = read_again(tmp_path)
    assert asked == []
    assert [path.name for path in folder.glob(".*.tmp")] == [".shard-new.tmp"]


def test_two_processes_at_once_disturb_neither_each_other_nor_the_cache(tmp_path: Path) -> None:
    code = """
        import warnings
        warnings.simplefilter("error")
        whole = fetch(RUNS)
        for turn in range(25):
            series = read(str(turn % 3))
            assert (series.value == whole.value).all() and (series.rows == 4000).all()
        """
    children = [python(code, str(tmp_path)) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
    read_again(tmp_path)
    series, asked = read_again(tmp_path)
    assert_whole(series)
    assert asked == []
    (folder,) = tmp_path.iterdir()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 * len(RUNS) * POINTS * 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_once_and_what_fits_is_kept(small_disk: Path) -> None:
    wanted = Wanted(dict.fromkeys(RUNS, "1"), sizes=dict.fromkeys(RUNS, 600_000))
    with pytest.warns(CacheWarning, match=r"cannot be written \(No space left on device\)") as told:
        series = join_series(list(SeriesCache(small_disk, ["x"]).read(wanted, fetch)))  # type: ignore[arg-type]
    assert len(told) == 1
    assert_whole(series.take(RUNS))
    asked: list[str] = []

    def counts(runs: list[str]) -> Series:
        asked.extend(runs)
        return fetch(runs)

    with pytest.warns(CacheWarning):
        series = join_series(list(SeriesCache(small_disk, ["x"]).read(wanted, counts)))  # type: ignore[arg-type]
    assert_whole(series.take(RUNS))
    assert 0 < len(asked) < len(RUNS)
    assert not list(small_disk.rglob("*.tmp"))


def test_a_disk_that_cannot_be_written_at_all_is_told(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.warns(CacheWarning, match=r"cannot be written \(Read-only file system\)") as told:
        assert_whole(SeriesCache(small_disk, ["x"]).update(dict.fromkeys(RUNS, "1"), fetch))  # type: ignore[arg-type]
    assert len(told) == 1


def test_a_file_that_may_grow_no_further_is_told(tmp_path: Path) -> None:
    child = python(
        """
        import warnings
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            series = read()
        assert (series.value == fetch(RUNS).value).all()
        print(len(told), told[0].category.__name__, told[0].message)
        """,
        str(tmp_path),
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 10_000
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert output.startswith(f"1 CacheWarning the cache in {tmp_path} cannot be written (File too large)")
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_terminal_says_it_once_even_when_quiet(
    tmp_path: Path, uri: str, foreign_run, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    for rate in (0.1, 0.2):
        foreign_run(
            {"lr": rate, "batch_size": 8, "seed": 0},
            {"eval/loss": [(1, 2.0), (2, 1.0)], "examples": [(1, 8.0), (2, 16.0)]},
        )
    (tmp_path / "cache").write_text("in the way")
    options = ReadOptions(cache_dir=tmp_path / "cache")
    for quiet in (False, True):
        write_project_report("foreign", options, output=tmp_path / "out", uri=uri, quiet=quiet)
        said = " ".join(capsys.readouterr().err.split())
        assert said.count("warning:") == 1
        assert f"the cache in {tmp_path / 'cache'} cannot be written" in said
        assert "--no-cache" in said


def test_a_curve_is_the_same_with_a_cache_that_was_merely_begun(tmp_path: Path) -> None:
    store = Store()
    for seed in range(5):
        rows = [{"_step": step, "eval/loss": 3.0 / step + seed} for step in (1, 2, 3)]
        store.log({"lr": 0.1, "batch_size": 8, "seed": seed}, rows)
    everything = store.runs
    store.runs = everything[:2]
    store.read(own_step=True, cache_dir=tmp_path)
    store.runs = everything
    cached = store.read(own_step=True, cache_dir=tmp_path)
    assert cached.points.equals(store.read(own_step=True).points)
    assert cached.problems == store.read(own_step=True).problems
