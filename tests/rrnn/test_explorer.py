"""The attention explorer shows what examples.parquet holds at the moment it stands at, follows the recording, and lets
nothing in or out."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import Browser, chromium
from media_files import noise, record
from runs import TARGETS, answer, intensities, make_run

from jobs.report import main, media
from rrnn.explorer import Media, Recordings, pack
from rrnn.report import write_report

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> <!-- {{ 7 * 7 }}"
SECONDS = 3.2  # of the clips that runs.py makes


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "clip.mkv"
    return record(path, frames=80, size=(160, 120), samples=noise(SECONDS), vcodec="ffv1", acodec="pcm_s16le")


def of_film(path: Path) -> Any:
    return lambda row: media({**row, "uri": str(path)})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("explorer") / "run", examples=3)


@pytest.fixture(scope="module")
def page(run: Path, film: Path) -> Path:
    """Three clips with the same film, of which each has words, sound and vision, and frames."""

    def grey(row: dict[str, Any], times: Any) -> list[npt.NDArray[np.uint8] | None]:
        return [np.full((90, 120, 3), 25 * i, np.uint8) for i, _ in enumerate(times)]

    return write_report([run], run.parent / "out", thumbnails=grey, media=of_film(film))


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'id="explorer-data">(.*?)</script>', text, re.S)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def examples(run: Path, clip: int) -> list[dict[str, Any]]:
    rows = pq.read_table(run / "examples.parquet").to_pylist()
    return [r for r in rows if r["clip_id"] == list(dict.fromkeys(r["clip_id"] for r in rows))[clip - 1]]


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")
    return found


def weights_at(rows: list[dict[str, Any]], t: float) -> dict[str, list[float]]:
    """Of each stream, each hop's weight at a time in multiples of an even spread, from the frame that is nearest."""
    found: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda r: r["hop"]):
        nearest = int(np.abs(np.array(row["times"]) - t).argmin())
        found.setdefault(row["stream"], []).append(row["weights"][nearest] * len(row["weights"]))
    return found


# --- what it shows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip", "t"), [(1, 0.004), (2, 1.254), (3, 3.104)])
def test_a_moment_is_what_the_run_holds_of_it(browser: Browser, page: Path, run: Path, clip: int, t: float) -> None:
    browser.open(f"{page.as_uri()}#clip={clip}&t={t}")
    rows = examples(run, clip)
    assert texts(browser, "[data-part=title]") == [rows[0]["clip_id"]]
    end = browser.run("Number(document.querySelector('[data-part=slider]').max)")
    assert end >= max(SECONDS, max(t for r in rows for t in r["times"]))
    # Where the cursor stands on the screen, in each lane
    places = browser.run(
        "[...document.querySelectorAll('.cursor')].map((c) => { const [a, b] = [c, c.parentElement].map((e) =>"
        " e.getBoundingClientRect()); return (a.x + a.width / 2 - b.x) / b.width; })"
    )
    assert places == pytest.approx([t / end] * 3, abs=0.002)
    for stream, expected in weights_at(rows, t).items():
        shown = texts(browser, f"[data-stream={stream}] .weight")
        assert [float(s.rstrip("×")) for s in shown] == pytest.approx(expected, abs=0.011)
        gates = [r["gate"] for r in rows if r["stream"] == stream]
        assert texts(browser, f"[data-stream={stream}] .share-of") == [f"{100 * g:.0f}\u202f%" for g in gates]
    assert texts(browser, ".values .true .class") == [rows[0]["target"] + "true"]
    assert texts(browser, ".values .value") == [f"{100 * p:.0f}\u202f%" for p in rows[0]["probabilities"]]
    assert browser.problems == []


def test_the_page_asks_nobody_for_anything(browser: Browser, page: Path) -> None:
    browser.open(f"{page.as_uri()}#clip=1&t=1&play")
    browser.wait("document.querySelector('video').currentTime > 1.2")
    browser.run("[...document.querySelectorAll('.card')].forEach((card) => card.click())")
    assert browser.problems == []
    assert {r.partition(":")[0] for r in browser.requests} == {"file", "data", "blob"}
    assert [r for r in browser.requests if r.startswith("file")] == [page.as_uri()]


def test_no_other_script_runs(browser: Browser, page: Path, tmp_path: Path) -> None:
    planted = "<footer><script>document.title = 'taken'</script>"
    other = tmp_path / "page.html"
    other.write_text(page.read_text(encoding="utf-8").replace("<footer>", planted), encoding="utf-8")
    browser.open(other.as_uri())
    assert browser.run("document.title").startswith("Emotion from")
    assert len(browser.problems) == 1
    assert "Content Security Policy" in browser.problems[0]


def test_play_follows_the_recording(browser: Browser, page: Path) -> None:
    browser.open(f"{page.as_uri()}#clip=2&t=0.5")
    assert browser.run("document.querySelector('video').paused")
    browser.run("document.querySelector('[data-part=play]').click()")
    browser.wait("document.querySelector('video').currentTime > 1")
    assert texts(browser, "[data-part=play]") == ["Pause"]
    browser.run("document.querySelector('[data-part=play]').click()")
    at, left, end = browser.run(
        "[document.querySelector('video').currentTime, parseFloat(document.querySelector('.cursor').style.left),"
        " Number(document.querySelector('[data-part=slider]').max)]"
    )
    assert left == pytest.approx(100 * at / end, abs=100 * 0.25 / end), "within a few frames of the screen"
    # ... and to its end, where it stops
    browser.run("document.querySelector('[data-part=play]').click()")
    browser.wait("document.querySelector('[data-part=play]').textContent === 'Play'")
    assert browser.run("document.querySelector('video').ended")


def test_keys_pointer_and_hops(browser: Browser, page: Path, run: Path) -> None:
    browser.open(f"{page.as_uri()}#clip=1&t=1&hops=1,2")
    browser.run("document.querySelector('.toggle').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert texts(browser, "[data-part=clock]")[0].startswith("1.20 / ")
    browser.press("Home")
    assert texts(browser, "[data-part=clock]")[0].startswith("0.00 / ")
    browser.run("document.querySelector('[data-part=slider]').focus()")
    browser.press(" ")
    browser.wait("!document.querySelector('video').paused")
    browser.press(" ")
    browser.wait("document.querySelector('video').paused")

    seen = "[...document.querySelectorAll('.curve')].map((c) => getComputedStyle(c).display !== 'none')"
    assert browser.run(seen) == [True, True, False] * 3
    browser.run("document.querySelectorAll('.toggle')[2].click()")
    assert browser.run(seen) == [True] * 9

    x, y, width = browser.run(
        "(() => { const e = document.querySelector('.lane .time'); e.scrollIntoView({block: 'center'});"
        " const b = e.getBoundingClientRect(); return [b.x, b.y + b.height / 2, b.width]; })()"
    )
    end = browser.run("Number(document.querySelector('[data-part=slider]').max)")
    browser.mouse("mouseMoved", x + width / 2, y)
    assert texts(browser, "[data-part=at]") == [f"at {end / 2:.2f} s"], "reads without going there"
    shown = [float(s.rstrip("×")) for s in texts(browser, "[data-stream=acoustic] .weight")]
    near = [weights_at(examples(run, 1), end / 2 + d)["acoustic"] for d in (-0.01, 0, 0.01)]
    assert any(shown == pytest.approx(n, abs=0.011) for n in near)
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, x + width / 4, y, button="left", clickCount=1)
    assert float(texts(browser, "[data-part=clock]")[0].split()[0]) == pytest.approx(end / 4, abs=0.02)
    browser.press("End")
    assert float(texts(browser, "[data-part=clock]")[0].split()[0]) == pytest.approx(end, abs=0.01), "after a click too"


@pytest.mark.parametrize("width", [1200, 360])
def test_it_fits_the_screen_and_words_do_not_overlap(browser: Browser, page: Path, width: int) -> None:
    browser.open(f"{page.as_uri()}#clip=1", width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    boxes = browser.run(
        "[...document.querySelectorAll('.word')].map((w) => w.getBoundingClientRect())"
        ".map((b) => [b.x, b.y, b.right, b.bottom])"
    )
    assert len(boxes) == 10
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_in_print_the_pictures_stay_and_the_explorer_goes(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run("document.getElementById('explorer').getBoundingClientRect().height") == 0
    assert browser.run("document.querySelectorAll('img.wide')[0].getBoundingClientRect().height") > 50
    browser.call("Emulation.setEmulatedMedia", media="")


# --- what it is given --------------------------------------------------------------------------------------------------


def test_steps_stand_at_the_times_of_pooled_frames_and_gaps_stay_empty(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", examples=1, modalities=["audio"])
    rows = pq.read_table(run / "examples.parquet").to_pylist()
    for row in rows:
        row |= {"times": [0.2, 0.6, 1.0, 2.6, 3.0], "weights": [0.1, 0.3, 0.2, 0.2, 0.2], "update": 0.25 * row["hop"]}
    pq.write_table(pa.Table.from_pylist(rows), run / "examples.parquet")
    page = write_report([run], tmp_path / "out")
    for t, shown in {0.3: "0.50×", 0.45: "1.50×", 1.3: "1.00×", 1.8: "–", 2.9: "1.00×"}.items():
        browser.open(f"{page.as_uri()}#t={t}")
        assert texts(browser, ".weight") == [shown] * 3, t
    assert texts(browser, ".memory .share-of") == ["25\u202f%", "50\u202f%", "75\u202f%"]


def test_without_recordings_the_clock_runs(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", examples=1)
    page = write_report([run], tmp_path / "out")
    assert data_of(page)["files"] == []
    browser.open(f"{page.as_uri()}#t=1&play")
    browser.wait("parseFloat(document.querySelector('.cursor').style.left) > 50")
    assert texts(browser, "[data-part=note]") == ["This page carries no recordings."]
    assert browser.run("getComputedStyle(document.querySelector('video')).display") == "none"
    assert browser.problems == []


def test_what_a_run_says_is_text_here_too(browser: Browser, tmp_path: Path) -> None:
    answers = [answer(f"c{HOSTILE}", HOSTILE, HOSTILE, {"anger": 0.4, HOSTILE: 0.6})]
    answers += [answer("v", "v", "anger", {"anger": 0.6, HOSTILE: 0.4}, split="valid")]
    run = make_run(tmp_path / "run", experiment=HOSTILE, classes=("anger", HOSTILE), answers=answers, examples=1)
    rows = pq.read_table(run / "examples.parquet").to_pylist()
    for row in rows:
        row["tokens"] = row["tokens"] and [HOSTILE] * len(row["tokens"])
        row["stream"] = row["stream"] if row["stream"] != "face" else HOSTILE
    pq.write_table(pa.Table.from_pylist(rows), run / "examples.parquet")
    browser.open(write_report([run], tmp_path / "out").as_uri())
    assert browser.problems == []
    assert browser.run("document.title").startswith("Emotion from")
    assert browser.run("document.querySelectorAll('img[onerror]').length") == 0
    assert texts(browser, "[data-part=title]") == ["c" + HOSTILE]
    assert texts(browser, "[data-part=who]") == ["speaker " + HOSTILE]
    assert set(texts(browser, ".word")) == {HOSTILE}
    assert HOSTILE in texts(browser, ".name strong")
    assert texts(browser, ".values .class") == ["anger", HOSTILE + "true"]


def test_regression(browser: Browser, tmp_path: Path) -> None:
    rows = [intensities("c0", "s0", TARGETS[:2], (1, 0), (0.5, 2)), intensities("c1", "s1", TARGETS[:2], (0, 0), (0.2, 0))]
    run = make_run(
        tmp_path / "run", task="regression", classes=TARGETS[:2], answers=rows, modalities=["text"], examples=1, words=90
    )
    browser.open(write_report([run], tmp_path / "out").as_uri())
    assert texts(browser, ".values .value") == ["0.50", "2.00"]
    assert browser.run("[...document.querySelectorAll('.ring')].map((r) => r.style.left)") == ["50%", "0%"]
    assert len(texts(browser, ".word")) == 90
    assert browser.problems == []


def test_numbers_survive_packing() -> None:
    values = np.random.default_rng(0).exponential(1.0, (3, 50))
    packed = pack(values)
    back = packed["scale"] * np.frombuffer(base64.b64decode(packed["data"]), "<u2").reshape(3, 50)
    assert np.abs(back - values).max() <= values.max() / 65_535
    assert pack(np.zeros(2))["data"] == base64.b64encode(bytes(4)).decode()


def test_a_long_clip_stays_small(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", examples=1)
    rows = pq.read_table(run / "examples.parquet").to_pylist()
    for row in rows:  # a minute, at 100, 30 and 3 frames a second
        n = {"audio": 6000, "vision": 1800, "text": 180}[row["modality"]]
        row["times"] = ((np.arange(n) + 0.5) * 60 / n).tolist()
        row["weights"] = np.random.default_rng(n).dirichlet(np.ones(n)).tolist()
        row["tokens"] = row["tokens"] and ["word"] * n
    pq.write_table(pa.Table.from_pylist(rows), run / "examples.parquet")
    (clip,) = data_of(write_report([run], tmp_path / "out"))["clips"]
    assert len(json.dumps(clip)) < 150_000


def test_each_recording_is_there_once_and_no_more_than_fit() -> None:
    asked: list[str] = []

    def large(row: dict[str, Any]) -> Media:
        asked.append(row["uri"])
        return Media(bytes(300_000), "video/webm", np.zeros(0), SECONDS)

    recordings = Recordings(large, 900_000)  # of which two fit, as base64
    rows = [{"uri": f"{name}.mp4", "start": None, "end": None} for name in "abcabc"]
    found = [recordings.of(row) for row in rows]
    assert asked == ["a.mp4", "b.mp4", "c.mp4"]
    assert [len(f["content"]) for f in recordings.files] == [400_000] * 2
    assert [f.get("file") for f in found] == [0, 1, None] * 2
    assert "left out" in found[2]["note"]
    assert "note" not in found[0]
    assert recordings.of({**rows[0], "start": 1.0}).get("file") is None, "another part of the same recording"


def test_no_media_reads_no_recording(film: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", examples=1)
    rows = [{**r, "uri": str(film)} for r in pq.read_table(run / "examples.parquet").to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), run / "examples.parquet")
    main([str(run)], str(tmp_path / "with"))
    main([str(run)], str(tmp_path / "without"), no_media=True)
    both, neither = (data_of(tmp_path / name / "report.html") for name in ("with", "without"))
    assert [f["kind"] for f in both["files"]] == ["video/webm"]
    assert all("waveform" in c["recording"] and len(c["frames"]) == 8 for c in both["clips"])
    assert neither["files"] == []
    assert all("waveform" not in c["recording"] and c["frames"] == [] for c in neither["clips"])


def test_a_recording_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = {"clip_id": "c", "uri": str(tmp_path / "gone.mp4"), "start": None, "end": None, "times": [0.1]}
    sequences = {**gone, "uri": f"{tmp_path}/x.csd#c"}
    long = {**gone, "times": [0.1, 1e4]}
    for row, why in ((gone, "No such file"), (sequences, "no recording"), (long, "longer than 180 s")):
        (note,) = Recordings(media, 1e6).of(row).values()
        assert note.startswith("Nothing to play: ")
        assert why in note
