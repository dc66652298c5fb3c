"""A clip made to be played in a browser is the clip: its picture and sound, at their times from the clip's start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media_files import lag, noise, number, record

from pipeline.clip import ClipError
from pipeline.media import AUDIO_RATE, Deadline, Media
from pipeline.webm import FPS, make_playable, steady


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, 12 frames a second, with noise for sound."""
    path = tmp_path_factory.mktemp("webm") / "clip.mkv"
    return record(path, frames=48, fps="12", samples=noise(4.0), vcodec="ffv1", acodec="pcm_s16le")


def read_back(content: bytes, folder: Path) -> Media:
    (folder / "made.webm").write_bytes(content)
    return Media(str(folder / "made.webm"))


def test_picture_and_sound_stand_at_the_clips_times(recording: Path, tmp_path: Path) -> None:
    made = make_playable(Media(str(recording), start=1.0, end=3.0))
    assert made.video
    assert len(made.samples) == 2 * AUDIO_RATE
    media = read_back(made.content, tmp_path)
    frames = list(media.frames())
    assert [number(frame) for _, frame in frames] == [12 + i // 2 for i in range(2 * FPS - 1)]
    assert np.allclose([seconds for seconds, _ in frames], np.arange(len(frames)) / FPS, atol=0.002)
    heard = media.audio()
    assert len(heard) / AUDIO_RATE == pytest.approx(2.0, abs=0.05)
    assert abs(lag(heard, made.samples)) < 0.02 * AUDIO_RATE
    assert len(made.content) < 2.0 * 1.3 * (220_000 + 32_000) / 8


def test_a_clip_of_one_track(tmp_path: Path) -> None:
    sound = record(tmp_path / "a.wav", samples=noise(1.0))
    picture = record(tmp_path / "v.mkv", frames=12, fps="12", vcodec="ffv1")
    heard, seen = make_playable(Media(str(sound))), make_playable(Media(str(picture)))
    assert (heard.video, len(heard.samples)) == (False, AUDIO_RATE)
    assert len(read_back(heard.content, tmp_path).audio()) / AUDIO_RATE == pytest.approx(1.0, abs=0.05)
    assert (seen.video, len(seen.samples)) == (True, 0)
    assert len(list(read_back(seen.content, tmp_path).frames())) == 23


def test_what_can_not_be_played_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no recording")
    with pytest.raises(ClipError):
        make_playable(Media(str(tmp_path / "x.mp4")))
    with pytest.raises(ClipError, match="timeout"):
        make_playable(Media(str(record(tmp_path / "a.wav", samples=noise(1.0))), deadline=Deadline(0.0)))


def test_frames_at_odd_times_are_shown_until_the_next() -> None:
    a, b, c = (np.full((2, 2, 3), i, np.uint8) for i in range(3))
    shown = [int(frame[0, 0, 0]) for frame in steady([(2 / FPS, a), (4 / FPS, b), (7 / FPS, c)])]
    assert shown == [0, 0, 0, 0, 1, 1, 1, 2], "the first from the start on"
    assert list(steady([])) == []
