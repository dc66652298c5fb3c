"""FACET's raw CSV and iMotions' exports, written by the tests in the layouts of versions 4.2, 5.7 and 6.1."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from csd_files import write_csd

from pipeline.clip import Clip
from pipeline.extract import extract_rows
from pipeline.store import ClipRow
from pipeline.streams import make_stream
from pipeline.streams.facet import ALL, Facet
from pipeline.streams.imported import Sequence2D

COLUMNS = (
    "Anger Contempt Disgust Joy Fear Baseline Sadness Surprise Confusion Frustration AU1 AU2 AU4 AU5 AU6 AU7 AU9 AU10 AU12 "
    "AU14 AU15 AU17 AU18 AU20 AU23 AU24 AU25 AU26 AU28 AU43 Has_Glasses Is_Male Pitch Yaw Roll"
).split()
KINDS = {"Has_Glasses": "HasGlasses Probability", "Is_Male": "IsMale Probability", "Baseline": "Neutral Evidence"}
KINDS |= {"Pitch": "Pitch Degrees", "Yaw": "Yaw Degrees", "Roll": "Roll Degrees"}
EXPORT = [KINDS.get(name, f"{name} Evidence") for name in COLUMNS]
PREAMBLE = "#Study : Talk\n#Date : 20171006 11:12:32\n#Version : 6.1.2667.3\n\n"


def extract(path: Path | str, **options: object) -> ClipRow:
    return extract_rows(make_stream("facet", {"files": str(path), **options}), [Clip("c", "")])[0]


def found(path: Path | str, **options: object) -> Sequence2D:
    result = extract(path, **options)
    assert result.features is not None, result.reason
    return Sequence2D(result.features.times, result.features.values)


def raw(path: Path, rows: np.ndarray, shift: float = 1 / 30) -> Path:
    lines = [",".join([str(i), f"{i * shift:.6f}", *(f"{x:g}" for x in row)]) + ",\n" for i, row in enumerate(rows)]
    path.write_text("".join(lines))
    return path


def export(
    path: Path, rows: list[dict[str, object]], header: list[str], preamble: str = PREAMBLE, delimiter: str = "\t"
) -> Path:
    with path.open("w", newline="") as file:
        file.write(preamble)
        writer = csv.DictWriter(file, header, delimiter=delimiter, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def evidence(k: float) -> dict[str, object]:
    """Every column's place and the row's k in it; intensities beside them, which are others."""
    return {name: i + k for i, name in enumerate(EXPORT)} | {"Joy Intensity": 99}


def frame(k: int, **more: object) -> dict[str, object]:
    basis = {"EventSource": "Emotient FACET", "Timestamp": 40 + 33 * k, "FrameNo": k, "FrameTime": 33 * k, "NoOfFaces": 1}
    return basis | evidence(k / 10) | more


HEADER = ["StimulusName", "EventSource", "Timestamp", "FrameNo", "FrameTime", "NoOfFaces", "Joy Intensity", *EXPORT]


def test_raw_rows_are_frame_time_and_the_published_columns(tmp_path: Path) -> None:
    assert list(ALL) == COLUMNS
    rows = np.arange(35.0) + np.arange(4.0)[:, None] / 10
    rows[2] = 0
    path = raw(tmp_path / "a.csv", rows)
    frames = found(path, emotions=True)
    rows[2] = np.nan  # zeros: no face
    assert frames.values == pytest.approx(rows, nan_ok=True)
    assert frames.times == pytest.approx(np.arange(4) / 30, abs=1e-6)
    assert np.array_equal(found(path).values, frames.values[:, 10:], equal_nan=True)


def test_predicted_emotions_are_left_out_unless_they_are_asked_for() -> None:
    assert list(Facet().columns) == COLUMNS[10:]
    assert list(Facet(emotions=True).columns) == COLUMNS


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("preamble", [PREAMBLE, "", "\n".join(["#INFO,x"] + ["#METADATA,y,z"] * 30 + ["#DATA,"]) + "\n"])
def test_columns_of_an_export_are_found_by_name(tmp_path: Path, delimiter: str, preamble: str) -> None:
    path = export(tmp_path / "a.txt", [frame(k) for k in range(3)], HEADER[::-1], preamble, delimiter)
    frames = found(path, emotions=True)
    assert frames.values == pytest.approx(np.arange(35) + np.arange(3)[:, None] / 10)
    assert frames.times == pytest.approx([0, 0.033, 0.066])


def test_rows_of_other_sensors_and_from_before_the_recording_are_no_frames(tmp_path: Path) -> None:
    nothing = {"NoOfFaces": -1} | dict.fromkeys(EXPORT, "")
    rows = [
        {"EventSource": "ET", "Timestamp": 7},
        frame(0, FrameNo=-1),
        frame(0),
        frame(0, EventSource="ET", Timestamp=57, StimulusName='a stray " quote'),  # repeats the last frame
        frame(1, EventSource="ET|Emotient FACET"),
        frame(2) | nothing,
        frame(3, NoOfFaces=0),
    ]
    frames = found(export(tmp_path / "a.txt", rows, HEADER))
    assert frames.times == pytest.approx([0, 0.033, 0.066, 0.099])
    assert np.isnan(frames.values).all(axis=1).tolist() == [False, False, True, True]
    assert frames.values[:2, 0] == pytest.approx([10, 10.1])
    no_facet = export(tmp_path / "b.txt", [frame(0, EventSource="ET")], HEADER)
    assert "no row is a frame of FACET" in str(extract(no_facet).reason)


def test_columns_that_a_version_lacks_are_not_observed(tmp_path: Path) -> None:
    header = [name for name in HEADER if name not in ("Confusion Evidence", "Frustration Evidence", "AU43 Evidence")]
    rows = [{k: v for k, v in frame(0).items() if k in header}]
    values = found(export(tmp_path / "a.txt", rows, header), emotions=True).values[0]
    assert [COLUMNS[i] for i in np.flatnonzero(np.isnan(values))] == ["Confusion", "Frustration", "AU43"]


@pytest.mark.parametrize(
    ("name", "times", "seconds"),
    [
        ("FrameTime", [0, 33, 67], [0, 0.033, 0.067]),
        ("FrameTime", [0, 0.033, 0.067], [0, 0.033, 0.067]),
        ("Timestamp", [500_000, 500_033, 500_067], [500, 500.033, 500.067]),
        ("Timestamp (s)", [10, 12, 14], [10, 12, 14]),
        ("Timestamp [ms]", [0.1, 0.2, 0.3], [0.0001, 0.0002, 0.0003]),
        ("time", [3, 3.04, 3.08], [3, 3.04, 3.08]),
    ],
)
def test_milliseconds_and_seconds(tmp_path: Path, name: str, times: list[float], seconds: list[float]) -> None:
    rows = [{name: t, **evidence(0)} for t in times]
    assert found(export(tmp_path / "a.csv", rows, [name, "Joy Intensity", *EXPORT], "", ",")).times == pytest.approx(seconds)


def test_raw_times_may_be_milliseconds(tmp_path: Path) -> None:
    rows = np.ones((3, 35))
    assert found(raw(tmp_path / "a.csv", rows, 40.0)).times == pytest.approx([0, 0.04, 0.08])
    assert found(raw(tmp_path / "b.csv", rows[:1])).times.tolist() == [0]


def test_a_clock_that_stands_still_gives_way_to_the_timestamp(tmp_path: Path) -> None:
    rows = [frame(k, FrameTime=0) for k in range(3)]
    assert found(export(tmp_path / "a.txt", rows, HEADER)).times == pytest.approx([0.04, 0.073, 0.106])
    clock = [frame(k, FrameTime=0, Timestamp=f"20171004_18222882{k}") for k in range(3)]
    reason = str(extract(export(tmp_path / "b.txt", clock, HEADER)).reason)
    assert "column Timestamp: found '20171004_182228820', expected a number" in reason


def test_files_that_are_not_facets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("0,0.0,1,2,3\n")
    assert "expected frame, time and the 35 columns of FACET 4.2, found 5" in str(extract(tmp_path / "a.csv").reason)
    affectiva = ["Timestamp", "Anger", "Joy", "Brow Furrow", "Pitch"]
    path = export(tmp_path / "b.csv", [dict.fromkeys(affectiva, 1)], affectiva, PREAMBLE, ",")
    assert "a header of iMotions with AU1 Evidence" in str(extract(path).reason)
    path = export(tmp_path / "c.csv", [evidence(0)], ["Joy Intensity", *EXPORT], "", ",")
    assert "no column FrameTime or Timestamp" in str(extract(path).reason)
    stimuli = [frame(k % 60) for k in range(120)]
    assert "times go back after frame 60" in str(extract(export(tmp_path / "d.txt", stimuli, HEADER)).reason)
    short = raw(tmp_path / "e.csv", np.ones((3, 35)))
    short.write_text(short.read_text() + "3,0.1,1\n")
    assert "line 4 has 3 fields, expected 38" in str(extract(short).reason)


def test_the_computational_sequence_has_the_same_columns(tmp_path: Path) -> None:
    rows = np.arange(70, dtype=np.float32).reshape(2, 35) + 1
    rows[1] = 0
    rows[0, 34] = np.inf
    times = np.array([[0.0, 0.1], [0.1, 0.2]])
    sequence = write_csd(tmp_path / "f.csd", "FACET 4.2", {"v": (times, rows), "w": (times, rows[:, :20])})
    whole = found(f"{sequence}#v", emotions=True).values
    assert whole[0, :34].tolist() == list(range(1, 35))
    assert np.isnan(whole[0, 34])
    assert np.isnan(whole[1]).all()
    assert np.array_equal(found(f"{sequence}#v").values, whole[:, 10:], equal_nan=True)
    assert "has 20 columns, expected 35 of FACET 4.2" in str(extract(f"{sequence}#w").reason)
