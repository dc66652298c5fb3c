"""FACET (Emotient, iMotions): action units and head pose, from its own raw CSV or from an export of iMotions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.clip import ClipError, Modality
from pipeline.streams.imported import Importer, Sequence2D, Table, bare_table, is_number, open_table

EMOTIONS = tuple("Anger Contempt Disgust Joy Fear Baseline Sadness Surprise Confusion Frustration".split())
UNITS = tuple(f"AU{unit}" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 18, 20, 23, 24, 25, 26, 28, 43))
FACE = tuple("Has_Glasses Is_Male Pitch Yaw Roll".split())
ALL = (*EMOTIONS, *UNITS, *FACE)

OTHER_NAMES = {"neutral": "baseline"}  # what iMotions calls it
KINDS = re.compile(r"(evidence|degrees|probability)$")
PREAMBLE = 100  # lines before the header of an export, at most


@dataclass(frozen=True)
class Facet(Importer):
    """FACET's evidence of 20 action units, glasses, sex and head pose: 25 columns, at the rate of the recording.

    emotions: also its first ten columns, which are what another model predicts for emotions. They are left out by default:
    a model that is given a judgement of the emotion measures that judgement, and not what the face shows.

    Two kinds of file. The raw one (FACET 4.2, as with CMU-MOSEI) has no header: frame, time, the 35 columns, and a trailing
    comma; a row of zeros is a frame without a face. An export of iMotions, CSV or tabs, has lines of metadata and then a
    header: columns are found by their names, whatever their case, spaces and endings ("AU1 Evidence", "Yaw Degrees"); Neutral
    is Baseline. Where it has several sensors (column EventSource), only FACET's own rows are frames, since iMotions repeats
    its last values in the others', and of those only the ones of the recording (FrameNo 0 and more). Frames without a face
    (NoOfFaces below 1, empty, all zero) keep their time and are NaN. A column that an export lacks is NaN (versions before 6
    have no Confusion); none of the action units at all is an error.

    Times of an export are FrameTime, where the frame is in the recording of the face, or, where that does not advance,
    Timestamp. FrameTime begins anew with each stimulus: a file that holds several is an error, export each to its own. Times
    are milliseconds or seconds, as the column's name says ("Timestamp (s)", "[ms]"); where it does not say, they are
    milliseconds if frames are 1 or more apart in the median, since no camera makes but a frame a second.
    """

    emotions: bool = False

    name: ClassVar[str] = "facet"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "vision"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "FACET, iMotions: commercial"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".txt")
    sequence: ClassVar[tuple[str, int] | None] = ("FACET 4.2", 35)

    @property
    def columns(self) -> tuple[str, ...]:
        return ALL if self.emotions else ALL[len(EMOTIONS) :]

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        raw = bare_table(data, path)
        if all(is_number(field) for field in raw.first()[:2]):
            if len(raw.header) not in (len(ALL) + 2, len(ALL) + 3):  # with or without the trailing comma
                found = f"found {len(raw.header)} in the first line"
                raise ClipError(f"{raw.name}: expected frame, time and the {len(ALL)} columns of FACET 4.2, {found}")
            values, times, _ = raw.read(deadline, [ALL.index(name) + 2 for name in self.columns], [1])
            return Sequence2D(_seconds(times[:, 0], ""), _faces(values))
        expected = "FACET's raw rows of 37 numbers, or a header of iMotions with AU1 Evidence and the others"
        return self._export(open_table(data, path, _has_units, expected, PREAMBLE), deadline)

    def _export(self, table: Table, deadline: Callable[[], None]) -> Sequence2D:
        places: dict[str, int] = {}
        for i, name in enumerate(table.header):
            places.setdefault(_plain(name), i)
        clocks = [places[name] for name in ("frametime", "timestamp", "time") if name in places]
        if not clocks:
            raise ClipError(f"{table.name}: no column FrameTime or Timestamp")
        wanted = [places.get(_plain(name)) for name in self.columns]
        counts = [places[name] for name in ("nooffaces", "frameno") if name in places]
        sources = [places["eventsource"]] if "eventsource" in places else []
        values, marks, texts = table.read(deadline, wanted, [*clocks, *counts], sources)
        if "nooffaces" in places:
            values[~(marks[:, len(clocks)] >= 1)] = np.nan
        own = np.array(["facet" in text.lower() for text in texts[0]]) if sources else np.full(len(values), True)
        if "frameno" in places:
            own &= ~(marks[:, -1] < 0)
        if not own.any():
            raise ClipError(f"{table.name}: no row is a frame of FACET (by EventSource and FrameNo)")
        clock = next((i for i in range(len(clocks)) if np.ptp(marks[own, i]) > 0), len(clocks) - 1)
        return Sequence2D(_seconds(marks[own, clock], table.header[clocks[clock]]), _faces(values[own]))

    def from_sequence(self, found: Sequence2D) -> Sequence2D:
        return Sequence2D(found.times, _faces(found.values[:, [ALL.index(name) for name in self.columns]]))


def _plain(name: str) -> str:
    """A column's name without case, spaces, unit and kind: "AU1 Evidence" is au1, "Has_Glasses" hasglasses."""
    letters = re.sub(r"[^a-z0-9]", "", re.sub(r"[\[(].*?[\])]", "", name.lower()))
    plain = KINDS.sub("", letters)
    return OTHER_NAMES.get(plain, plain)


def _has_units(header: Sequence[str]) -> bool:
    return {"au1", "au12"} <= {_plain(name) for name in header}


def _seconds(times: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
    unit = re.search(r"[\[(]\s*(ms|milliseconds?|s|sec|seconds?)\s*[\])]", name.lower())
    if unit:
        return times / 1000 if unit[1].startswith("m") else times
    steps = np.diff(np.sort(times))
    return times / 1000 if (steps > 0).any() and np.median(steps[steps > 0]) >= 1 else times


def _faces(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of zeros, which are frames without a face, as NaN."""
    return np.where((values == 0).all(axis=1)[:, None], np.float32(np.nan), values)
