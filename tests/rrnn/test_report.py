"""The report says what the runs' predictions say, runs nothing, loads nothing, and refuses what is not a finished run."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import TARGETS, answer, intensities, make_run, write_json

from rrnn import explorer
from rrnn.figures import LIGHT, draw_ablation
from rrnn.report import notes_on, write_report
from rrnn.results import CLASSIFICATION, FILES, Curve, find_runs, read_run, tell_apart

# The test clips of the case worked by hand: anger 2 of 2, sadness 1 of 2; speaker a all right, speaker b half.
BY_HAND = [
    answer("c1", "a", "anger", {"anger": 0.8, "sadness": 0.2}),
    answer("c2", "a", "sadness", {"anger": 0.3, "sadness": 0.7}),
    answer("c3", "b", "anger", {"anger": 0.6, "sadness": 0.4}),
    answer("c4", "b", "sadness", {"anger": 0.9, "sadness": 0.1}),
    answer("v1", "v", "sadness", {"anger": 0.9, "sadness": 0.1}, split="valid"),  # must not count
]


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hand")
    return write_report(
        [make_run(folder / "run", corpus="made", classes=("anger", "sadness"), answers=BY_HAND, examples=1)], folder / "out"
    ).parent


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three modalities, frames, unusable clips."""
    folder = tmp_path_factory.mktemp("full")
    bad: list[tuple[str, str, str, str | None]] = [(f"x{i:02d}", "face", "absent", "no video track") for i in range(30)]
    bad += [("y", "acoustic", "error", "the file is empty"), ("z", "acoustic", "ok", "a damaged packet")]
    return write_report(
        [make_run(folder / "run", clips=60, unusable=bad, examples=1)], folder / "out", thumbnails=red_frames
    ).parent


def red_frames(row: dict[str, Any], times: Sequence[float]) -> list[np.ndarray | None]:
    assert row["clip_id"]
    assert list(times) == sorted(times)
    return [None, *(np.full((90, 120, 3), (255, 0, 0), np.uint8) for _ in times[1:])]


def test_scores_by_hand(by_hand: Path) -> None:
    [row] = read_csv(by_hand / "tables/scores.csv")
    assert float(row["Accuracy"]) == pytest.approx(3 / 4)
    assert float(row["UAR"]) == pytest.approx((1 + 1 / 2) / 2)
    assert float(row["Cross-entropy"]) == pytest.approx(-np.log([0.8, 0.7, 0.6, 0.1]).mean())
    # speakers are drawn whole: aa gives 1, ab gives 3/4, bb gives 1/2
    assert (float(row["Accuracy_low"]), float(row["Accuracy_high"])) == (0.5, 1.0)
    assert float(row["Naive accuracy"]) == pytest.approx(1 / 2)
    assert (row["Test clips"], row["Speakers"]) == ("4", "2")

    page = Page(by_hand / "report.html").words
    assert "75.0 % of them (95 % interval 50.0 to 100.0)" in page
    assert "tested on 4 clips of 2 speakers whom it had not met in training" in page
    assert "is right for 50.0 %, and the interval does not rule that out" in page
    assert "with 2 test speakers, the intervals are themselves rough" in page


def test_what_raters_made_of_the_clips_stands_beside(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    both = {"accuracy": 0.636, "majority_accuracy": 0.722, "responses": 120, "clips": 24}
    write_json(run / "summary.json", {**summary, "human": {"both": both}})
    page = Page(write_report([run], tmp_path / "out"))
    assert "audio and vision 63.6 % 72.2 % 120 24" in page.words.replace("\xa0", " ")
    assert "Where labels were made of the same votes" in page.words
    (row,) = read_csv(tmp_path / "out/tables/human.csv")
    assert float(row["Right by majority"]) == 0.722


def test_recall_and_speakers_by_hand(by_hand: Path) -> None:
    recall = read_csv(by_hand / "tables/recall-run.csv")
    assert [(r["Emotion"], r["Clips"], float(r["Recall"]), r["Most often taken for"]) for r in recall] == [
        ("anger", "2", 1.0, ""),
        ("sadness", "2", 0.5, "anger (1)"),
    ]
    speakers = read_csv(by_hand / "tables/speakers-run.csv")
    assert [(s["speaker"], float(s["accuracy"]), s["clips"]) for s in speakers] == [("a", 1.0, "2"), ("b", 0.5, "2")]


def test_page_stands_alone(full: Path) -> None:
    page = Page(full / "report.html")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form", "a"}
    scripts = re.findall(r"<script>(.*?)</script>", page.source, re.S)
    assert scripts == [Path(explorer.__file__).with_name("explorer.js").read_text(encoding="utf-8")]
    assert sum(tag == "script" for tag, _ in page.tags) == 2, "and the data that it reads"
    addresses = [v for _, a in page.tags for k, v in a.items() if k in ("src", "srcset", "href", "data", "poster", "action")]
    assert len(addresses) == 2 * sum(tag == "img" for tag, _ in page.tags) > 0
    assert all(address and re.match(r"data:image/(png|webp);base64,", address) for address in addresses)
    assert all(u.startswith("data:font/woff;base64,") for u in re.findall(r'url\("(.{30})', page.source))
    assert "@import" not in page.source
    assert not any(k.startswith("on") for _, a in page.tags for k in a), "no event handlers"
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert (full / "report.html").stat().st_size < 6_000_000


def test_every_figure_and_table_is_a_file(full: Path) -> None:
    figures = {p.stem: p for p in (full / "figures").iterdir()}
    assert set(figures) == {"confusion-run", "speakers-run", "training-run", "attention-run-1"}
    n_images = sum(tag == "img" for tag, _ in Page(full / "report.html").tags)
    assert n_images == len(figures)
    for path in figures.values():
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20, "not blank"
    tables = {p.stem for p in (full / "tables").iterdir()}
    assert tables >= {"scores", "recall-run", "speakers-run", "streams-run", "reasons-run", "unusable-run", "settings-run"}
    assert all(read_csv(full / f"tables/{t}.csv") for t in tables)


def test_unusable_clips_are_counted_and_named(full: Path) -> None:
    streams = {r["Stream"]: r for r in read_csv(full / "tables/streams-run.csv")}
    assert (streams["face"]["Absent"], streams["face"]["Error"], streams["acoustic"]["Error"]) == ("30", "0", "1")
    reasons = [(r["Stream"], r["Status"], r["Reason"], r["Clips"]) for r in read_csv(full / "tables/reasons-run.csv")]
    assert reasons[0] == ("face", "absent", "no video track", "30")
    assert ("acoustic", "usable, with a note", "a damaged packet", "1") in reasons
    page = Page(full / "report.html").words
    assert "x19" in page
    assert "x20" not in page, "the page names 20 clips"
    assert "20 of 32 rows" in page
    assert len(read_csv(full / "tables/unusable-run.csv")) == 32


def test_attention_shows_frames_where_there_are_some(full: Path, by_hand: Path) -> None:
    def red_pixels(path: Path) -> int:
        with Image.open(path) as image:
            return int((np.asarray(image.convert("RGB")) == (255, 0, 0)).all(axis=-1).sum())

    assert red_pixels(full / "figures/attention-run-1.png") > 7 * 1000
    assert red_pixels(by_hand / "figures/attention-run-1.png") == 0


def test_nothing_is_cut_off(full: Path) -> None:
    for path in (full / "figures").iterdir():
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (np.abs(edge - edge[0]) < 3).all(), f"{path.name}: something reaches the edge"


PERFECT = [
    answer("c1", "a", "anger", {"anger": 1, "sadness": 0}),
    answer("c2", "b", "anger", {"anger": 1, "sadness": 0}),
    answer("c3", "a", "sadness", {"anger": 0, "sadness": 1}),
    answer("c4", "b", "sadness", {"anger": 0, "sadness": 1}),
    answer("v1", "v", "sadness", {"anger": 0, "sadness": 1}, split="valid"),
]


def test_a_perfect_score_is_not_certain(tmp_path: Path) -> None:
    out = write_report([make_run(tmp_path / "run", classes=("anger", "sadness"), answers=PERFECT)], tmp_path / "out").parent
    [row] = read_csv(out / "tables/scores.csv")
    # The share p of which 4 of 4 independent clips are right with a chance of 2.5 % is its fourth root.
    assert (float(row["Accuracy_low"]), float(row["Accuracy_high"])) == (pytest.approx(0.025 ** (1 / 4)), 1.0)
    assert row["Accuracy_interval"] == "exact binomial over clips"
    assert (row["UAR_low"], row["UAR_interval"]) == ("nan", "")
    page = Page(out / "report.html").words
    assert "100.0 % of them (95 % interval 39.8 to 100.0, taking clips as independent)" in page
    assert "binomial one (Clopper-Pearson), as if clips were independent" in page
    assert "no interval for UAR" in page
    assert "100.0 to 100.0" not in page
    assert "was chosen on 1 clip of 1 speaker, and was tested on 4 clips of 2 speakers whom" in page
    assert not re.search(r"\b1 (test )?(clips|speakers|rows)\b", page)


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{1}{$ {{ 7 * 7 }}"


def test_what_a_run_says_is_text(tmp_path: Path) -> None:
    answers = [
        answer(f"{r['clip_id']}{HOSTILE}", f"{HOSTILE}{r['speaker']}", "anger", {"anger": 0.6, HOSTILE: 0.4}) for r in BY_HAND
    ]
    run = make_run(
        tmp_path / "run",
        experiment=HOSTILE,
        corpus=HOSTILE,
        classes=("anger", HOSTILE),
        answers=answers,
        unusable=[(HOSTILE, "face", "error", HOSTILE)],
        examples=1,
    )
    examples = pq.read_table(run / "examples.parquet").to_pylist()
    for row in examples:
        row["tokens"] = row["tokens"] and [HOSTILE] * len(row["tokens"])
    pq.write_table(pa.Table.from_pylist(examples), run / "examples.parquet")
    page = Page(write_report([run], tmp_path / "out"))
    assert [a for tag, a in page.tags if tag == "script"] == [{"type": "application/json", "id": "explorer-data"}, {}]
    assert not any("onerror" in a for _, a in page.tags)
    assert "c1" + HOSTILE in page.text, "shown as it is"
    assert html.escape(HOSTILE).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page.source
    assert {p.name for p in (tmp_path / "out/figures").iterdir()} == {
        *("confusion-run.png", "speakers-run.png", "training-run.png", "attention-run-1.png"),
    }


def test_several_runs_side_by_side(tmp_path: Path) -> None:
    weak = make_run(tmp_path / "audio", experiment="audio only", modalities=["audio"], skill=0.2)
    strong = make_run(tmp_path / "all", experiment="all three", skill=0.8)
    out = write_report([weak, strong], tmp_path / "out").parent
    page = Page(out / "report.html").words
    assert "2 runs are compared. all three did best on the validation clips" in page
    scores = {r["Run"]: r for r in read_csv(out / "tables/scores.csv")}
    assert float(scores["all three"]["Accuracy"]) > float(scores["audio only"]["Accuracy"])
    assert (out / "figures/comparison.png").exists()
    assert (out / "figures/confusion-1-audio.png").exists()
    assert (out / "figures/confusion-2-all.png").exists()
    streams = {r["Setting"]: r for r in read_csv(out / "tables/settings-streams.csv")}
    assert streams["face"]["audio only"] == ""
    assert "different clips" not in page
    assert not (out / "tables/experiments.csv").exists(), "one run of each says no more than the scores do"


def test_runs_of_one_experiment_are_numbered(tmp_path: Path) -> None:
    runs = tell_apart([read_run(make_run(tmp_path / name / "run", experiment=name[0])) for name in ("a1", "b", "a2")])
    assert [r.label for r in runs] == ["a · 1", "b", "a · 3"]
    assert [r.slug for r in runs] == ["1-run", "2-run", "3-run"]


def test_regression_run_of_one_modality(tmp_path: Path) -> None:
    rows = [intensities("c0", "s0", TARGETS[:2], (1, 0), (0.5, 1)), intensities("c1", "s1", TARGETS[:2], (0, 0), (0.2, 0))]
    run = make_run(
        tmp_path / "run", task="regression", classes=TARGETS[:2], answers=rows, modalities=["text"], examples=1, words=90
    )
    out = write_report([run], tmp_path / "out").parent
    [row] = read_csv(out / "tables/scores.csv")
    assert float(row["MAE"]) == pytest.approx((0.5 + 1 + 0.2) / 2)
    assert float(row["MSE"]) == pytest.approx((0.25 + 1 + 0.04) / 2)
    assert float(row["Weighted accuracy"]) == pytest.approx((1 + 0) / 2), "of happy alone: nobody is sad"
    page = Page(out / "report.html").words
    assert "Emotion from text" in page
    assert "Its absolute error, summed over 2 emotions, is 0.850 (95 % interval 0.200 to 1.500)." in page
    assert "undefined" in page
    assert {p.name for p in (out / "figures").glob("scatter*")} == {"scatter-run.png"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two experiments of two seeds and two folds; the folder of the runs, and of the report on them."""
    folder = tmp_path_factory.mktemp("grid")
    for name, skill in (("crema_d_audio", 0.3), ("crema_d_gca", 0.7)):
        for seed in (0, 1):
            for fold in (0, 1):
                make_run(
                    folder / f"runs/{name}/{seed}/{fold}",
                    experiment=name,
                    corpus="crema_d",
                    skill=skill + (0.05 if (seed, fold) == (1, 0) else 0),
                    seed=seed,
                    fold=fold,
                )
    finished, _ = find_runs(str(folder / "runs"))
    return folder / "runs", write_report(finished, folder / "out").parent


def test_many_runs_are_grouped(grid: tuple[Path, Path]) -> None:
    runs, out = grid
    page = Page(out / "report.html")
    assert "8 runs of 2 experiments. What they say together comes first" in page.words
    assert "Best of these, and so leading here, is that of crema_d_gca with seed 1 and test fold 0." in page.words
    names = {p.stem for p in (out / "figures").iterdir()}
    assert names >= {"experiments", "reliability", "confusion-1-crema-d-audio", "confusion-2-crema-d-gca"}
    assert sum(n.startswith("confusion") for n in names) == 2, "one run of each experiment is shown"
    for name in ("experiments", "differences", "calibration", "paper-1-crema-d"):
        assert (out / f"tables/{name}.csv").exists()
        assert (out / f"tables/{name}.tex").read_text().startswith(r"\begin{table}")
    row = {r["Experiment"]: r for r in read_csv(out / "tables/experiments.csv")}["crema_d_gca"]
    read = {(s, f): read_run(runs / f"crema_d_gca/{s}/{f}") for s in (0, 1) for f in (0, 1)}
    right = {k: (r.values.argmax(1) == r.truth).mean() for k, r in read.items()}
    assert float(row["Accuracy"]) == pytest.approx(np.mean(list(right.values()))), "folds are of the same size here"
    of_seeds = [np.mean([right[s, f] for f in (0, 1)]) for s in (0, 1)]
    assert float(row["Accuracy_sd_seeds"]) == pytest.approx(np.std(of_seeds, ddof=1))
    assert (row["Seeds"], row["Folds"], row["Test clips"], row["Speakers"]) == ("2", "2", "48", "8")
    ours = {r["Ours"]: r for r in read_csv(out / "tables/paper-1-crema-d.csv")}
    assert (ours["crema_d_gca"]["Accuracy"], ours["crema_d_gca"]["Ours: Accuracy"]) == ("0.65", row["Accuracy"])


def test_few_runs_are_shown_one_by_one_too(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{s}", task="regression", classes=TARGETS, modalities=["text"], experiment="e", seed=s)
        for s in (0, 1)
    ]
    out = write_report(runs, tmp_path / "out").parent
    assert {p.stem for p in (out / "figures").glob("scatter*")} == {"scatter-1-0", "scatter-2-1"}
    page = Page(out / "report.html").words
    assert "2 runs of 1 experiment. Runs that differ" in page
    assert "Calibration" not in page, "intensities are not probabilities"
    assert [r["Emotion"] for r in read_csv(out / "tables/emotions.csv")] == list(TARGETS)


def test_runs_that_overlap_are_said_not_pooled(tmp_path: Path) -> None:
    out = write_report([make_run(tmp_path / n, experiment="e") for n in ("x", "y")], tmp_path / "out").parent
    page = Page(out / "report.html").words
    assert "e is left out of what is said of experiments: clip 't0000_I' was tested twice with seed 0" in page
    assert not (out / "tables/experiments.csv").exists()
    assert len(read_csv(out / "tables/scores.csv")) == 2


@pytest.mark.parametrize("protocol", ["", "memory:/"])
def test_runs_are_found_in_folders(tmp_path: Path, protocol: str) -> None:
    root = f"{protocol}{tmp_path}"
    fs, path = fsspec.core.url_to_fs(root)
    files = ["a/config.json", "a/summary.json", "b/c/config.json", "b/c/summary.json", "b/d/config.json", "other/summary.json"]
    for name in [*files, "a/checkpoints/x/config.json", "a/checkpoints/x/summary.json"]:
        fs.pipe_file(f"{path}/{name}", b"{}") if protocol else write_json(_made(tmp_path / name), {})
    assert find_runs(f"{root}/") == ([f"{root}/a", f"{root}/b/c"], [f"{root}/b/d"])
    assert find_runs(f"{root}/a") == ([f"{root}/a"], [])
    assert find_runs(f"{root}/b/d") == ([], [f"{root}/b/d"])
    assert find_runs(f"{root}/nowhere") == ([], [])


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_nothing_unusable_is_said(by_hand: Path) -> None:
    page = Page(by_hand / "report.html").words
    assert "Of 33 clips in the store, 2 without a label and 1 without any usable stream were left out." in page
    assert "Every clip was usable in every stream." in page


def test_what_must_be_known_first_is_said_first(by_hand: Path, full: Path) -> None:
    made, other = Page(by_hand / "report.html").words, Page(full / "report.html").words
    banner = "this is not emotion recognition. Its clips were made by a program and its labels are true by construction."
    note = "crema-d-rrnn: with 2 test speakers, the intervals are themselves rough."
    scores = made.index("Scores on the test clips")
    assert made.index(banner) < made.index(note) < scores
    assert banner not in other
    assert note.replace("2", "4") in other


def test_notes(tmp_path: Path) -> None:
    def notes(name: str, answers: list[dict[str, Any]], accuracy: float | None = None) -> str:
        folder = make_run(tmp_path / name, classes=("anger", "sadness"), answers=answers)
        config, summary = (json.loads((folder / f).read_text()) for f in ("config.json", "summary.json"))
        config["splits"]["train"]["speakers"].append("heard")
        summary["test"]["accuracy"] = accuracy or summary["test"]["accuracy"]
        write_json(folder / "config.json", config)
        write_json(folder / "summary.json", summary)
        return " ".join(notes_on([read_run(folder)]))

    def right(*speakers: str | None) -> list[dict[str, Any]]:
        """Two clips a speaker, of which the second is taken for sadness from the second speaker on."""
        return [
            answer(f"c{i}{j}", s, "anger", {"anger": 0.9 - min(i, 1) * j / 2, "sadness": 0.1 + min(i, 1) * j / 2})
            for i, s in enumerate(speakers)
            for j in range(2)
        ]

    many = [f"s{i}" for i in range(10)]
    assert notes("many", right(*many)) == ""
    assert "1 test speaker also in training" in notes("heard", right("heard", *many))
    assert "2 test clips without a speaker's name" in notes("nameless", right(None, *many))
    assert "only one test speaker" in notes("one", right("a"))
    assert "with 9 test speakers, the intervals are themselves rough" in notes("few", right(*many[:9]))
    assert "says Accuracy 99.0\u202f%, its predictions give 55.0\u202f%" in notes("stated", right(*many), accuracy=0.99)
    runs = [read_run(tmp_path / name) for name in ("many", "few")]
    assert notes_on(runs)[-1].startswith("The runs were tested on different clips")
    assert notes_on(runs[:1] * 2) == []


def test_reads_from_any_file_system(tmp_path: Path) -> None:
    run = read_run(f"file://{make_run(tmp_path / 'run', answers=BY_HAND, classes=('anger', 'sadness'))}/")
    assert [c["clip_id"] for c in run.clips] == ["c1", "c2", "c3", "c4"]


@pytest.mark.parametrize("name", FILES)
def test_unfinished_run_is_refused(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run-17")
    (run / name).write_bytes(b'{"torn')
    with pytest.raises(ValueError, match=rf"run-17: {name} can't be read"):
        read_run(run)
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"run-17: unfinished or not a run: {name} is missing"):
        read_run(run)


def test_other_unreadable_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: unfinished or not a run: summary.json is missing"):
        read_run(tmp_path / "nowhere")
    run = make_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {k: v for k, v in config.items() if k not in ("split", "store")})
    with pytest.raises(ValueError, match=r"config.json: store, split is missing"):
        read_run(run)
    nan = make_run(tmp_path / "nan", classes=("anger", "joy"), answers=[answer("c", "s", "joy", {"anger": math.nan, "joy": 1})])
    with pytest.raises(ValueError, match=r"nan: predictions.parquet: p_\* of clip c are not all finite"):
        write_report([nan], tmp_path / "out")
    mixed = [make_run(tmp_path / "c"), make_run(tmp_path / "r", task="regression", classes=TARGETS)]
    with pytest.raises(ValueError, match="runs of one task"):
        write_report(mixed, tmp_path / "out")
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "out")


def test_page_loads_in_a_browser(full: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium found: the page was not opened in a browser")

    page = tmp_path / "page.html"
    planted = '<img alt="" src="https://outside.invalid/x.png">'  # which the page's own policy must refuse
    page.write_text(
        (full / "report.html").read_text(encoding="utf-8").replace("<footer>", f"<footer>{planted}"), encoding="utf-8"
    )
    screenshot = tmp_path / "page.png"
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,2000",
        f"--screenshot={screenshot}",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(messages) == 1, "all else loads without a word"
    assert "outside.invalid" in messages[0]
    assert "Content Security Policy" in messages[0]
    with Image.open(screenshot) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100


def test_noise_curves_stand_at_their_own_levels() -> None:
    curves = {
        "audio": [
            Curve("few", np.array([0.0, 4.0]), np.array([0.9, 0.5]), 0.4),
            Curve("many", np.array([0.0, 1.0, 2.0]), np.array([0.8, 0.7, 0.6]), 0.3),
        ]
    }
    (axes,) = draw_ablation(curves, CLASSIFICATION[0], LIGHT).axes
    ticks = dict(zip((t.get_text() for t in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    assert list(ticks) == ["0", "1", "2", "4", "absent"]
    few, _, many, _, *_ = axes.lines
    assert list(few.get_xdata()) == [ticks["0"], ticks["4"]]
    assert list(few.get_ydata()) == [90, 50]
    assert list(many.get_xdata()) == [ticks["0"], ticks["1"], ticks["2"]]
