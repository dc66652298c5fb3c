"""One clock for all streams: what is seen and heard at the same moment has the same time in every stream, to one frame.

The recording has a variable frame rate; every frame shows its own number, and a beep begins the moment that certain frames
come up. Where a track starts late, what it shows or sounds is late by as much.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from media_files import CONTAINERS, number, record

from pipeline.clip import Clip
from pipeline.media import AUDIO_RATE, open_media
from pipeline.streams.acoustic import COLUMNS, HOP, Acoustic
from pipeline.streams.base import Features
from pipeline.streams.face import Face
from pipeline.streams.speech import Speech

Doubles = npt.NDArray[np.float64]

FRAMES = 120
# 25 frames a second, every third one 9 ms late, and 10 a second from frame 60 on: 2.4 s and 6 s.
TIMES = "if(lt(N,60),N/25+0.009*eq(mod(N,3),2),2.4+(N-60)/10)"
FRAME_TIMES = np.array([n / 25 + 0.009 * (n % 3 == 2) if n < 60 else 2.4 + (n - 60) / 10 for n in range(FRAMES)])
EVENTS = (20, 41, 59, 63, 80, 98)  # frames with which a beep begins
BEEP = 0.06  # seconds
LATE = {"together": (0.0, 0.0), "late audio": (0.0, 0.52), "late video": (0.37, 0.0)}
CUTS = {"whole": (None, None), "both": (1.31, 5.52), "start": (2.61, None)}
TICK = 0.0011  # mkv and webm count milliseconds
# Where sound by Opus comes first in a Matroska file, ffmpeg takes its second packet for the recording's start: that is 13 ms
# late, for all streams alike.
OPUS_START = 0.0135


class Recording(NamedTuple):
    """Times of the frames, (FRAMES,), and of the beeps' middles, (len(EVENTS),), in seconds from the recording's start.

    early: by how much that start is later than it was recorded.
    """

    path: Path
    frames: Doubles
    beeps: Doubles
    early: float

    def clip(self, cut: str) -> Clip:
        return Clip("clip", str(self.path), *CUTS[cut])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Recording]:
    folder = tmp_path_factory.mktemp("timing")
    made = {}
    for suffix in ("mp4", "mkv", "webm"):
        for name, (video_late, audio_late) in LATE.items():
            frames = FRAME_TIMES + video_late
            begins = frames[list(EVENTS)]
            samples = np.zeros(round(9 * AUDIO_RATE))
            tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(BEEP * AUDIO_RATE)) / AUDIO_RATE)
            for begin in begins - audio_late:
                samples[round(begin * AUDIO_RATE) :][: len(tone)] = tone
            late = {"video_late": video_late, "audio_late": audio_late}
            path = folder / f"{name}.{suffix}"
            record(path, frames=FRAMES, times=TIMES, samples=samples, **late, **CONTAINERS[suffix])
            with open_media(Clip("clip", str(path))) as media:
                early = frames[0] - next(media.frames())[0]
            made[suffix, name] = Recording(path, frames - early, begins + BEEP / 2 - early, early)
    return made


def inside(times: Doubles, cut: str) -> tuple[Doubles, Doubles]:
    """Of times in the recording, those in a clip, from the clip's start; and which they are."""
    start, end = CUTS[cut]
    here = np.flatnonzero((times >= (start or 0)) & (times < (end or np.inf)))
    return times[here] - (start or 0.0), here


def middles(times: Doubles, level: Doubles, near: Doubles) -> Doubles:
    """The centre of what sounds within 0.1 s of each of some times."""
    close = [np.abs(times - time) < 0.1 for time in near]
    return np.array([np.average(times[c], weights=level[c]) for c in close])


@pytest.mark.parametrize("cut", list(CUTS))
@pytest.mark.parametrize("late", list(LATE))
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_frames_come_once_at_their_times_and_beeps_are_heard_with_them(recordings, suffix: str, late: str, cut: str) -> None:
    recording = recordings[suffix, late]
    clip = recording.clip(cut)
    assert -TICK <= recording.early <= (OPUS_START if (suffix, late) == ("webm", "late video") else TICK)
    with open_media(clip) as media:
        found = [(seconds, number(frame)) for seconds, frame in media.frames()]
        samples = media.audio().astype(np.float64)
        features = Acoustic().extract(clip, media)
    times, numbers = inside(recording.frames, cut)
    assert [n for _, n in found] == numbers.tolist()
    assert [seconds for seconds, _ in found] == pytest.approx(times, abs=TICK)
    beeps, which = inside(recording.beeps, cut)
    assert len(which) >= 3
    heard = middles(np.arange(len(samples)) / AUDIO_RATE, samples**2, beeps)
    assert heard == pytest.approx(beeps, abs=0.003)
    loudness = features.values[:, COLUMNS.index("loudness")].astype(np.float64)
    assert middles(features.times, loudness, beeps) == pytest.approx(beeps, abs=HOP)


def test_face_and_speech_frames_have_the_times_of_what_they_show(recordings) -> None:
    face, speech = Face(), Speech()
    face.load()
    speech.load()
    for suffix, late, cut in (("mp4", "late video", "both"), ("mkv", "late audio", "whole")):
        recording = recordings[suffix, late]
        clip = recording.clip(cut)
        found: list[Features] = []
        for extractor in (face, speech):
            with open_media(clip) as media:
                found.append(extractor.extract(clip, media))
        seen, spoken = found
        assert seen.times == pytest.approx(inside(recording.frames, cut)[0], abs=TICK)
        # Silence, beep, silence: encoder states change most where a beep begins and where it ends.
        beeps, _ = inside(recording.beeps, cut)
        change = np.linalg.norm(np.diff(spoken.values, axis=0), axis=1).astype(np.float64)
        between = (spoken.times[1:] + spoken.times[:-1]) / 2
        assert middles(between, (change - np.median(change)).clip(0), beeps) == pytest.approx(beeps, abs=0.02)
