"""OpenFace's output, versions 1 and 2 (Baltrušaitis et al. 2016, 2018): CSV files of FeatureExtraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.clip import ClipError, Modality
from pipeline.streams.imported import Importer, Sequence2D, names_of, open_table

AXES = "xyz"
INTENSITIES = ("01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45")
PRESENCES = (*INTENSITIES[:-1], "28", "45")

GROUPS: dict[str, tuple[str, ...]] = {  # in the order of the header of 2.x
    "gaze": (*(f"gaze_{eye}_{axis}" for eye in (0, 1) for axis in AXES), "gaze_angle_x", "gaze_angle_y"),
    "eye_lmk": tuple(f"eye_lmk_{axis}_{i}" for axis in "xyXYZ" for i in range(56)),
    "pose": tuple(f"pose_{kind}{axis}" for kind in "TR" for axis in AXES),
    "landmarks_2d": tuple(f"{axis}_{i}" for axis in "xy" for i in range(68)),
    "landmarks_3d": tuple(f"{axis}_{i}" for axis in "XYZ" for i in range(68)),
    "shape": (*"p_scale p_rx p_ry p_rz p_tx p_ty".split(), *(f"p_{i}" for i in range(34))),
    "AU_r": tuple(f"AU{unit}_r" for unit in INTENSITIES),
    "AU_c": tuple(f"AU{unit}_c" for unit in PRESENCES),
}
ALL = tuple(name for names in GROUPS.values() for name in names)
BOOKKEEPING = ("timestamp", "confidence", "success")


@dataclass(frozen=True)
class OpenFace(Importer):
    """Gaze, head pose, action units and landmarks, as OpenFace gives them, at the rate of the recording.

    groups: which columns, of gaze (8), eye_lmk (280), pose (6), landmarks_2d (136), landmarks_3d (204), shape (40), AU_r
    (17 intensities) and AU_c (18 presences), in the order of the header of 2.x.

    A frame that OpenFace could not track (success 0) or tracked with less than min_confidence keeps its time, and its values
    are NaN; neither column is part of the stream, since success is confidence past a threshold. OpenFace's author takes
    confidence below 0.7 for a failure (issue 270 of the project); success alone lets through frames on which the tracker was
    just begun anew (issue 568).

    The versions differ: 1.x has no gaze_angle and no eye_lmk, 2.0 no face_id. A column that a file does not have is NaN, so
    that files of several versions make one stream; a file that has nothing of a group (gaze was not asked for, say) is an
    error. Where a file holds several faces (FaceLandmarkVidMulti), the stream is of the face whose confidence, summed over
    its tracked frames, is largest; frames in which it is not there are NaN. Times are those of the column timestamp, where
    the frame is in the recording, as for every stream of video.

    The computational sequence OpenFace_2 has the 713 columns of 2.0's header: frame, timestamp, confidence, success, and then
    the groups (with 2.1's, less the frame, the first two differ, which are not used).
    """

    groups: tuple[str, ...] = ("gaze", "pose", "AU_r", "AU_c")
    min_confidence: float = 0.7

    name: ClassVar[str] = "openface"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "vision"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "OpenFace: academic or non-profit research only"
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    sequence: ClassVar[tuple[str, int] | None] = ("OpenFace_2", len(ALL) + 4)

    def __post_init__(self) -> None:
        given = names_of(self.groups)
        if not given or (unknown := set(given) - set(GROUPS)):
            found = ", ".join(sorted(unknown)) if given else "none"
            raise ValueError(f"openface: groups has {found}: expected some of {', '.join(GROUPS)}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"openface: min_confidence is {self.min_confidence}, expected 0 to 1")
        object.__setattr__(self, "groups", tuple(g for g in GROUPS if g in given))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in GROUPS[group])

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        expected = "OpenFace's header, with " + ", ".join(BOOKKEEPING)
        table = open_table(data, path, lambda header: "confidence" in header, expected)
        places = {name: i for i, name in enumerate(table.header)}
        if missing := [name for name in BOOKKEEPING if name not in places]:
            raise ClipError(f"{table.name}: no column {', '.join(missing)}: expected FeatureExtraction's output for a video")
        for group in self.groups:
            if not any(name in places for name in GROUPS[group]):
                of = ", ".join(GROUPS[group][:2])
                raise ClipError(
                    f"{table.name} has no column of the group {group} ({of}, ...): extract it, or leave it out of groups"
                )
        wanted = [places.get(name) for name in self.columns]
        marks = [places[name] for name in (*BOOKKEEPING, *(("face_id",) if "face_id" in places else ()))]
        values, stamps, _ = table.read(deadline, wanted, marks)
        times, confidence, success = stamps[:, 0], stamps[:, 1], stamps[:, 2]
        values = self._observed(values, confidence, success)
        if "face_id" not in places:
            return Sequence2D(times, values)
        return _best_face(times, values, stamps[:, 3], np.where(success == 1, confidence, 0.0))

    def from_sequence(self, found: Sequence2D) -> Sequence2D:
        success = found.values[:, 3]
        if not np.isin(success, (0, 1)).all():
            raise ClipError("column 4 of the sequence holds more than 0 and 1: expected success, as in OpenFace 2.0's header")
        place = {name: i for i, name in enumerate(ALL, 4)}
        values = found.values[:, [place[name] for name in self.columns]]
        return Sequence2D(found.times, self._observed(values, found.values[:, 2], success))

    def _observed(
        self, values: npt.NDArray[np.float32], confidence: npt.NDArray[np.floating], success: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float32]:
        # Confidence is written with two decimals, and may come as float32.
        seen = (success == 1) & (np.round(confidence, 4) >= self.min_confidence)
        return np.where(seen[:, None], values, np.float32(np.nan))


def _best_face(
    times: npt.NDArray[np.float64],
    values: npt.NDArray[np.float32],
    faces: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
) -> Sequence2D:
    """Every frame, with the values of the face that has most weight in all; NaN where it is not there."""
    ids, which = np.unique(faces, return_inverse=True)
    if len(ids) == 1:
        return Sequence2D(times, values)
    best = which == np.argmax(np.bincount(which, weights=np.nan_to_num(weights)))
    frames = np.unique(times)
    found = np.full((len(frames), values.shape[1]), np.nan, np.float32)
    found[np.searchsorted(frames, times[best])] = values[best]
    return Sequence2D(frames, found)
