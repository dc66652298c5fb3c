"""Recordings to test decoding with: every frame shows its own number, every sample has a known value."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from pipeline.media import ffmpeg_path

BARS = 8

# What each container is recorded with here, beyond its name.
CONTAINERS: dict[str, dict[str, Any]] = {
    "mp4": {"vcodec": "libx264", "acodec": "aac", "pix_fmt": "yuv420p"},
    "mov": {"vcodec": "mjpeg", "acodec": "pcm_s16le", "pix_fmt": "yuvj420p"},
    "mkv": {"vcodec": "libx264", "acodec": "flac", "pix_fmt": "yuv420p", "sample_fmt": "s16"},
    "webm": {"vcodec": "libvpx", "acodec": "libopus"},
    "flv": {"vcodec": "flv1", "acodec": "libmp3lame", "ar": 44100},
    "avi": {"vcodec": "mpeg4", "acodec": "pcm_s16le"},
    "mpg": {"vcodec": "mpeg2video", "acodec": "mp2"},
    "ts": {"vcodec": "libx264", "acodec": "aac", "pix_fmt": "yuv420p"},
    "wmv": {"vcodec": "wmv2", "acodec": "wmav2"},
    "ogv": {"vcodec": "libtheora", "acodec": "libvorbis"},
}


def counter(count: int, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """`count` RGB frames; frame i shows i (modulo 256) as eight upright bars, lit where the bit is set, lowest at the left."""
    bits = (np.arange(count)[:, None] >> np.arange(BARS)) & 1
    columns = bits[:, np.arange(width) * BARS // width].astype(np.uint8) * 255
    return np.broadcast_to(columns[:, None, :, None], (count, height, width, 3))


def number(frame: npt.NDArray[np.uint8]) -> int:
    """The number that a frame of counter() shows."""
    height, width, _ = frame.shape
    centres = (np.arange(BARS) * 2 + 1) * width // (2 * BARS)
    lit = frame[height // 2, centres].mean(-1) > 127
    return int((lit << np.arange(BARS)).sum())


def noise(seconds: float, rate: int = 16_000, channels: int = 1) -> npt.NDArray[np.float32]:
    """Noise, the same every time: each moment of it is like no other. Shape (n,), or (n, channels)."""
    samples = np.random.default_rng(0).standard_normal((round(seconds * rate), channels)) * 0.1
    return samples.astype(np.float32).squeeze() if channels == 1 else samples.astype(np.float32)


def lag(late: npt.NDArray[np.float32], early: npt.NDArray[np.float32]) -> int:
    """By how many samples the first of two recordings of the same sound comes later than the second."""
    n = min(len(late), len(early))
    product = np.fft.rfft(late[:n], 2 * n) * np.conj(np.fft.rfft(early[:n], 2 * n))
    best = int(np.fft.irfft(product).argmax())
    return best if best < n else best - 2 * n


def record(
    path: Path,
    *,
    frames: int = 0,
    fps: str = "25",
    size: tuple[int, int] = (64, 48),
    times: str | None = None,
    samples: npt.NDArray[np.floating[Any]] | None = None,
    rate: int = 16_000,
    video_late: float = 0.0,
    audio_late: float = 0.0,
    **options: Any,
) -> Path:
    """Write a recording of counter() frames, of samples (n,) or (n, channels), or of both. Returns its path.

    times is an expression in N, the number of the frame, for its time in seconds, in place of a constant rate. What is
    late starts so many seconds after the recording does. options go to ffmpeg as they are.
    """
    tracks = []
    pixels = None
    with tempfile.NamedTemporaryFile() as sound:
        if frames:
            pixels = counter(frames, *size).tobytes()
            shape = f"{size[0]}x{size[1]}"
            video = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=shape, r=fps)["v"]
            if times is not None:
                video = video.filter("settb", "1/90000").filter("setpts", f"({times})/TB")
                options |= {"fps_mode": "passthrough", "enc_time_base": "1:90000"}
            if video_late:
                video = video.filter("setpts", f"PTS+{video_late}/TB")
                options["fps_mode"] = "passthrough"
            tracks.append(video)
            options.setdefault("q:v", 2)
        if samples is not None:
            sound.write(np.asarray(samples, "<f4").tobytes())
            sound.flush()
            channels = 1 if samples.ndim == 1 else samples.shape[1]
            audio = ffmpeg.input(sound.name, format="f32le", ar=rate, ac=channels)["a"]
            tracks.append(audio.filter("asetpts", f"PTS+{audio_late}/TB") if audio_late else audio)
        write(ffmpeg.output(*tracks, str(path), **options), pixels)
    return path


def write(output: Any, data: bytes | None = None) -> None:
    """Run ffmpeg; where it fails, raise with its own words."""
    try:
        ffmpeg.run(output.global_args("-loglevel", "error", "-y"), cmd=ffmpeg_path(), input=data, capture_stderr=True)
    except ffmpeg.Error as e:
        raise RuntimeError(e.stderr.decode("utf-8", "replace")) from e
