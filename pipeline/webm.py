"""A clip as a small WebM file that browsers play: VP8 and Opus, by the bundled ffmpeg.

The recording is decoded by pipeline.media, with its limits; the encoder, a process of its own, gets raw frames and samples,
and opens nothing but the files that are made for it here.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from pipeline.clip import ClipError
from pipeline.media import AUDIO_RATE, Deadline, Media, ffmpeg_path

HEIGHT = 240
FPS = 24
BIT_RATES = {"b:v": "220k", "b:a": "32k"}


@dataclass(frozen=True)
class Playable:
    """content: a WebM file whose time 0 is the clip's start. samples: its sound at AUDIO_RATE, empty where it has none."""

    content: bytes
    video: bool
    samples: npt.NDArray[np.float32]


def make_playable(media: Media) -> Playable:
    """Encode what can be decoded of a clip: picture, sound or both. Raises ClipError where that is nothing, or takes long."""
    try:
        samples = media.audio()
    except ClipError:
        samples = np.zeros(0, np.float32)
    with tempfile.TemporaryDirectory(prefix="webm-") as folder:
        frames = steady(media.frames(HEIGHT))
        try:
            first = next(frames)
        except ClipError:
            return Playable(_encode(folder, iter(()), None, samples, media.deadline), False, samples)
        size = first.shape[1], first.shape[0]
        return Playable(_encode(folder, itertools.chain([first], frames), size, samples, media.deadline), True, samples)


def steady(frames: Iterable[tuple[float, npt.NDArray[np.uint8]]]) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames at their times as FPS frames a second from time 0, each shown until the next one comes; the first at once."""
    shown, count = None, 0
    for seconds, frame in frames:
        while shown is not None and count < round(seconds * FPS):
            yield shown
            count += 1
        shown = frame
    if shown is not None:
        yield shown


def _encode(
    folder: str,
    frames: Iterator[npt.NDArray[np.uint8]],
    size: tuple[int, int] | None,
    samples: npt.NDArray[np.float32],
    deadline: Deadline,
) -> bytes:
    deadline.check()
    if size is None and not len(samples):
        raise ClipError("neither picture nor sound could be decoded")
    target, sound = os.path.join(folder, "clip.webm"), os.path.join(folder, "sound.f32")
    inputs: list[Any] = []
    options: dict[str, Any] = {"format": "webm", **BIT_RATES}
    if size is not None:
        raw = {"format": "rawvideo", "pixel_format": "rgb24", "video_size": size, "framerate": FPS}
        inputs.append(ffmpeg.input("pipe:0", protocol_whitelist="pipe", **raw))
        # A key frame each second, so that a player finds any moment at once.
        options |= {"vcodec": "libvpx", "pix_fmt": "yuv420p", "g": FPS, "deadline": "realtime", "cpu-used": 4}
    if len(samples):
        samples.astype("<f4").tofile(sound)
        inputs.append(ffmpeg.input(f"file:{sound}", protocol_whitelist="file", format="f32le", ar=AUDIO_RATE, ac=1))
        options["acodec"] = "libopus"
    command = ffmpeg.compile(ffmpeg.output(*inputs, f"file:{target}", **options), cmd=ffmpeg_path(), overwrite_output=True)
    quiet = ["-hide_banner", "-nostats", "-loglevel", "error"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([command[0], *quiet, *command[1:]], stdin=subprocess.PIPE, stdout=log, stderr=log) as process,
    ):
        assert process.stdin is not None
        try:
            for frame in frames:
                deadline.check()
                process.stdin.write(frame.tobytes())  # all as large as the first: Media.frames sees to it
            process.stdin.close()
            code = process.wait(timeout=max(deadline.left(), 0.0))
        except subprocess.TimeoutExpired:
            raise ClipError(f"timeout: took longer than {deadline.seconds:g} s") from None
        finally:
            process.kill()  # does nothing to one that has ended
        if code:
            log.seek(0)
            raise RuntimeError(f"ffmpeg could not encode WebM: {log.read(300).decode('utf-8', 'replace')}")
    return Path(target).read_bytes()
