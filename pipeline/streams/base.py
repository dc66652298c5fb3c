"""What an extractor is: a plain object with a name, a version and extract(clip, media). No Ray here."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pipeline.clip import Clip, Modality
from pipeline.media import AUDIO_RATE, Media


@dataclass(frozen=True, slots=True)
class Features:
    """One clip's sequence in one stream.

    values: (n_frames, n_columns) float32; NaN where there is no observation (no face in the frame, say).
    times: (n_frames,) float64, the middle of each frame in seconds from the clip's start, never decreasing.
    tokens: the word of each frame, for a stream with one frame a word; None elsewhere.
    """

    values: npt.NDArray[np.float32]
    times: npt.NDArray[np.float64]
    tokens: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Extractor:
    """Base of every extractor: a frozen dataclass whose fields are its options.

    Heavy things (weights, tables) are loaded in load(), once a process, never in __init__: an extractor that is only
    described, compared or sent to a worker costs nothing. Raise version whenever the same clip would give other numbers.
    """

    name: ClassVar[str]
    """Of the stream; make_stream() gives an object another, where one extractor makes several streams of a store."""
    version: ClassVar[str]
    modality: ClassVar[Modality]
    frame_shift: ClassVar[float | None]
    """Seconds from one frame to the next; None where the recording decides (native frame rate, one frame a word)."""
    licence: ClassVar[str]
    """Of the extractor and its weights, in a few words, for people who must know before they use it."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages beyond the core ones, as `pip install` knows them."""
    since: ClassVar[dict[str, Any]] = {}
    """Options that came later, with the value that features had before: where it is theirs, it is not told."""
    places: ClassVar[tuple[str, ...]] = ()
    """Options that say where files are and not what is in them: no part of what a stream is."""
    reads_recording: ClassVar[bool] = True
    """Whether extract() asks for media; where not, the recording need not be there, and is not fetched."""
    can_use_gpu: ClassVar[bool] = False
    cpus: ClassVar[float] = 1.0
    gpus: ClassVar[float] = 0.0
    """What a worker asks Ray for. An object that may use a GPU has another share of one (on_gpu()); load() looks at it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Name of each column of Features.values, in order."""
        raise NotImplementedError

    def changed(self, **options: Any) -> Self:
        """The same stream with other options."""
        other = replace(self, **options)
        for own in {"name", "gpus"} & self.__dict__.keys():
            object.__setattr__(other, own, self.__dict__[own])
        return other

    def on_gpu(self, share: float) -> Self:
        """The same stream, extracted on that share of a GPU: the same features within rounding, so what it is stays."""
        other = self.changed()
        object.__setattr__(other, "gpus", share)
        return other

    def settled(self, clips: Iterable[Clip]) -> Self:
        """The same, with the options filled in that only the files can tell, such as the columns of an array.

        Called once a job, before anything is described or extracted. Raises ValueError where the files don't tell.
        """
        return self

    def load(self) -> None:
        """Load what extract() needs. Called once in a worker, before the first clip."""

    def extract(self, clip: Clip, media: Media) -> Features:
        """The clip's features. Raises Absent or ClipError for a clip that can't be used; anything else is a bug.

        Calls media.deadline.check() in any loop of its own that may take long.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """All that makes the numbers what they are, as JSON: kept in the store and compared before anything is reused."""
        return {
            "name": self.name,
            **({"extractor": type(self).name} if self.name != type(self).name else {}),
            "version": self.version,
            "modality": self.modality,
            "frame_shift": self.frame_shift,
            "columns": list(self.columns),
            "config": {k: v for k, v in asdict(self).items() if k not in self.places and (k, v) not in self.since.items()},
            "licence": self.licence,
        }

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: str) -> str:
    """Of a file that an option names, computed once a process for what it holds. Raises OSError where it can't be read."""
    state = os.stat(path)
    return _sha256(path, state.st_size, state.st_mtime_ns)


@functools.cache
def _sha256(path: str, _size: int, _mtime_ns: int) -> str:  # size and time are the cache's key: a file can be replaced
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SPEEDS = 0.5, 2.0


@dataclass(frozen=True)
class AudioExtractor(Extractor):
    """One that hears the recording as if it were played at another speed, and so pitch: another speaker, to training
    (train.alternatives). Its frame shift is that of what it hears; its times are those of the recording."""

    speed: float = field(default=1.0, kw_only=True)

    modality: ClassVar[Modality] = "audio"
    since: ClassVar[dict[str, Any]] = {"speed": 1.0}

    def __post_init__(self) -> None:
        if isinstance(self.speed, bool) or not isinstance(self.speed, int | float) or not SPEEDS[0] <= self.speed <= SPEEDS[1]:
            raise ValueError(f"speed: found {self.speed!r}, expected {SPEEDS[0]:g} to {SPEEDS[1]:g}")

    @property
    def _rate(self) -> int:
        """Samples a second of the recording, which is then taken to have AUDIO_RATE."""
        return round(AUDIO_RATE / self.speed)

    def samples(self, media: Media) -> npt.NDArray[np.float32]:
        """Media.audio() as it is played. Raises what that raises."""
        return media.audio(self._rate)

    def times(self, n_frames: int, hop: int) -> npt.NDArray[np.float64]:
        """In the recording, of frames that are hop samples apart, the first at its start."""
        return np.arange(n_frames) * hop / self._rate
