"""RAVDESS: names to clips, twins, and what the published corpus holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import sources
from sources import touch

from pipeline.clip import Clip
from pipeline.corpora.base import Problem
from pipeline.corpora.ravdess import FOLDS, PUBLISHED, Ravdess


def read(folder: Path, **options: str) -> tuple[list[Clip], list[Problem]]:
    return sources.read(Ravdess(**options), folder)  # type: ignore[arg-type]


def test_a_name_is_read_field_by_field(tmp_path: Path) -> None:
    touch(tmp_path, "Actor_12/03-01-06-01-02-01-12.wav", "Actor_01/01-02-03-02-01-02-01.mp4", "Actor_01/notes.txt")
    (first, second), problems = read(tmp_path, channel="both")
    assert not problems
    assert (first.clip_id, first.speaker, first.emotion, first.fold) == ("01-02-03-02-01-02-01", "01", "happy", "5")
    assert first.attributes["channel"] == "song"
    assert first.attributes["sex"] == "male"
    assert (second.speaker, second.emotion, second.fold) == ("12", "fearful", "3")
    assert second.attributes == {
        "modality": "audio-only",
        "channel": "speech",
        "intensity": "normal",
        "statement": "Dogs are sitting by the door.",
        "repetition": "01",
        "sex": "female",
    }


def test_folds_hold_each_actor_once() -> None:
    assert sorted(actor for fold in FOLDS for actor in fold) == list(range(1, 25))


def test_a_name_that_is_not_one_is_reported_and_reading_goes_on(tmp_path: Path) -> None:
    touch(tmp_path, "03-01-09-01-02-01-12.wav", "03-01-01-01-02-01-12.wav")
    (clip,), (problem,) = read(tmp_path)
    assert clip.clip_id == "03-01-01-01-02-01-12"
    assert (problem.kind, problem.where) == ("unexpected", "03-01-09-01-02-01-12.wav")


def test_a_performance_that_was_never_published_is_a_clip_and_reported(tmp_path: Path) -> None:
    neutral_strong, song_of_18, real = "03-01-01-02-01-01-12", "03-02-03-01-01-01-18", "03-02-03-01-01-01-17"
    touch(tmp_path, *(f"{name}.wav" for name in (neutral_strong, song_of_18, real)))
    clips, problems = read(tmp_path, channel="both")
    assert [c.clip_id for c in clips] == [neutral_strong, real, song_of_18]
    assert [(p.kind, p.where) for p in problems] == [("unexpected", f"{name}.wav") for name in (neutral_strong, song_of_18)]


ONE, TWO, THREE = "01-01-01-01-01-12", "01-02-01-01-01-12", "01-03-01-01-01-12"


def test_twins_are_one_clip(tmp_path: Path) -> None:
    touch(tmp_path, f"Video/01-{ONE}.mp4", f"Video/02-{ONE}.mp4", f"Audio/03-{ONE}.wav")  # all three
    touch(tmp_path, f"Video/02-{TWO}.mp4", f"Audio/03-{TWO}.wav", f"Again/03-{TWO}.wav")  # without audio-video; one twice
    touch(tmp_path, f"Video/02-{THREE}.mp4")
    clips, (note,) = read(tmp_path)
    assert sorted(c.clip_id for c in clips) == [f"01-{ONE}", f"02-{THREE}", f"03-{TWO}"]
    assert note.kind == "note"
    assert note.what.startswith("4 recordings were left aside")
    assert [c.clip_id for c in read(tmp_path, modality="video-only")[0]] == [f"02-{n}" for n in (ONE, TWO, THREE)]
    clips, notes = read(tmp_path, modality="audio-only")
    assert sorted(c.clip_id for c in clips) == [f"03-{ONE}", f"03-{TWO}"]
    assert [n.what.partition(":")[0] for n in notes] == [
        "1 recordings were left aside",  # audio-video
        "3 recordings were left aside",  # video-only
        "1 recordings were left aside",  # the same file again
    ]


def test_song_is_left_aside_unless_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "03-01-01-01-01-01-12.wav", "03-02-01-01-01-01-12.wav")
    (clip,), (note,) = read(tmp_path)
    assert clip.attributes["channel"] == "speech"
    assert note.what.startswith("1 recordings were left aside: they are song")
    ((clip,), _) = read(tmp_path, channel="song")
    assert clip.attributes["channel"] == "song"
    assert len(read(tmp_path, channel="both")[0]) == 2


def test_no_clip_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "03-02-01-01-01-01-12.wav")
    with pytest.raises(ValueError, match=r"no RAVDESS recording below .*; 1 recordings were left aside: they are song"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"ravdess\.channel is 'sing': expected one of speech, song, both"):
        Ravdess(channel="sing")  # type: ignore[arg-type]


def test_the_published_corpus_is_complete_and_what_lacks_is_named(tmp_path: Path) -> None:
    assert len(PUBLISHED) == len(set(PUBLISHED)) == 1440 + 1012
    touch(tmp_path, *(f"03-{name}.wav" for name in PUBLISHED))
    clips, problems = read(tmp_path, channel="both")
    assert not problems
    corpus = Ravdess(channel="both")
    counts = {c.what: c for c in corpus.counts(clips)}
    assert (counts["speech"].found, counts["song"].found, counts["actors"].found) == (1440, 1012, 24)
    assert all(c.expected in (None, c.found) for c in counts.values())
    assert (counts["speech, neutral"].expected, counts["speech, surprised"].expected) == (96, 192)
    assert "song, disgust" not in counts
    assert {c.speaker for c in clips if c.attributes["channel"] == "song"} == {f"{k:02d}" for k in range(1, 25) if k != 18}
    assert corpus.missing(clips) == []
    assert corpus.missing([c for c in clips if c.clip_id != f"03-{ONE}"]) == [f"03-{ONE}"]
    speech = [c for c in clips if c.attributes["channel"] == "speech"]
    assert corpus.missing(speech) == []  # song is published apart
    assert len(corpus.missing([c for c in speech if c.speaker != "07"])) == 60
