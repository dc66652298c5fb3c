"""The report says what the runs' predictions say, runs nothing, loads nothing, and refuses what is not a finished run."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import TARGETS, answer, make_run

from rrnn.report import read_run, write_report

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
        [make_run(folder / "run", classes=("anger", "sadness"), answers=BY_HAND, examples=1)], folder / "out"
    ).parent


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three modalities, frames, unusable clips."""
    folder = tmp_path_factory.mktemp("full")
    bad: list[tuple[str, str, str, str | None]] = [(f"x{i:02d}", "face", "absent", "no video track") for i in range(30)]
    bad += [("y", "acoustic", "error", "the file is empty"), ("z", "acoustic", "ok", "a damaged packet")]
    return write_report(
        [make_run(folder / "run", clips=60, unusable=bad, examples=2)], folder / "out", thumbnails=red_frames
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
    assert "tested on 4 clips of 2 speakers, none of whom it had met in training" in page
    assert "is right for 50.0 %, and the interval does not rule that out" in page
    assert "with 2 test speakers, the intervals are themselves rough" in page


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
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
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
    assert set(figures) == {"confusion-run", "speakers-run", "training-run", "attention-run-1", "attention-run-2"}
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


def test_the_last_line_of_an_epoch_counts(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))  # epoch 8 comes twice, first with a loss of 99
    assert [e["epoch"] for e in run.epochs] == list(range(1, 21))
    assert max(e["valid_loss"] for e in run.epochs) < 3


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
    assert not any(tag == "script" or "onerror" in a for tag, a in page.tags)
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


def test_one_modality_and_runs_of_one_name(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a/run", modalities=["text"], examples=1, example_frames={"words": 90})
    second = make_run(tmp_path / "b/run", modalities=["text"], clips=60)
    out = write_report([first, second], tmp_path / "out").parent
    page = Page(out / "report.html").words
    assert "Emotion from text" in page
    assert {r["Run"] for r in read_csv(out / "tables/scores.csv")} == {"crema-d-rrnn · 1", "crema-d-rrnn · 2"}
    assert "The runs were tested on different clips" in page


def test_regression_run(tmp_path: Path) -> None:
    values = [((1.0, 0.0), (0.5, 1.0)), ((0.0, 0.0), (0.2, 0.0))]
    rows = [
        {
            **{"clip_id": f"c{i}", "uri": "u", "start": 0.0, "end": 3.0, "speaker": f"s{i}", "split": "test"},
            **{"t_happy": t[0], "t_sad": t[1], "y_happy": y[0], "y_sad": y[1]},
        }
        for i, (t, y) in enumerate(values)
    ]
    out = write_report(
        [make_run(tmp_path / "run", task="regression", classes=TARGETS[:2], answers=rows)], tmp_path / "out"
    ).parent
    [row] = read_csv(out / "tables/scores.csv")
    assert float(row["MAE"]) == pytest.approx((0.5 + 1 + 0.2) / 2)
    assert float(row["MSE"]) == pytest.approx((0.25 + 1 + 0.04) / 2)
    assert float(row["Weighted accuracy"]) == pytest.approx((1 + 0) / 2), "of happy alone: nobody is sad"
    assert "undefined" in Page(out / "report.html").words
    assert {p.name for p in (out / "figures").glob("scatter*")} == {"scatter-run.png"}


def test_without_optional_files(tmp_path: Path) -> None:
    page = Page(write_report([make_run(tmp_path / "run", optional_files=False)], tmp_path / "out")).words
    for name in ("examples.parquet", "streams.parquet", "unusable.parquet"):
        assert f"This run has no {name}" in page


def test_nothing_unusable_is_said(by_hand: Path) -> None:
    assert "Every clip was usable in every stream." in Page(by_hand / "report.html").words


def test_what_must_be_known_first_is_said_first(tmp_path: Path, by_hand: Path) -> None:
    run = make_run(tmp_path / "run", corpus="made", classes=("anger", "sadness"), answers=BY_HAND)
    config, summary = (json.loads((run / f).read_text()) for f in ("config.json", "summary.json"))
    config["splits"]["train"]["speakers"].append("a")
    summary["test"] = {"accuracy": 0.99}
    (run / "config.json").write_text(json.dumps(config))
    (run / "summary.json").write_text(json.dumps(summary))
    page, plain = Page(write_report([run], tmp_path / "out")).words, Page(by_hand / "report.html").words
    for warning in (
        "this is not emotion recognition. Its clips were made by a program and its labels are true by construction.",
        "1 of the test speakers are also in training",
        "its summary says Accuracy 99.0 %, its predictions give 75.0 %",
    ):
        assert page.index(warning) < page.index("Scores on the test clips")
        assert warning not in plain
    assert "none of whom" not in page
    assert "none of whom" in plain


def test_reads_from_any_file_system(tmp_path: Path) -> None:
    run = read_run(f"file://{make_run(tmp_path / 'run', answers=BY_HAND, classes=('anger', 'sadness'))}/")
    assert run.test["clip_id"].to_pylist() == ["c1", "c2", "c3", "c4"]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", "predictions.parquet"])
def test_unfinished_run_is_refused(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run-17")
    (run / name).write_bytes(b'{"torn')
    with pytest.raises(ValueError, match=rf"run-17: {name}"):
        read_run(run)
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"run-17: unfinished or not a run: {name} is missing"):
        read_run(run)


def test_other_unreadable_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: unfinished or not a run: config.json, metrics.jsonl"):
        read_run(tmp_path / "nowhere")
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "finished": False}))
    with pytest.raises(ValueError, match="finished = False"):
        read_run(run)
    strange = make_run(
        tmp_path / "strange", classes=("anger", "joy"), answers=[answer("c", "s", "rage", {"anger": 1, "joy": 0})]
    )
    with pytest.raises(ValueError, match=r"strange.*'rage' is not one of"):
        read_run(strange)
    nan = make_run(tmp_path / "nan", classes=("anger",), answers=[answer("c", "s", "anger", {"anger": float("nan")})])
    with pytest.raises(ValueError, match="p_anger of clip c is not a finite number"):
        read_run(nan)
    mixed = [make_run(tmp_path / "c"), make_run(tmp_path / "r", task="regression", classes=TARGETS)]
    with pytest.raises(ValueError, match="runs of one task"):
        write_report(mixed, tmp_path / "out")
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "out")


def test_page_loads_in_a_browser(full: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium found: the page was not opened in a browser")

    def messages(page: Path, screenshot: Path) -> list[str]:
        """What the page wrote to the console while it was loaded and photographed."""
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        command += [
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,2000",
            f"--screenshot={screenshot}",
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    broken = tmp_path / "broken.html"
    broken.write_text("<script>undefined_function()</script>")
    assert messages(broken, tmp_path / "broken.png"), "an error would be seen"
    assert messages(full / "report.html", tmp_path / "page.png") == []
    with Image.open(tmp_path / "page.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100
