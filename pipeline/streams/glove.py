"""The GloVe vectors (Pennington et al. 2014) that come with CMU-MOSEI, read from its computational sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pipeline.clip import Absent, Clip, ClipError, Modality
from pipeline.media import Media
from pipeline.streams.base import Features
from pipeline.streams.imported import Importer, Sequence2D

COLUMNS = tuple(f"glove_{i:03d}" for i in range(300))
SAME_TIME = 1e-3  # seconds
PAUSE = "sp"


@dataclass(frozen=True)
class Glove(Importer):
    """One frame a spoken word, as the sequence glove_vectors has it: 300 columns.

    The sequence holds no words. The token of a frame at the time of one of clip.words is that word, of any other "sp": the
    sequence has rows for pauses too, which clip.words has not.
    """

    name: ClassVar[str] = "glove"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "text"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "GloVe vectors: PDDL 1.0"
    suffixes: ClassVar[tuple[str, ...]] = (".csd",)
    sequence: ClassVar[tuple[str, int] | None] = ("glove_vectors", 300)

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        raise ClipError(f"{path}: expected a computational sequence, FILE.csd#VIDEO; text is made into vectors by `words`")

    def from_sequence(self, found: Sequence2D) -> Sequence2D:
        if not len(found.times):
            raise Absent("no words between the clip's start and end")
        return found

    def extract(self, clip: Clip, media: Media) -> Features:
        """One row a word. Raises Absent where nothing is said, and what every importer raises."""
        features = super().extract(clip, media)
        spoken = {round((w.start + w.end) / 2 / SAME_TIME): w.text for w in clip.words or ()}
        ticks = np.rint(features.times / SAME_TIME).astype(int).tolist()
        near = [next((spoken[t + d] for d in (0, -1, 1) if t + d in spoken), None) for t in ticks]
        return replace(features, tokens=tuple(token or PAUSE for token in near)) if any(near) else features
