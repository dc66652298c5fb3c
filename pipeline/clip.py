"""A clip: one labelled (or not yet labelled) segment of one person speaking, and the ways in which it can be unusable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Modality = Literal["audio", "vision", "text"]
MODALITIES: tuple[Modality, ...] = ("audio", "vision", "text")

Status = Literal["ok", "absent", "error"]
"""What became of one clip in one stream.

ok: features are there. absent: the clip is fine and simply has none of it (no video track, no transcript).
error: the clip should have had it and could not be used; the reason says why."""


class ClipError(Exception):
    """This clip can't be used, and the message says why. Becomes a row with status "error"; never stops a job."""


class Absent(ClipError):
    """The clip has nothing of what was asked for (no audio track, no words). Becomes a row with status "absent"."""


@dataclass(frozen=True, slots=True)
class Word:
    """One spoken word, with its times in seconds from the start of the clip."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of the manifest.

    start and end cut the clip out of a longer recording, in seconds; None means from its start, to its end.
    emotion is a class; intensities maps emotion names to values (a regression target). Both may be missing: a clip
    to be scored needs no label. fold is the corpus's own, published fold or split, where there is one.

    shares: a soft label, class to share, of sum 1; emotion is then the class of the largest. votes: how many raters chose
    which emotion, by what they were shown: {"audio" or "vision" or "both": {emotion: votes}}.
    features: addresses of sequences that somebody else extracted from the recording, by the importer that reads them, such
    as {"openface": "/data/openface/clip1.csv"}.
    """

    clip_id: str
    uri: str
    start: float | None = None
    end: float | None = None
    speaker: str | None = None
    transcript: str | None = None
    words: tuple[Word, ...] | None = None
    emotion: str | None = None
    intensities: dict[str, float] | None = None
    fold: str | None = None
    shares: dict[str, float] | None = None
    votes: dict[str, dict[str, float]] | None = None
    features: dict[str, str] | None = None
    attributes: dict[str, str] = field(default_factory=dict)
