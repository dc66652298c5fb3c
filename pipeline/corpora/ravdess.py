"""RAVDESS (Livingstone and Russo 2018): everything but the recording is in the file's name.

Seven two-digit fields: modality-channel-emotion-intensity-statement-repetition-actor. Folds are the published,
speaker-independent ones of Luna-Jimenez et al. 2021. The spoken words are known from the statement; they are the same
for every emotion, so text carries none of it, and no transcript is set unless the corpus of one's own asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.clip import Clip
from pipeline.corpora.base import Corpus, Problem, Report
from pipeline.corpora.listing import media_files

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
MODALITIES = {"01": "audio-video", "02": "video-only", "03": "audio-only"}
NAME = re.compile(r"^(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])$")


@dataclass(frozen=True)
class Ravdess(Corpus):
    """See the module."""

    name: ClassVar[str] = "ravdess"
    licence: ClassVar[str] = "CC BY-NC-SA 4.0"
    holds: ClassVar[str] = "folder of WAV, MP4 or other recordings under their published names"

    def clips(self, source: str, report: Report) -> Iterator[Clip]:
        """Clips of a RAVDESS folder. A media file whose name is not one of RAVDESS's is reported, and no clip."""
        found = 0
        for relative, address in media_files(source):
            stem = relative.rpartition("/")[2].rpartition(".")[0]
            match = NAME.match(stem)
            if match is None:
                what = f"no RAVDESS name: expected seven two-digit fields such as 03-01-06-01-02-01-12, found {stem!r}"
                report(Problem("unexpected", relative, what))
                continue
            modality, channel, emotion, intensity, statement, repetition, actor = match.groups()
            found += 1
            yield Clip(
                clip_id=stem,
                uri=address,
                speaker=actor,
                emotion=EMOTIONS[int(emotion) - 1],
                fold=next(str(k) for k, actors in enumerate(FOLDS, 1) if int(actor) in actors),
                attributes={
                    "modality": MODALITIES[modality],
                    "channel": "speech" if channel == "01" else "song",
                    "intensity": "normal" if intensity == "01" else "strong",
                    "statement": STATEMENTS[int(statement) - 1],
                    "repetition": repetition,
                    "sex": "male" if int(actor) % 2 else "female",
                },
            )
        if not found:
            raise ValueError(f"no RAVDESS recording below {source}")
