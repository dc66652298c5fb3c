"""Tables of experiments say what the runs' predictions say, keep the paper's order, and are sound LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import TARGETS, answer, make_run, write_json

from rrnn.ablation import write_ablation
from rrnn.experiments import EXPERIMENTS
from rrnn.paper import PAPER_ROWS, PAPER_TABLES, paper_table
from rrnn.results import CLASSIFICATION, REGRESSION, Run, Score, read_run
from rrnn.run import RunFolder
from rrnn.statistics import Estimate
from rrnn.tables import (
    Experiment,
    Table,
    averages_table,
    calibration_table,
    differences_table,
    emotions_table,
    group_runs,
    show,
    show_spread,
    to_csv,
    to_latex,
    variants_table,
)

SURE = {"anger": {"anger": 0.9, "sadness": 0.1}, "sadness": {"anger": 0.2, "sadness": 0.8}}


def run_of(folder: Path, experiment: str, right: dict[str, bool], **settings: Any) -> Run:
    """A run on clips of true class anger, named after their speaker and a number, that answers right or not."""
    answers = [answer(clip, clip[0], "anger", SURE["anger" if good else "sadness"]) for clip, good in right.items()]
    answers.append(answer("v1", "v", "anger", SURE["anger"], split="valid"))
    return read_run(make_run(folder, experiment=experiment, classes=("anger", "sadness"), answers=answers, **settings))


def set_summary(folder: Path, **changes: Any) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", {**summary, **changes})


@pytest.fixture
def by_hand(tmp_path: Path) -> list[Experiment]:
    """Experiment "weak" is right on 1 and on 4 of 6 clips with its two seeds, each of two folds; "strong", of one seed, on
    all."""
    clips = {0: ("a1", "a2"), 1: ("b1", "c1", "c2", "c3")}
    right = {0: ("a1",), 1: ("a1", "a2", "b1", "c1")}
    runs = [
        run_of(tmp_path / f"weak-{s}-{f}", "weak", {c: c in right[s] for c in clips[f]}, seed=s, fold=f, skill=0.3)
        for s in (0, 1)
        for f in (0, 1)
    ]
    runs += [run_of(tmp_path / f"strong-{f}", "strong", dict.fromkeys(clips[f], True), fold=f, skill=0.7) for f in (0, 1)]
    experiments, notes = group_runs(runs)
    assert not notes
    return experiments


def test_runs_of_one_configuration_are_one_experiment(by_hand: list[Experiment]) -> None:
    assert [(e.name, e.label, len(e.runs), e.n_folds, e.pooled.seeds) for e in by_hand] == [
        ("weak", "weak", 4, 2, [0, 1]),
        ("strong", "strong", 2, 2, [0]),
    ]


def test_variants_by_hand(by_hand: list[Experiment], tmp_path: Path) -> None:
    set_summary(tmp_path / "weak-0-0", naive={"accuracy": 0.5}, statistics={"accuracy": 1.0})
    weak = [read_run(r.url) for r in by_hand[0].runs]
    table = variants_table([*group_runs(weak)[0], by_hand[1]])
    first = dict(zip(table.columns, table.rows[0], strict=True))
    accuracy = first["Accuracy"]
    assert isinstance(accuracy, Estimate)
    assert accuracy.value == pytest.approx((1 / 6 + 4 / 6) / 2)
    assert accuracy.sd_seeds == pytest.approx((4 / 6 - 1 / 6) / math.sqrt(2))
    # fold 0: mean of 1/2 and 2/2; fold 1: mean of 0 and 2/4
    assert accuracy.sd_folds == pytest.approx((3 / 4 - 1 / 4) / math.sqrt(2))
    # runs of 2, 4, 2 and 4 clips; the first has a naive accuracy of 1/2, and so have the others (of two classes)
    assert first["Naive: Accuracy"] == pytest.approx(1 / 2)
    assert first["Linear model of averages: Accuracy"] is None, "not every run has one"
    together = first["Ensemble of seeds: Accuracy"]
    assert isinstance(together, Score)
    # the mean of 0.9 and 0.2 for the true class is right: only where both seeds are wrong, it is wrong
    assert together.value == pytest.approx(4 / 6)
    assert (first["Seeds"], first["Folds"], first["Test clips"], first["Speakers"]) == (2, 2, 6, 3)
    assert table.rows[1][list(table.columns).index("Ensemble of seeds: Accuracy")] is None, "of one seed there is none"


def test_baselines_weigh_folds_by_their_clips(by_hand: list[Experiment], tmp_path: Path) -> None:
    for fold, accuracy in ((0, 0.9), (1, 0.3)):
        for seed in (0, 1):
            set_summary(tmp_path / f"weak-{seed}-{fold}", statistics={"accuracy": accuracy})
    [weak], _ = group_runs([read_run(r.url) for r in by_hand[0].runs])
    assert weak.baseline("statistics", "accuracy") == pytest.approx((2 * 0.9 + 4 * 0.3) / 6)


def test_differences_are_to_the_best_on_validation(by_hand: list[Experiment]) -> None:
    table = differences_table(by_hand, CLASSIFICATION[0])
    assert table is not None
    [row] = table.rows
    found = dict(zip(table.columns, row, strict=True))
    assert (found["Experiment"], found["Minus"]) == ("weak", "strong")
    difference = found["Accuracy, percentage points"]
    assert isinstance(difference, Score)
    assert difference.value == pytest.approx(5 / 12 - 1)
    # speakers a, b, c: -1/4, -1/2, -5/6; all of one sign, so p is 2 / 2^3, which is too few to tell
    assert found["p"] == found["p, corrected"] == pytest.approx(1 / 4)
    assert any("With 3 speakers, p can't be below 0.25" in note for note in table.notes)
    assert differences_table(by_hand[:1], CLASSIFICATION[0]) is None


def test_differences_to_the_linear_model_are_clip_by_clip(tmp_path: Path, by_hand: list[Experiment]) -> None:
    assert averages_table(by_hand, CLASSIFICATION[0]) is None, "no run has kept what the linear model answered"
    # Two seeds, right on 1 and on 2 of speaker a's two clips, and on 0 and 2 of b's four; the linear model on 1 of a's alone.
    right = [("a1",), ("a1", "a2", "b1", "b2")]
    runs = []
    for seed, of in enumerate(right):
        answers = [
            answer(c, c[0], "anger", SURE["anger" if c in of else "sadness"])
            | {f"averages_{name}": p for name, p in SURE["anger" if c == "a2" else "sadness"].items()}
            for c in ("a1", "a2", "b1", "b2", "b3", "b4")
        ]
        closed = answer("v1", "v", "anger", SURE["anger"], split="valid") | {"averages_anger": None, "averages_sadness": None}
        classes = ("anger", "sadness")
        runs.append(read_run(make_run(tmp_path / str(seed), classes=classes, answers=[closed, *answers], seed=seed)))
    table = averages_table([*group_runs(runs)[0], *by_hand], CLASSIFICATION[0])
    assert table is not None
    mean, together = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert mean["Experiment"] == "crema-d-rrnn"
    assert together["Experiment"] == "crema-d-rrnn, ensemble of 2"
    assert mean["Accuracy, percentage points"].value == pytest.approx((1 / 6 + 4 / 6) / 2 - 1 / 6)
    # the mean of 0.9 and 0.2, or 0.9 and 0.9, for the true class is right: a1, a2, b1 and b2
    assert together["Accuracy, percentage points"].value == pytest.approx(4 / 6 - 1 / 6)
    assert together["p"] == pytest.approx(1 / 2), "two speakers, both better: 2 / 2^2"


def test_corrected_p_is_of_the_whole_family(tmp_path: Path) -> None:
    skills = {"a": 0.9, "b": 0.5, "c": 0.3}
    runs = [make_run(tmp_path / n, experiment=n, skill=s, speakers=12, clips=96) for n, s in skills.items()]
    table = differences_table(group_runs([read_run(r) for r in runs])[0], CLASSIFICATION[0])
    assert table is not None
    p, corrected = (np.array([row[list(table.columns).index(c)] for row in table.rows]) for c in ("p", "p, corrected"))
    assert len(p) == 2
    assert corrected.min() == pytest.approx(2 * p.min())


def test_what_differs_names_experiments_of_one_name(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "a", experiment="rrnn")),
        read_run(make_run(tmp_path / "b", experiment="rrnn", model={"hops": 1})),
        read_run(make_run(tmp_path / "c", experiment="rrnn", model={"hops": 1}, seed=1)),
        read_run(make_run(tmp_path / "d", experiment="rrnn", corpus="ravdess")),
        read_run(make_run(tmp_path / "e", experiment="other")),
    ]
    experiments, notes = group_runs(runs)
    assert not notes
    assert {e.label: len(e.runs) for e in experiments} == {
        "rrnn": 1,
        "rrnn (hops=1)": 2,
        "rrnn (corpus=ravdess)": 1,
        "other": 1,
    }


def test_experiments_without_a_name_are_called_after_their_folder(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"x/{s}", experiment=None, seed=s) for s in (0, 1)]
    runs += [make_run(tmp_path / f"y/{h}", experiment=None, model={"hops": h}) for h in (1, 2)]
    experiments, _ = group_runs([read_run(r) for r in runs])
    assert [(e.label, len(e.runs)) for e in experiments] == [("x", 2), ("1", 1), ("2", 1)]


def test_runs_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / n, "rrnn", {"a1": True}, seed=s, fold=f) for n, s, f in (("x", 0, 0), ("y", 0, 1))]
    experiments, [note] = group_runs([*runs, run_of(tmp_path / "z", "other", {"a1": True})])
    assert [e.name for e in experiments] == ["other"]
    assert note.startswith("rrnn is left out of what is said of experiments: clip 'a1' was tested twice with seed 0, in fold 0")
    assert str(tmp_path / "x") in note
    runs = [run_of(tmp_path / f"{s}", "rrnn", clips, seed=s) for s, clips in ((3, {"a1": True, "b1": True}), (4, {"a1": True}))]
    [experiment], [note] = group_runs(runs)
    assert experiment.pooled.seeds == [3]
    assert "left out of the figures over runs, since other seeds tested more clips: seed 4" in note


def test_calibration_is_fitted_on_validation_clips(tmp_path: Path) -> None:
    """Of the validation clips, 7 of 10 are right where the model says 9 of 10: (9/1)^(1/T) must be 7/3."""
    answers = [answer(f"t{i}", f"s{i % 4}", "anger", SURE["anger"]) for i in range(8)]
    answers += [answer(f"v{i}", "v", "sadness" if i < 3 else "anger", SURE["anger"], split="valid") for i in range(10)]
    [e], _ = group_runs([read_run(make_run(tmp_path / "run", classes=("anger", "sadness"), answers=answers))])
    table = calibration_table([e])
    found = dict(zip(table.columns, table.rows[0], strict=True))
    assert found["Temperature, mean"] == pytest.approx(math.log(9) / math.log(7 / 3), rel=1e-4)
    # on the test clips it is always right: 0.9 becomes 0.7
    assert found["Calibration error"] == pytest.approx(0.1)
    assert found["Calibration error, scaled"] == pytest.approx(0.3, rel=1e-4)
    assert found["Brier score"] == pytest.approx(2 * 0.01)
    assert found["Cross-entropy, scaled"] == pytest.approx(-math.log(0.7), rel=1e-4)


@pytest.fixture(scope="module")
def mosei(tmp_path_factory: pytest.TempPathFactory) -> list[Experiment]:
    folder = tmp_path_factory.mktemp("mosei")
    runs = []
    for name in ("mosei_gca", "mosei_gating"):
        for seed in (0, 1):
            run = make_run(
                folder / f"{name}-{seed}", experiment=name, task="regression", classes=TARGETS, seed=seed, speakers=6
            )
            if name == "mosei_gca":
                rows = [
                    {"kind": kind, "modality": "vision", "level": level, "repeat": i, "mse": mse + seed, "mae": 9.0}
                    | {"weighted_accuracy": 0.5}
                    for kind, level, i, mse in (("noise", 0.0, 0, 1.0), ("noise", 1.0, 0, 2.0), ("noise", 1.0, 1, 4.0))
                ]
                rows.append({**rows[0], "kind": "absent", "level": math.nan})
                write_ablation(RunFolder(str(run)), rows, {"model_id": "rrnn-4be1f07c"})
            runs.append(read_run(run))
    return group_runs(runs)[0]


def test_the_papers_table_3_with_ours(mosei: list[Experiment]) -> None:
    table, matched = paper_table(PAPER_TABLES[2], mosei)
    assert matched == 3, "GCA, with noise and without, and gating, which was not tested with noise"
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [r["Attention/Fusion"] for r in rows] == ["Nil"] * 3 + ["Early fusion", "Late fusion"] + ["GCA"] * 2 + [
        "GCA + Gating"
    ] * 2
    # the paper's own words: 0.4696 to 0.5034, and 0.4691 against 0.4742
    assert [(r["MSE"], r["Corruption"]) for r in rows[5:]] == [
        (0.4696, "Nil"),
        (0.5034, "Vision"),
        (0.4691, "Nil"),
        (0.4742, "Vision"),
    ]
    assert rows[5]["Ours: MSE"] == mosei[0].estimates["mse"]
    noisy = rows[6]["Ours: MSE"]
    assert isinstance(noisy, Estimate)
    # at level 1: the mean of two draws, 3 with seed 0 and 4 with seed 1
    assert (noisy.value, noisy.sd_seeds) == (pytest.approx(3.5), pytest.approx(1 / math.sqrt(2)))
    assert math.isnan(noisy.low)
    assert rows[8]["Ours"] is None
    assert rows[0]["Ours: WA"] is None


def test_the_papers_rows_are_all_in_its_tables() -> None:
    assert [key for t in PAPER_TABLES for key in t.rows] == list(PAPER_ROWS)
    for table in PAPER_TABLES:
        for key in table.rows:
            assert len(PAPER_ROWS[key].cells) == len(table.columns)
            assert PAPER_ROWS[key].figures.keys() == table.measures.keys()
    ours = {name for row in PAPER_ROWS.values() for name in row.experiments}
    assert ours <= EXPERIMENTS.keys()
    assert {name for name in EXPERIMENTS if name.startswith(("crema_d_", "ravdess_", "mosei_"))} == ours


def test_a_row_of_several_experiments_has_a_line_for_each(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(h), experiment="crema_d_gca", corpus="crema_d", model={"hops": h}) for h in (1, 3)]
    table, matched = paper_table(PAPER_TABLES[0], group_runs([read_run(r) for r in runs])[0])
    assert matched == 2
    assert [r[list(table.columns).index("Ours")] for r in table.rows[-2:]] == [
        "crema_d_gca (hops=1)",
        "crema_d_gca (hops=3)",
    ]
    assert [r[2] for r in table.rows] == [0.409, 0.415, 0.525, 0.582, 0.636, 0.65, 0.65]
    assert "The paper's caption says 8 emotions; CREMA-D has 6." in table.notes


def test_emotions_are_means_over_seeds(mosei: list[Experiment]) -> None:
    table = emotions_table(mosei[:1])
    assert [row[1] for row in table.rows] == list(TARGETS)
    for measure, c in (("MAE", 2), ("MSE", 3)):
        total = sum(row[c] for row in table.rows)  # type: ignore[misc]
        assert total == pytest.approx(mosei[0].estimates[measure.lower()].value), "errors are summed over emotions"
    assert all(-1 <= float(row[-1]) <= 1 for row in table.rows)  # type: ignore[arg-type]


HOSTILE = "50% & $x_1$ #{~^} \\input{x}\n<b>|±–"


def every_table(experiments: list[Experiment]) -> list[Table]:
    measures = REGRESSION if experiments[0].pooled.regression else CLASSIFICATION
    differences = differences_table(experiments, measures[0])
    assert differences is not None
    last = emotions_table if experiments[0].pooled.regression else calibration_table
    return [
        variants_table(experiments),
        differences,
        last(experiments),
        *(paper_table(t, experiments)[0] for t in PAPER_TABLES),
    ]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[Experiment]:
    folder = tmp_path_factory.mktemp("hostile")
    runs = [make_run(folder / str(i), experiment=f"{HOSTILE}{i}", corpus=HOSTILE, speakers=6) for i in range(2)]
    return group_runs([read_run(r) for r in runs])[0]


@pytest.mark.parametrize("which", ["mosei", "hostile"])
def test_latex_is_sound(which: str, request: pytest.FixtureRequest) -> None:
    for table in every_table(request.getfixturevalue(which)):
        text = to_latex(table)
        match = re.search(r"\\begin\{tabular\}\{([lr]+)\}\n\\toprule\n(.*)\\bottomrule\n\\end\{tabular\}", text, re.DOTALL)
        assert match
        spec, body = match.groups()
        assert len(spec) == len(table.columns)
        lines = [line for line in body.splitlines() if line != r"\midrule"]
        assert len(lines) == 1 + len(table.rows)
        for line in lines:
            assert line.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(spec) - 1, line
        bare = re.sub(r"\\(?:[{}$&#_%,\\]|[a-zA-Z]+)", "", text)  # without escapes and commands
        assert bare.count("{") == bare.count("}")
        assert not set("#~^%_\\<>|±–\u202f") & set(bare), bare
        assert bare.count("$") % 2 == 0
        assert r"\input" not in text


def test_latex_of_a_small_table() -> None:
    columns = {"Model": "text", "Accuracy": "percent", "p": "number:4"}
    rows: list[list[Any]] = [["a_b", Estimate(0.5894, 0.53, 0.68, 0.0281, 0.04), 0.00012], ["c", None, math.nan]]
    assert (
        to_latex(Table("small one", "50 % & more", columns, rows, notes=("n_1",)))
        == r"""\begin{table}
\centering
\caption{50 \% \& more}
\label{tab:small-one}
\begin{tabular}{lrr}
\toprule
Model & Accuracy (\%) & p \\
\midrule
a\_b & 58.9 $\pm$ 2.8 (53.0--68.0) & 0.0001 \\
c & -- & undefined \\
\bottomrule
\end{tabular}
\par\smallskip{\footnotesize n\_1}
\end{table}
"""
    )


@pytest.mark.parametrize("which", ["mosei", "hostile"])
def test_csv_has_unrounded_values(which: str, request: pytest.FixtureRequest) -> None:
    for table in every_table(request.getfixturevalue(which)):
        header, *lines = csv.reader(io.StringIO(to_csv(table)))
        assert len(lines) == len(table.rows)
        assert len(set(header)) == len(header)
        for line, row in zip(lines, table.rows, strict=True):
            found = dict(zip(header, line, strict=True))
            for column, cell in zip(table.columns, row, strict=True):
                for name, value in {"": cell, **(cell._asdict() if isinstance(cell, Score | Estimate) else {})}.items():
                    text = found[column if name in ("", "value") else f"{column}_{name}"]
                    if isinstance(value, float):
                        assert float(text) == value or (math.isnan(value) and text == "nan")
                    elif not isinstance(value, tuple):
                        assert text == ("" if value is None else str(value))


def test_values_are_shown_as_their_column_says() -> None:
    assert show(0.4125, "percent:2") == "41.25\u202f%"
    assert show(-0.0312, "points") == "-3.1"
    assert show(0.0312, "points") == "+3.1"
    assert show(0.5, "signed") == "+0.500"
    assert show(0.46957, "number:4") == "0.4696"
    assert show(Estimate(0.5, 0.4, 0.6, 0.1, math.nan), "percent") == "50.0\u202f%"
    assert show_spread(Estimate(0.5, 0.4, 0.6, 0.1, math.nan), "percent") == ["± 10.0 seeds"]
    assert show_spread(Score(0.5, 0.4, 0.6, ""), "percent") == []
