"""Sources of clips, made for tests: empty recordings under chosen names, and sounds; and what is made of them."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.io import wavfile

from pipeline.clip import Clip
from pipeline.corpora.base import Corpus, Problem
from pipeline.media import AUDIO_RATE, open_media
from pipeline.streams.base import Extractor, Features


def touch(folder: Path, *names: str) -> None:
    """Files of one byte, with the folders that they are in."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def tones(folder: Path, n: int, seconds: float = 0.5) -> None:
    """Recordings 00.wav and so on, each of a tone of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(AUDIO_RATE * seconds)) / AUDIO_RATE
    for i in range(n):
        sound = 8000 * np.sin(2 * np.pi * (100 + 5 * i) * t)
        wavfile.write(folder / f"{i:02}.wav", AUDIO_RATE, sound.astype(np.int16))


def read(corpus: Corpus, folder: Path) -> tuple[list[Clip], list[Problem]]:
    problems: list[Problem] = []
    return list(corpus.clips(str(folder), problems.append)), problems


def extract(extractor: Extractor, samples: npt.NDArray[np.floating], rate: int = AUDIO_RATE) -> Features:
    """The features of a WAV file of these samples (32-bit float), with warnings as errors."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / "clip.wav"
        wavfile.write(path, rate, samples.astype(np.float32))
        clip = Clip("clip", str(path))
        with open_media(clip) as media:
            return extractor.extract(clip, media)
