from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from csd_files import frames, write_csd

import pipeline.files
from pipeline.clip import Absent, Clip
from pipeline.corpora import open_corpus
from pipeline.corpora.base import Problem
from pipeline.corpora.cmu_mosei import DIMENSION_NAMES, EMOTIONS, PUBLISHED_ORDER, CmuMosei, standard_folds
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_rows, extract_shard, pending
from pipeline.media import open_media
from pipeline.store import ClipRow, Store
from pipeline.streams import make_stream

TRAIN, VALID, STRANGER = "-3g5yACwYnA", "--qXJuDtHPw", "12345"  # the last is in no fold, and all digits
SEGMENTS = np.array([[-0.2, 1.0], [0.9, 2.5], [2.5, 30.0]])  # begins below 0; overlaps; runs past the end
LABELS = np.array(
    [
        [1.0, 0.5, 0.0, 0.25, 0.0, 0.0, 0.0],
        [-3.0, 0.0, 10 / 3, 4.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)
SPOKEN = (
    [[0.0, 0.4], [0.4, 0.6], [0.6, 1.2], [1.2, 2.0], [2.0, 2.5]],
    np.array([[b"so"], [b"sp"], [b"good"], [b"movie"], [b"sp"]]),
)
PUBLISHED_FILES = {
    "COVAREP": ("CMU_MOSEI_COVAREP.csd", 100.0, 74),
    "FACET 4.2": ("CMU_MOSEI_VisualFacet42.csd", 30.0, 35),
    "OpenFace_2": ("visuals/CMU_MOSEI_VisualOpenFace2.csd", 30.0, 713),
}


def write_labels(folder: Path, videos: Mapping[str, tuple[Any, Any]], metadata: Mapping[str, Any] | None = None) -> str:
    return write_csd(folder / "labels" / "CMU_MOSEI_Labels.csd", "All Labels", videos, metadata)


@pytest.fixture
def mosei(tmp_path: Path) -> Path:
    """Three seconds of each of three videos, in every published file; one lacks FACET, and another all but FACET and labels."""
    folder = tmp_path / "mosei"
    write_labels(folder, dict.fromkeys((TRAIN, VALID, STRANGER), (SEGMENTS, LABELS)))
    for root, (name, rate, columns) in PUBLISHED_FILES.items():
        held = (TRAIN, STRANGER) if root == "FACET 4.2" else (TRAIN, VALID)
        write_csd(folder / name, root, {v: frames(round(3 * rate), rate, columns) for v in held})
    write_csd(folder / "CMU_MOSEI_TimestampedWords.csd", "words", dict.fromkeys((TRAIN, VALID), SPOKEN))
    said = [i for i, word in enumerate(SPOKEN[1].ravel()) if word != b"sp"]
    vectors = np.arange(5.0)[:, None] + np.zeros((5, 300))
    glove = {v: (np.array(SPOKEN[0])[said], vectors[said]) for v in (TRAIN, VALID)}
    write_csd(folder / "CMU_MOSEI_TimestampedWordVectors.csd", "glove_vectors", glove)
    return folder


def read(folder: Path) -> tuple[dict[str, Clip], list[Problem]]:
    clips, problems = read_corpus(open_corpus("cmu_mosei"), str(folder))
    assert len({c.clip_id for c in clips}) == len(clips)
    return {c.clip_id: c for c in clips}, problems


def said(problems: list[Problem], kind: str, text: str) -> str:
    (found,) = [p.what for p in problems if p.kind == kind and text in p.what]
    return found


def test_every_labelled_interval_is_a_clip(mosei: Path) -> None:
    clips, problems = read(mosei)
    assert list(clips) == [f"{v}[{i}]" for v in sorted((TRAIN, VALID, STRANGER)) for i in range(3)]
    first, second, third = (clips[f"{TRAIN}[{i}]"] for i in range(3))
    assert [(c.start, c.end) for c in (first, second, third)] == [tuple(s) for s in SEGMENTS.tolist()]
    assert first.intensities == {"happy": 0.5, "sad": 0, "anger": 0.25, "surprise": 0, "disgust": 0, "fear": 0}
    assert second.intensities == {"happy": 0, "sad": 3, "anger": 3, "surprise": 0, "disgust": 0, "fear": 1}
    assert (first.attributes["sentiment"], second.attributes["sentiment"]) == ("1", "-3")
    assert (first.speaker, first.fold, first.emotion) == (TRAIN, "train", None)
    assert (clips[f"{VALID}[0]"].fold, clips[f"{STRANGER}[0]"].fold) == ("valid", None)
    assert said(problems, "note", "labels above 3") == (
        f"labels above 3, which were set to 3: 6 ({VALID}[1], {TRAIN}[1], {STRANGER}[1])"
    )
    assert f"in no fold of the standard split: 1 ({STRANGER})" in said(problems, "note", "in no fold")
    assert "videos with segments that begin before 0: 3 (" in said(problems, "note", "before 0")
    assert "videos with segments that overlap: 3 (" in said(problems, "note", "overlap")
    assert "no labels: 3225 (" in said(problems, "missing", "videos of the standard split")


def test_words_are_those_of_the_segment_from_its_start_without_pauses(mosei: Path) -> None:
    clips, problems = read(mosei)
    first, second, third = (clips[f"{TRAIN}[{i}]"] for i in range(3))
    assert [w.text for w in first.words or ()] == ["so", "good"]
    assert np.allclose([(w.start, w.end) for w in first.words or ()], [(0.2, 0.6), (0.8, 1.2)])  # clipped at the end
    assert first.transcript == "so good"
    assert [w.text for w in second.words or ()] == ["good", "movie"]
    assert np.allclose([(w.start, w.end) for w in second.words or ()], [(0, 0.3), (0.3, 1.1)])  # and at the start
    assert (third.words, third.transcript) == ((), "")
    assert clips[f"{STRANGER}[0]"].words is None
    assert f"no words: 1 ({STRANGER})" in said(problems, "missing", "labelled videos that have no words")


def test_features_name_the_file_and_the_video_where_the_sequence_holds_it(mosei: Path) -> None:
    clips, problems = read(mosei)
    assert clips[f"{TRAIN}[1]"].features == {
        "covarep": f"{mosei}/CMU_MOSEI_COVAREP.csd#{TRAIN}",
        "facet": f"{mosei}/CMU_MOSEI_VisualFacet42.csd#{TRAIN}",
        "openface": f"{mosei}/visuals/CMU_MOSEI_VisualOpenFace2.csd#{TRAIN}",
        "glove": f"{mosei}/CMU_MOSEI_TimestampedWordVectors.csd#{TRAIN}",
    }
    assert set(clips[f"{VALID}[1]"].features or ()) == {"covarep", "openface", "glove"}
    assert set(clips[f"{STRANGER}[1]"].features or ()) == {"facet"}
    assert f"absent in facet: 1 ({VALID})" in said(problems, "missing", "FACET 4.2")
    assert f"absent in covarep: 1 ({STRANGER})" in said(problems, "missing", "COVAREP")
    clip = clips[f"{TRAIN}[1]"]
    assert clip.uri == f"{mosei}/labels/CMU_MOSEI_Labels.csd#{TRAIN}"
    with pytest.raises(Absent, match="no recording"), open_media(clip):
        pass


def test_a_store_of_it_holds_the_cut_frames(mosei: Path, tmp_path: Path) -> None:
    clips, _ = read(mosei)
    store = Store.create(str(tmp_path / "store"), "cmu_mosei", 4)
    assert store.add_clips(clips.values()) == (9, 0)
    assert store.add_clips(read(mosei)[0].values()) == (0, 9)
    assert [c for shard in store.shards() for c in store.clips(shard)] == list(clips.values())
    glove = make_stream("glove")
    store.begin_stream(glove)
    for work in pending(store, [glove])[0]:
        extract_shard(store, glove, work.shard)
    outcome = dict(zip(clips, store.outcome("glove")["status"].to_pylist(), strict=True))
    ok = [f"{v}[{i}]" for v in (VALID, TRAIN) for i in (0, 1)]
    assert outcome == {c: "ok" if c in ok else "absent" for c in clips}
    row = store.read_features("glove", "00000-0000").to_pylist()[1]
    assert (row["clip_id"], row["tokens"], row["values"][::300]) == (f"{VALID}[1]", ["good", "movie"], [2, 3])
    assert np.allclose(row["times"], [0.15, 0.7])  # "good" is in the segment from 0.9 to 1.2 s, and the segment from 0.9 on


@pytest.mark.parametrize("key", DIMENSION_NAMES)
def test_labels_are_told_by_their_names_where_the_file_has_them(tmp_path: Path, key: str) -> None:
    by_alphabet = ["anger", "disgust", "fear", "happiness", "sadness", "sentiment", "surprise"]
    values = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, -0.6, 0.7]])
    write_labels(tmp_path, {TRAIN: ([[0, 1]], values)}, {key: by_alphabet})
    clips, problems = read(tmp_path)
    expected = {"happy": 0.4, "sad": 0.5, "anger": 0.1, "surprise": 0.7, "disgust": 0.2, "fear": 0.3}
    assert clips[f"{TRAIN}[0]"].intensities == expected
    assert clips[f"{TRAIN}[0]"].attributes["sentiment"] == "-0.6"
    assert not [p for p in problems if p.kind == "unexpected"]


@pytest.mark.parametrize(
    ("names", "is_said"), [(None, False), ("happy", False), ([str(i) for i in range(7)], True), ([], True)]
)
def test_where_the_names_say_nothing_the_published_order_is_taken(tmp_path: Path, names: Any, is_said: bool) -> None:
    write_labels(tmp_path, {TRAIN: ([[0, 1]], np.arange(7)[None] / 10)}, {"dimension names": names})
    clips, problems = read(tmp_path)
    assert clips[f"{TRAIN}[0]"].intensities == {e: PUBLISHED_ORDER.index(e) / 10 for e in EMOTIONS}
    assert any(p.kind == "unexpected" and "whose order was taken" in p.what for p in problems) == is_said


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_a_label_that_can_not_be_leaves_the_row_without_labels(tmp_path: Path, bad: float) -> None:
    values = np.zeros((2, 7))
    values[1, 4] = bad
    write_labels(tmp_path, {TRAIN: ([[0, 1], [1, 2]], values)})
    clips, problems = read(tmp_path)
    assert [c.intensities is None for c in clips.values()] == [False, True]
    assert f"they have no labels: 1 ({TRAIN}[1])" in said(problems, "broken", "negative or no number")


def test_segments_with_impossible_times_keep_their_rows(tmp_path: Path) -> None:
    times = [[1, 1], [3, 2], [np.nan, 1], [0, 1]]
    write_labels(tmp_path, {TRAIN: (times, np.zeros((4, 7)))})
    write_csd(tmp_path / "g.csd", "glove_vectors", {TRAIN: ([[0, 1]], np.zeros((1, 300)))})
    clips, problems = read(tmp_path)
    assert len(clips) == 4
    assert TRAIN in said(problems, "broken", "end before they begin")
    store = Store.create(str(tmp_path / "store"), "cmu_mosei")
    store.add_clips(clips.values())
    report = extract_shard(store, make_stream("glove"), "00000-0000")
    assert (report.ok, report.error) == (1, 3)


def test_a_broken_video_or_file_is_reported_and_reading_goes_on(tmp_path: Path) -> None:
    path = write_labels(tmp_path, {TRAIN: (SEGMENTS, LABELS), VALID: (SEGMENTS, LABELS[:, :5]), "a#b": (SEGMENTS, LABELS)})
    with h5py.File(path, "a") as file:
        file.create_group("All Labels/data/empty")
        file["All Labels/data"]["elsewhere"] = h5py.SoftLink(f"/All Labels/data/{TRAIN}")
    (tmp_path / "CMU_MOSEI_COVAREP.csd").write_bytes(Path(path).read_bytes()[:2000])
    (tmp_path / "CMU_MOSEI_VisualFacet42.csd").write_text("<html>404</html>")
    (tmp_path / "gone.csd").symlink_to(tmp_path / "nowhere")
    write_csd(tmp_path / "phones.csd", "phones", {TRAIN: SPOKEN})
    write_csd(tmp_path / "words.csd", "words", {TRAIN: ([[0, 1]], np.zeros((1, 1)))})
    clips, problems = read(tmp_path)
    assert list(clips) == [f"{TRAIN}[{i}]" for i in range(3)]
    assert all(c.words == () and c.features is None for c in clips.values())
    broken = {p.where: p.what for p in problems if p.kind == "broken"}
    files = {"CMU_MOSEI_COVAREP.csd", "CMU_MOSEI_VisualFacet42.csd", "gone.csd"}
    assert set(broken) == {VALID, "'a#b'", "empty", "elsewhere", TRAIN} | files
    assert broken[VALID] == f"CMU_MOSEI_Labels.csd has 5 labels a segment, expected 7: {', '.join(PUBLISHED_ORDER)}"
    assert "expected text" in broken[TRAIN]
    assert "link to somewhere else" in broken["elsewhere"]
    assert said(problems, "unexpected", "phones").startswith("sequence 'phones': expected one of All Labels, COVAREP")
    assert {p.where for p in problems if p.kind == "missing"} >= {"COVAREP", "FACET 4.2", "OpenFace_2", "glove_vectors"}


def test_a_file_is_known_by_its_root_group_in_any_spelling(tmp_path: Path) -> None:
    write_csd(tmp_path / "a.csd", "All Labels", {TRAIN: (SEGMENTS, LABELS)})
    write_csd(tmp_path / "b.csd", "COAVAREP", {TRAIN: frames(10, 1, 74)})
    write_csd(tmp_path / "c.csd", "OpenFace_2.0", {TRAIN: frames(10, 1, 713)})
    write_csd(tmp_path / "CMU_MOSEI_COVAREP.csd", "FACET_4.2", {TRAIN: frames(10, 1, 35)})
    write_csd(tmp_path / "d.csd", "COVAREP", {TRAIN: frames(10, 1, 74)})
    clips, problems = read(tmp_path)
    names = {"covarep": "b.csd", "openface": "c.csd", "facet": "CMU_MOSEI_COVAREP.csd"}
    assert clips[f"{TRAIN}[0]"].features == {s: f"{tmp_path}/{n}#{TRAIN}" for s, n in names.items()}
    assert [p.where for p in problems if p.kind == "unexpected"] == ["d.csd"]


def test_files_may_be_links_to_where_they_are(mosei: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    for file in mosei.rglob("*.csd"):
        (tmp_path / "linked" / file.name).symlink_to(file)
    assert list(read(tmp_path / "linked")[0]) == list(read(mosei)[0])


@pytest.mark.parametrize("scheme", ["http://h/", "simplecache::", "zip://a.csd::s3://", "local:///", "nosuch://"])
def test_a_manifest_sends_nobody_to_other_hosts(mosei: Path, scheme: str) -> None:
    clip = Clip("c", "/c.wav", features={"covarep": f"{scheme}{mosei / 'CMU_MOSEI_COVAREP.csd'}#{TRAIN}"})
    (row,) = extract_rows(make_stream("covarep"), [clip])
    assert row.status == "error"
    assert "expected a path or one of abfs" in (row.reason or "")


def test_it_may_lie_in_a_bucket(mosei: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.files, "REMOTE_SCHEMES", frozenset({"memory"}))
    bucket = fsspec.filesystem("memory")
    bucket.put(str(mosei), "/bucket/mosei", recursive=True)
    try:
        here, there = (extract_all(source) for source in (str(mosei), "memory://bucket/mosei"))
    finally:
        bucket.rm("/bucket", recursive=True)
    assert [c.clip_id for c, _ in there] == [c.clip_id for c, _ in here]
    assert all(address.startswith("memory://") for c, _ in there for address in (c.features or {}).values())
    assert [r.status for _, r in there].count("ok") == 4
    for (_, a), (_, b) in zip(here, there, strict=True):
        assert (a.status, a.reason) == (b.status, b.reason)
        if a.features is not None and b.features is not None:
            assert np.array_equal(a.features.values, b.features.values)


def extract_all(source: str) -> list[tuple[Clip, ClipRow]]:
    clips, _ = read_corpus(open_corpus("cmu_mosei"), source)
    return list(zip(clips, extract_rows(make_stream("glove"), clips), strict=True))


def test_pickles_are_refused_unopened(tmp_path: Path, mosei: Path) -> None:
    (tmp_path / "p").mkdir()
    for name in ("aligned_50.pkl", "mosei.pickle", "mosei.p"):
        path = tmp_path / "p" / name
        path.write_bytes(pickle.dumps({"train": 1}))
        for source in (path, path.parent):
            with pytest.raises(ValueError, match=r"pickles are not read: opening one runs whatever .* Take the \.csd files"):
                read(source)
        path.unlink()
    (mosei / "aligned.pkl").write_bytes(b"")
    assert len(read(mosei)[0]) == 9  # it does not matter beside the real thing


def test_sources_that_are_not_mosei_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"All Labels \(CMU_MOSEI_Labels.csd\) among them; found 0 \.csd files"):
        read(tmp_path)
    write_csd(tmp_path / "x.csd", "COVAREP", {TRAIN: frames(10, 1, 74)})
    with pytest.raises(ValueError, match=r"found COVAREP \(x\.csd\)"):
        read(tmp_path)


def test_the_standard_split_is_the_published_one() -> None:
    folds = standard_folds()
    assert {name: len(videos) for name, videos in folds.items()} == {"train": 2249, "valid": 300, "test": 678}
    assert all(not set(a) & set(b) for a, b in itertools.combinations(folds.values(), 2))
    digests = {n: hashlib.sha256("\n".join(sorted(v)).encode()).hexdigest()[:16] for n, v in folds.items()}
    assert digests == {"train": "9c88200b765a1ea8", "valid": "69eb5a50f912fae8", "test": "d311aa7d4abdac80"}


def test_counts_of_a_set_as_large_as_the_published_one(tmp_path: Path) -> None:
    unlabelled = {"7l3BNtSE0xc", "dZFV0lyedX4"}
    in_folds = [v for videos in standard_folds().values() for v in videos if v not in unlabelled]
    videos = [*in_folds, *(f"other{i}" for i in range(66))]
    write_labels(tmp_path, {v: ([[0, 1]], np.zeros((1, 7))) for v in videos})
    clips, problems = read(tmp_path)
    counts = CmuMosei().counts(list(clips.values()))
    assert all(c.found == c.expected for c in counts if c.expected is not None)
    assert sum(c.expected is not None for c in counts) == 5
    assert said(problems, "note", "no fold").endswith("no fold of the standard split: 66 (other0, other1, other10, ...)")
    assert said(problems, "missing", "no labels").endswith("no labels: 2 (7l3BNtSE0xc, dZFV0lyedX4)")
