"""Tables as users have them: what is right is read exactly, what is wrong is counted and named, nothing vanishes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import surge_sweeps as ss
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.fitting.observables.groups import split_groups
from surge_sweeps.trackers.tables.file import project_name

RNG_SEED = 0


def write(folder: Path, text: str, name: str = "runs.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(curves: ss.LossCurves) -> str:
    return "\n".join(problem.what for problem in curves.problems)


def rows_of(curves: ss.LossCurves, *columns: str) -> list[list[object]]:
    return curves.runs[list(columns)].astype(object).to_numpy().tolist()


def final_table(folder: Path, rows: str, header: str = "lr,batch_size,loss") -> ss.LossCurves:
    return ss.collect(write(folder, f"{header}\n{rows}"))


def test_names_with_blanks_and_slashes_are_found_and_group_the_rows(tmp_path: Path) -> None:
    text = (
        "lr,bs, smooth loss ,D/N,run id\n0.0005524,256,2.5,18.6,a\n0.001,256,2.25,18.6,b\n0.001,256,2,93,c\n"
    )
    curves = ss.collect(
        write(tmp_path, text), batch_size="bs", loss="smooth loss", group_by=["D/N"], batch_unit="sequences"
    )
    assert rows_of(curves, "lr", "batch_size", "response", "D/N") == [
        [0.0005524, 256, 2.5, 18.6],
        [0.001, 256, 2.25, 18.6],
        [0.001, 256, 2.0, 93.0],
    ]
    assert set(curves.runs) == {"run", "lr", "batch_size", "seed", "status", "response", "D/N"}
    assert (curves.observable, curves.loss_name, curves.batch_unit) == ("final", "smooth loss", "sequences")
    assert (curves.project, curves.source) == ("runs", str(tmp_path / "runs.csv"))
    assert curves.points.empty
    assert curves.problems == ()


@pytest.mark.parametrize(
    "name", ["runs.csv", "runs.tsv", "runs.csv.gz", "runs.parquet", "semicolons.csv", "runs"]
)
def test_every_format_gives_the_same_runs(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(
        {
            "lr": [0.1, 1 / 3],
            "batch_size": [8, 16],
            "seed": [0, 2**62 + 1],
            "loss": [0.1 + 0.2, 2.0],
            "opt": "a",
        }
    )
    path = tmp_path / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        separator = {"runs.tsv": "\t", "semicolons.csv": ";"}.get(name, ",")
        table.to_csv(path, index=False, sep=separator)
    curves = ss.collect(str(path), group_by=["opt"])
    assert rows_of(curves, "lr", "batch_size", "seed", "response", "opt") == table[
        ["lr", "batch_size", "seed", "loss", "opt"]
    ].astype(object).to_numpy().tolist()  # fmt: skip


def test_a_short_float_of_parquet_is_the_number_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "short.parquet"
    table = {"lr": np.array([0.001, 0.02], dtype=np.float32), "batch_size": [8.0, 256.0], "loss": [1.0, 2.0]}
    pd.DataFrame(table).to_parquet(path)
    assert rows_of(ss.collect(str(path)), "lr", "batch_size") == [[0.001, 8], [0.02, 256]]


def test_bad_learning_rates_and_batch_sizes_are_counted_by_kind(tmp_path: Path) -> None:
    bad = ["nan,8", "inf,8", "0,8", "-1,8", "abc,8", '"1,000",8', ",8", "1_0,8"]
    bad += ["1,8.5", "1,0", "1,-4", "1,inf", "1,", "1,many", "1,99999999999999999999999"]
    curves = final_table(tmp_path, "\n".join(f"{row},1" for row in [*bad, "0.5,256.0", "2,1e3"]))
    assert rows_of(curves, "lr", "batch_size") == [[0.5, 256], [2.0, 1000]]
    told = problems(curves)
    for what in (
        "3 rows left out, 'lr' is not a number ('abc', '1,000', '1_0'): data rows 5, 6 and 8",
        "2 rows left out, 'lr' is missing or NaN: data rows 1 and 7",
        "1 row left out, 'lr' is infinite: data row 2",
        "1 row left out, 'lr' is zero: data row 3",
        "1 row left out, 'lr' is negative: data row 4",
        "1 row left out, 'batch_size' is not a whole number ('8.5'): data row 9",
        "1 row left out, 'batch_size' is zero: data row 10",
        "1 row left out, 'batch_size' is negative: data row 11",
        "1 row left out, 'batch_size' is infinite: data row 12",
        "1 row left out, 'batch_size' is missing or NaN: data row 13",
        "1 row left out, 'batch_size' is not a number ('many'): data row 14",
        "1 row left out, 'batch_size' is not a believable batch size",
    ):
        assert what in told


def test_thousands_of_bad_rows_are_one_problem(tmp_path: Path) -> None:
    curves = final_table(tmp_path, "0.1,8,1\n" + "-1,8,1\n" * 5000)
    assert [problem.what for problem in curves.problems] == [
        "5000 rows left out, 'lr' is negative: data rows 2, 3, 4, 5, 6 and 4995 more"
    ]


def test_a_loss_that_is_no_number_is_a_diverged_run_not_a_missing_one(tmp_path: Path) -> None:
    curves = final_table(
        tmp_path, "0.1,8,2.5\n0.2,8,nan\n0.3,8,inf\n0.4,8,\n0.5,8,diverged\n0.6,8,oops\n0.7,8,-1\n"
    )
    assert curves.runs["status"].tolist() == ["finished", *["diverged"] * 4, "finished"]
    assert curves.runs["response"].isna().tolist() == [False, True, True, True, True, False]
    assert "4 rows without a finite loss, counted as diverged: data rows 2, 3, 4 and 5" in problems(curves)
    assert "1 row left out, 'loss' is not a number ('oops'): data row 6" in problems(curves)


def test_a_status_column_is_heard(tmp_path: Path) -> None:
    rows = "1,8,1,FINISHED\n2,8,6.5,diverged\n3,8,3,failed\n4,8,4,weird\n5,8,nan,finished\n6,8,1,\n"
    curves = final_table(tmp_path, rows, "lr,batch_size,loss,status")
    expected = ["finished", "diverged", "crashed", "finished", "diverged", "finished"]
    assert curves.runs["status"].tolist() == expected
    assert curves.runs["response"].isna().tolist() == [False, True, False, False, True, False]
    assert "1 row with an unknown status ('weird')" in problems(curves)
    assert "recorded as diverged: the number is not used: data row 2" in problems(curves)


def test_rows_without_seeds_are_replicates_and_copies_are_dropped(tmp_path: Path) -> None:
    curves = final_table(tmp_path, "1,8,2.5\n1,8,2.6\n1,8,2.5\n1,8,nan\n1,8,nan\n2,8,3\n")
    assert curves.runs["response"].dropna().tolist() == [2.5, 2.6, 3.0]
    assert curves.runs["seed"].isna().all()
    assert (curves.runs["status"] == "diverged").sum() == 2
    assert "1 row left out, repeating an earlier row in every column: data row 3" in problems(curves)
    assert "the table has no seeds: 4 runs" in problems(curves)


def test_copies_with_seeds_are_dropped_and_contradictions_kept(tmp_path: Path) -> None:
    curves = final_table(tmp_path, "1,8,0,2.5\n1,8,0,2.5\n1,8,0,2.7\n1,8,1,2.5\n", "lr,batch_size,seed,loss")
    assert rows_of(curves, "seed", "response") == [[0, 2.5], [0, 2.7], [1, 2.5]]
    assert "1 row left out, repeating an earlier row: data row 2" in problems(curves)
    assert "another result" in problems(curves)
    assert "--group-by" in problems(curves)


@pytest.mark.parametrize("seeds", [["b", "a", "b"], ["1.5", "0", "1.5"], ["9" * 20, "x", "9" * 20]])
def test_seeds_of_any_kind_tell_replicates_apart(tmp_path: Path, seeds: list[str]) -> None:
    rows = "".join(f"1,{8 * (i + 1)},{seed},2\n" for i, seed in enumerate(seeds))
    curves = final_table(tmp_path, rows, "lr,batch_size,seed,loss")
    found = curves.runs["seed"].tolist()
    assert found[0] == found[2] != found[1]
    assert "numbered" in problems(curves)


def test_steps_to_a_goal_need_the_batch_size_alone(tmp_path: Path) -> None:
    text = "batch_size,steps\n64,46000\n128,23000.5\n256,\n512,inf\n1024,0\n2048,-3\n"
    curves = ss.collect(write(tmp_path, text), steps_to_goal="steps")
    assert curves.observable == "steps"
    assert curves.runs["lr"].isna().all()
    assert curves.runs["response"].tolist()[:2] == [46000.0, 23000.5]
    assert curves.runs["status"].tolist() == ["finished", "finished", "capped", "capped"]
    assert "2 rows without steps to the goal, counted as never having reached it" in problems(curves)
    assert "'steps' is zero: data row 5" in problems(curves)
    assert "'steps' is negative: data row 6" in problems(curves)


def test_steps_to_a_goal_keep_learning_rates_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path, "batch_size,best lr,steps\n64,0.1,10\n128,oops,20\n")
    curves = ss.collect(path, steps_to_goal="steps", lr="best lr")
    assert curves.runs["lr"].tolist()[0] == 0.1
    assert np.isnan(curves.runs["lr"].tolist()[1])
    assert "1 row with no usable learning rate in 'best lr', kept without: data row 2" in problems(curves)
    with pytest.raises(UnknownNameError, match=r"--lr-column 'beste lr'.*Did you mean 'best lr'"):
        ss.collect(path, steps_to_goal="steps", lr="beste lr")


def test_gains_and_given_learning_rates(tmp_path: Path) -> None:
    gains = ss.collect(write(tmp_path, "lr,batch_size,drop\n1,8,-0.5\n2,8,nan\n"), gain="drop")
    assert (gains.observable, gains.runs["status"].tolist()) == ("gain", ["finished", "diverged"])
    path = write(tmp_path, "batch_size,eta,loss\n8,0.1,2\n16,0.2,2\n16,0.2,3\n32,-1,2\n")
    given_rates = ss.collect(path, optimal_lr="eta", group_by=[])
    assert given_rates.observable == "given"
    assert rows_of(given_rates, "batch_size", "lr") == [[8, 0.1], [16, 0.2]]
    assert given_rates.runs["response"].isna().all()
    assert "repeating an earlier row: data row 3" in problems(given_rates)
    assert "'eta' is negative: data row 4" in problems(given_rates)


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("eta,batch_size,seed", ".1,8,0\n.2,8,0\n.4,8,0\n.1,4,0\n.2,4,1\n.4,4,2\n"),
        ("eta,batch_size", ".1,8\n.2,8\n2,8\n.1,4\n.2,4\n.4,4\n"),
    ],
)
def test_a_grid_of_learning_rates_is_not_taken_for_tuned_ones(tmp_path: Path, header: str, rows: str) -> None:
    path = write(tmp_path, f"{header}\n{rows}")
    with pytest.raises(SurgeError, match=r"batch size 8 has 3 learning rates; .* Use --loss-column"):
        ss.collect(path, optimal_lr="eta", group_by=())
    tuned = "".join(f"{line}\n" for line in rows.splitlines() if ",8" not in line)
    curves = ss.collect(write(tmp_path, f"{header}\n{tuned}"), optimal_lr="eta", group_by=())
    assert curves.runs["lr"].tolist() == [0.1, 0.2, 0.4]


def test_steps_to_a_goal_over_a_grid_of_learning_rates_keep_them(tmp_path: Path) -> None:
    rows = "".join(f"{lr},8,{100 * lr}\n" for lr in (1, 2, 4))
    for name in ("lr", "eta"):
        path = write(tmp_path, f"{name},batch_size,steps\n{rows}")
        curves = ss.collect(path, lr=name, steps_to_goal="steps")
        assert rows_of(curves, "lr", "response") == [[1, 100], [2, 200], [4, 400]]


def test_a_loss_that_is_not_positive_among_positive_ones_is_left_out(tmp_path: Path) -> None:
    good = "".join(f"{lr},8,{lr}\n" for lr in range(1, 9))
    curves = final_table(tmp_path, f"{good}9,8,0\n10,8,-1\n11,8,-inf\n")
    assert curves.runs["lr"].tolist() == [*range(1, 9), 11]
    assert "2 rows left out, 'loss' is not positive, unlike most others ('0', '-1'): data rows 9 and 10" in (
        problems(curves)
    )
    assert curves.runs["status"].tolist()[-1] == "diverged"
    losses = [9.0 - step for step in range(10)]
    points = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{curve_rows((1, losses))}"), step="step")
    assert points.points["loss"].tolist() == losses[:-1]
    assert "1 row left out, 'loss' is not positive" in problems(points)


def test_a_zero_of_a_run_noted_as_diverged_stays_a_diverged_run(tmp_path: Path) -> None:
    good = "".join(f"{lr},8,{lr},ok\n" for lr in range(1, 9))
    curves = final_table(tmp_path, f"{good}9,8,0,diverged\n", "lr,batch_size,loss,status")
    assert curves.runs["status"].tolist()[-1] == "diverged"


def test_losses_that_are_mostly_negative_are_losses(tmp_path: Path) -> None:
    curves = final_table(tmp_path, "".join(f"{lr},8,{2 - lr}\n" for lr in range(1, 9)))
    assert curves.runs["response"].tolist() == [2.0 - lr for lr in range(1, 9)]


@pytest.mark.parametrize(("sign", "told"), [(-1, True), (1, False)])
def test_gains_that_are_all_losses_are_asked_about(tmp_path: Path, sign: int, told: bool) -> None:
    path = write(tmp_path, "lr,batch_size,gain\n" + "".join(f"{lr},8,{sign * lr}\n" for lr in (1, 2, 4)))
    curves = ss.collect(path, gain="gain")
    assert ("no gain is positive: is larger better in this column?" in problems(curves)) is told


def test_learning_rates_beyond_belief_are_one_problem(tmp_path: Path) -> None:
    far = "1e287,8,1\n1e-293,8,1\n"
    curves = final_table(tmp_path, f"0.1,8,1\n{far}")
    assert len(curves.problems) == 1
    assert "2 rows left out, 'lr' is not a believable learning rate ('1e287', '1e-293')" in problems(curves)
    with pytest.raises(SurgeError, match="no row of the table can be used"):
        final_table(tmp_path, far)


def test_a_path_object_is_a_table_as_well(tmp_path: Path) -> None:
    path = Path(write(tmp_path, "lr,batch_size,loss\n0.1,8,1\n"))
    assert ss.collect(path).source == str(path)


def grid_table() -> pd.DataFrame:
    """A grid of two optimizers with columns of every kind that tables have."""
    index = pd.MultiIndex.from_product(
        [["adam", "sgd"], [8, 16, 32], [0.1, 0.2, 0.4], range(3)],
        names=["optimizer", "batch_size", "lr", "seed"],
    )
    table = index.to_frame(index=False)
    rng = np.random.default_rng(RNG_SEED)
    return table.assign(
        loss=rng.random(len(table)),
        total_steps=4096 // table["batch_size"],
        weight_decay=table["lr"] / 10,
        val_acc=rng.integers(0, 3, len(table)),
        exp_name=[f"exp {i}" for i in range(len(table))],
        run_id=table["seed"],
        throughput=rng.random(len(table)),
        width=64,
        spread=np.arange(len(table)) // 3,
    )


def test_groups_are_guessed_and_the_guess_is_told(tmp_path: Path) -> None:
    grid_table().to_csv(tmp_path / "grid.csv", index=False)
    curves = ss.collect(str(tmp_path / "grid.csv"))
    assert set(curves.runs) == {"run", "lr", "batch_size", "seed", "status", "response", "optimizer"}
    told = problems(curves)
    assert "grouped by 'optimizer'; columns left aside:" in told
    for why in (
        "'total_steps' (changes with the batch size)",
        "'weight_decay' (changes with the learning rate)",
        "'val_acc' (an output)",
        "'exp_name' (54 different values)",
        "'run_id' (an identifier)",
        "'spread'",
    ):
        assert why in told
    assert "width" not in told
    assert "--group-by" in told


def test_groups_that_are_named_are_taken_as_they_are(tmp_path: Path) -> None:
    grid_table().to_csv(tmp_path / "grid.csv", index=False)
    curves = ss.collect(str(tmp_path / "grid.csv"), group_by=["val_acc", "optimizer"])
    assert curves.problems == ()
    assert len(split_groups(curves)[0]) == 6
    assert len(split_groups(ss.collect(str(tmp_path / "grid.csv"), group_by=()))[0]) == 1


def test_a_group_column_named_like_one_of_ours_still_groups(tmp_path: Path) -> None:
    text = (
        "eta,batch_size,loss,lr,target_loss\n.1,8,1,a,3\n.1,8,2,b,3\n.1,8,1.5,a,4\n.2,8,1,a,3\n.1,16,1,b,4\n"
    )
    curves = ss.collect(write(tmp_path, text), lr="eta", group_by=["lr", "target_loss"])
    assert [group.key for group in split_groups(curves)[0]] == [
        {"lr (table)": "a", "target_loss (table)": 3},
        {"lr (table)": "a", "target_loss (table)": 4},
        {"lr (table)": "b", "target_loss (table)": 3},
        {"lr (table)": "b", "target_loss (table)": 4},
    ]


def test_any_column_name_can_group(tmp_path: Path) -> None:
    names = ["code", "key", "loss", "step", "empty", "response", "turn", "examples", "group 0", " code "]
    rows = [[lr, 8, 2.5, step, *range(len(names))] for lr in (1, 2) for step in (0, 1)]
    table = pd.DataFrame(rows, columns=["eta", "batch_size", "val", "at", *names])
    table.to_csv(tmp_path / "names.csv", index=False)
    for options in ({}, {"step": "at"}):
        curves = ss.collect(str(tmp_path / "names.csv"), lr="eta", loss="val", group_by=names, **options)
        shown = [
            "code",
            "key",
            "loss",
            "step",
            "empty",
            "response (table)",
            "turn",
            "examples",
            "group 0",
            "code (14)",
        ]
        assert rows_of(curves, *shown) == [list(range(len(names)))] * len(curves.runs)
        assert curves.runs["lr"].tolist() == ([1, 2] if options else [1, 1, 2, 2])


def test_formulas_and_markup_stay_text(tmp_path: Path) -> None:
    hostile = ["=cmd()", "<script>", "__import__('os')", "../../etc"]
    rows = "".join(f"{lr},8,{lr},{value}\n" for value in hostile for lr in (1, 2))
    curves = ss.collect(write(tmp_path, f"lr,batch_size,loss,note it\n{rows}"), group_by=["note it"])
    assert list(dict.fromkeys(curves.runs["note it"])) == hostile


def curve_rows(*series: tuple[float, list[float]], seed: int | None = None) -> str:
    tail = "" if seed is None else f",{seed}"
    return "".join(
        f"{lr},8,{step},{loss}{tail}\n" for lr, losses in series for step, loss in enumerate(losses)
    )


STEP_HEADER = "lr,batch_size,step,loss"


def test_a_step_column_makes_loss_curves(tmp_path: Path) -> None:
    rows = curve_rows((0.1, [3, 2]), (0.2, [3, float("nan")]))
    curves = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{rows}"), step="step")
    assert curves.observable == "loss_curve"
    assert curves.runs["status"].tolist() == ["finished", "diverged"]
    assert curves.points[["run", "step", "examples"]].to_numpy().tolist() == [
        ["run 1", 0, 0.0], ["run 1", 1, 8.0], ["run 2", 0, 0.0], ["run 2", 1, 8.0]
    ]  # fmt: skip
    assert curves.problems == ()


def test_runs_of_a_curve_table_are_told_apart_by_name_seed_or_order(tmp_path: Path) -> None:
    first, second = curve_rows((0.1, [3, 2])), curve_rows((0.1, [3, 2.5]))
    by_order = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{first}{second}"), step="step")
    assert by_order.points["loss"].tolist() == [3, 2, 3, 2.5]
    assert "2 runs that share learning rate and batch size with others were taken as replicates" in problems(
        by_order
    )
    seeded = curve_rows((0.1, [3, 2]), seed=0) + curve_rows((0.1, [3, 2.5]), seed=1)
    by_seed = ss.collect(write(tmp_path, f"{STEP_HEADER},seed\n{seeded}"), step="step")
    assert by_seed.points["loss"].tolist() == [3, 2, 3, 2.5]
    assert by_seed.problems == ()
    named = "".join(f"{line},{'ba'[i // 2]}\n" for i, line in enumerate((first + second).splitlines()))
    by_name = ss.collect(write(tmp_path, f"{STEP_HEADER},job\n{named}"), step="step", run="job")
    assert by_name.runs["run"].tolist() == ["a", "b"]
    assert by_name.points["loss"].tolist() == [3, 2.5, 3, 2]


def test_a_doubled_curve_table_is_the_same_runs(tmp_path: Path) -> None:
    rows = curve_rows((0.1, [3, 2]), (0.2, [3, 1]))
    once = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{rows}"), step="step")
    twice = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{rows}{rows}"), step="step")
    pd.testing.assert_frame_equal(once.points, twice.points)
    pd.testing.assert_frame_equal(once.runs, twice.runs)
    assert "4 rows left out, repeating an earlier run" in problems(twice)


def test_a_repeated_step_of_a_resumed_run_counts_once(tmp_path: Path) -> None:
    rows = "1,8,0,3\n1,8,1,2\n1,8,1,2.5\n1,8,2,1\n"
    curves = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{rows}"), step="step")
    assert curves.points["loss"].tolist() == [3, 2.5, 1]
    assert "1 row left out, a later row has the same run and step" in problems(curves)


def test_rows_without_a_loss_between_others_were_not_measured(tmp_path: Path) -> None:
    rows = "1,8,0,\n1,8,1,2\n1,8,2,\n1,8,3,1\n1,8,4,\n"
    curves = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{rows}"), step="step")
    assert (curves.points["step"].tolist(), curves.runs["status"].tolist()) == ([1, 3], ["finished"])
    assert "3 rows left out, no loss was measured there" in problems(curves)


def test_rows_without_a_loss_at_the_end_diverged(tmp_path: Path) -> None:
    rows = "1,8,0,3\n1,8,1,\n1,8,2,\n2,8,0,3\n2,8,1,2\n2,8,2,1\n"
    curves = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{rows}"), step="step")
    assert curves.runs["status"].tolist() == ["diverged", "finished"]
    assert "2 rows with no loss at the end of their runs" in problems(curves)


def test_bad_steps_are_counted_by_kind(tmp_path: Path) -> None:
    rows = "".join(f".1,8,{step},2\n" for step in ("0", "1", "1.5", "-1", "a", "", "inf", "1e30", "3.0"))
    curves = ss.collect(write(tmp_path, f"{STEP_HEADER}\n{rows}"), step="step")
    assert curves.points["step"].tolist() == [0, 1, 3]
    assert "'step' is not a whole number ('1.5', 'inf', '1e30'): data rows 3, 7 and 8" in problems(curves)
    assert "'step' is negative: data row 4" in problems(curves)
    assert "'step' is not a number ('a'): data row 5" in problems(curves)
    assert "'step' is missing or NaN: data row 6" in problems(curves)


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"", "t.csv", "is empty"),
        (b"\n\n", "t.csv", "is empty"),
        (b"lr,batch_size,loss\n", "t.csv", "a header and no rows"),
        (b"\x00\x01\x02\x03,", "t.csv", "zero bytes"),
        ("lr,größe\n1,2\n".encode("latin-1"), "t.csv", "not UTF-8"),
        ("lr,b\n1,2\n".encode("utf-16"), "t.csv", "zero bytes"),
        (b"lr,batch_size,loss\n1,8,1\n1,8,1,9\n", "t.csv", "Expected 3 fields in line 3, saw 4"),
        (b'lr,batch_size,loss\n1,"8,1\n', "t.csv", "EOF inside string"),
        (b"PAR1 and no more", "t.parquet", "no readable Parquet"),
        (b"lr,batch_size,loss\n1,8,1\n", "t.parquet", "no readable Parquet"),
        (gzip.compress(b"lr,batch_size,loss\n1,8,1\n", mtime=0)[:20], "t.csv.gz", "cannot be read"),
        (b"lr,batch_size,loss\nx,8,1\n", "t.csv", "no row of the table can be used: 1 row left out, 'lr' is not"),
        (b"lr,lr,batch_size,loss\n1,1,8,1\n", "t.csv", "'lr' stands 2 times"),
        (b"learning rate,batch_size,loss\n1,8,1\n", "t.csv", "--lr-column 'lr'. Valid: batch_size, learning rate, l"),
        (b"lr,batch_size,loss,train/loss\n1,8,1,1\n", "t.csv", "several losses: 'loss', 'train/loss'"),
        (b"lr,batch_size,acc\n1,8,1\n", "t.csv", "--loss-column 'loss'. Valid: acc, batch_size, lr"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_one_sentence_and_the_next_step(
    tmp_path: Path, content: bytes, name: str, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SurgeError) as caught:
        ss.collect(str(tmp_path / name))
    assert told in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SurgeError, match=r"there is no file .*none\.csv"):
        ss.collect(str(tmp_path / "none.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SurgeError, match="is a folder"):
        ss.collect(str(tmp_path / "folder.csv"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"step": "s", "gain": "loss"}, "--step-column and --gain-column at once"),
        ({"gain": "s", "loss": "loss"}, "--loss-column does not go with --gain-column"),
        ({"optimal_lr": "s", "lr": "eta"}, "--lr-column and --optimal-lr-column"),
        ({"run": "s"}, "--run-column is for tables with many rows a run"),
        ({"lr": "batch_size"}, "'batch_size' cannot be both the learning rate and the batch size"),
        ({"group_by": ["lr"]}, "--group-by names 'lr', which is the learning rate"),
        ({"group_by": "optimiser"}, "--group-by 'optimiser'. Valid:"),
        ({"group_by": ["s"]}, "every row is a group of its own when grouped by 's'"),
        ({"step": "s", "lr": "loss"}, "cannot be both"),
        ({"batch_unit": "apples"}, "unknown batch unit 'apples'"),
        ({"tracker": "mlflow"}, "is a table"),
        ({"uri": "sqlite:///mlflow.db"}, "is a table"),
    ],
)
def test_options_that_contradict_each_other_are_told(
    tmp_path: Path, options: dict[str, object], told: str
) -> None:
    path = write(tmp_path, "lr,batch_size,loss,s\n1,8,1,0\n2,8,2,1\n")
    with pytest.raises(SurgeError) as caught:
        ss.collect(path, **options)  # type: ignore[arg-type]
    assert told in str(caught.value)


def test_a_learning_rate_that_changes_within_a_run_is_no_sweep(tmp_path: Path) -> None:
    rows = "a,1,8,0,3\na,2,8,1,2\na,3,8,2,1\n"
    with pytest.raises(SurgeError, match="'lr' changes within the run 'a'"):
        ss.collect(write(tmp_path, f"run,{STEP_HEADER}\n{rows}"), step="step")
    without_names = "".join(line.partition(",")[2] + "\n" for line in rows.splitlines())
    with pytest.raises(SurgeError, match="every row would be a run of its own"):
        ss.collect(write(tmp_path, f"{STEP_HEADER}\n{without_names}"), step="step")


def test_options_of_tables_do_not_go_with_an_experiment() -> None:
    with pytest.raises(SurgeError, match="no table, and --gain-column, --group-by only go with one"):
        ss.collect("digits", group_by=["optimizer"], gain="gain", step="step")


def test_a_table_is_called_by_its_stem(tmp_path: Path) -> None:
    assert project_name(write(tmp_path, "x", "a.b.csv")) == "a.b"
    assert project_name(write(tmp_path, "x", "noted")) == "noted"
    assert project_name("some/experiment") == "some/experiment"


GOOD_CELL = st.sampled_from(["1", "2", "8", "16", "16.0"])
BAD_CELL = st.one_of(
    st.sampled_from(["", "nan", "inf", "-1", "0", "0.1", "1e-3", "1e400", "abc", "1,000", "=1+1", "None"]),
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=5),
)
CELL = st.integers(0, 9).flatmap(lambda number: BAD_CELL if number > 7 else GOOD_CELL)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(*[CELL] * 5), min_size=1, max_size=8),
    options=st.sampled_from([{}, {"step": "x"}, {"steps_to_goal": "x"}, {"gain": "x"}, {"optimal_lr": "x"}]),
)
def test_any_table_gives_curves_or_a_sentence(
    tmp_path: Path, rows: list[tuple[str, ...]], options: dict[str, str]
) -> None:
    path = tmp_path / "any.csv"
    names = ["lr", "batch_size", "seed", "x", "loss"]
    pd.DataFrame(rows, columns=names).to_csv(path, index=False, encoding="utf-8", errors="replace")
    try:
        curves = ss.collect(str(path), **options)  # type: ignore[arg-type]
    except SurgeError:
        return
    runs = curves.runs
    assert (runs["batch_size"] > 0).all()
    known = runs["lr"].dropna() if curves.observable == "steps" else runs["lr"]
    assert ((known > 0) & np.isfinite(known)).all()
    assert runs["status"].isin(["finished", "diverged", "capped"]).all()
    if curves.observable not in ("loss_curve", "given"):
        assert (runs["response"].isna() == (runs["status"] != "finished")).all()
    assert len(runs) + len(curves.problems) >= 1
