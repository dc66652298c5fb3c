"""OpenFace's CSV, of which the tests write every version, with the csv module."""

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
from pipeline.streams.openface import GROUPS, OpenFace


def numbered(*stems: str, n: int) -> list[str]:
    return [f"{stem}_{i}" for stem in stems for i in range(n)]


UNITS = "01 02 04 05 06 07 09 10 12 14 15 17 20 23 25 26".split()
GAZE = "gaze_0_x gaze_0_y gaze_0_z gaze_1_x gaze_1_y gaze_1_z".split()
POSE = "pose_Tx pose_Ty pose_Tz pose_Rx pose_Ry pose_Rz".split()
REST = [
    *numbered("x", "y", "X", "Y", "Z", n=68),
    *"p_scale p_rx p_ry p_rz p_tx p_ty".split(),
    *numbered("p", n=34),
    *(f"AU{u}_r" for u in [*UNITS, "45"]),
    *(f"AU{u}_c" for u in [*UNITS, "28", "45"]),
]
EYES = numbered("eye_lmk_x", "eye_lmk_y", "eye_lmk_X", "eye_lmk_Y", "eye_lmk_Z", n=56)
V1 = ["frame", "timestamp", "confidence", "success", *GAZE, *POSE, *REST]
V20 = ["frame", "timestamp", "confidence", "success", *GAZE, "gaze_angle_x", "gaze_angle_y", *EYES, *POSE, *REST]
V22 = ["frame", "face_id", *V20[1:]]


def rows(header: list[str], n: int) -> list[dict[str, float]]:
    """Frames at 25 a second; every value tells its column (by its place in 2.2) and its frame."""
    made = []
    for i in range(n):
        row: dict[str, float] = {name: V22.index(name) + i / 100 for name in header}
        made.append(row | {"frame": i + 1, "face_id": 0, "timestamp": round(i * 0.04, 3), "confidence": 0.98, "success": 1})
    return made


def write(path: Path, header: list[str], lines: list[dict[str, float]], space: bool = False) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([" " * (space and i > 0) + name for i, name in enumerate(header)])
        writer.writerows([" " * (space and i > 0) + f"{line[name]:g}" for i, name in enumerate(header)] for line in lines)
    return path


def extract(path: Path | str, **options: object) -> ClipRow:
    return extract_rows(make_stream("openface", {"files": str(path), **options}), [Clip("c", "")])[0]


def values(path: Path | str, **options: object) -> np.ndarray:
    result = extract(path, **options)
    assert result.features is not None, result.reason
    return result.features.values


def test_the_columns_are_those_of_the_published_versions() -> None:
    assert (len(V1), len(V20), len(V22)) == (431, 713, 714)
    assert len(set(V22)) == 714
    assert 714 - len({name.lower() for name in V22}) == 248
    assert {g: len(names) for g, names in GROUPS.items()} == {
        "gaze": 8,
        "eye_lmk": 280,
        "pose": 6,
        "landmarks_2d": 136,
        "landmarks_3d": 204,
        "shape": 40,
        "AU_r": 17,
        "AU_c": 18,
    }
    assert [name for names in GROUPS.values() for name in names] == V20[4:]
    assert len(OpenFace().columns) == 49


@pytest.mark.parametrize("space", [False, True], ids=["2.2", "2.0 and 1, with spaces"])
def test_every_column_is_found_by_its_name_and_case(tmp_path: Path, space: bool) -> None:
    header = V20 if space else V22
    stream = make_stream("openface", {"groups": list(GROUPS)})
    found = values(write(tmp_path / "a.csv", header, rows(header, 3), space), groups=list(GROUPS))
    assert found.shape == (3, 709)
    expected = [[V22.index(name) + i / 100 for name in stream.columns] for i in range(3)]
    assert found == pytest.approx(np.array(expected), rel=1e-5)
    shuffled = [*header[::-1]]
    assert np.array_equal(values(write(tmp_path / "b.csv", shuffled, rows(shuffled, 3)), groups=list(GROUPS)), found)


def test_groups_choose_columns_in_the_order_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", V22, rows(V22, 2))
    assert values(path, groups=["AU_r", "pose"])[0] == pytest.approx(
        [V22.index(n) for n in [*POSE, *V22[V22.index("AU01_r") : V22.index("AU01_c")]]]
    )
    for given in ("AU_r,pose", "pose, AU_r", ["pose", "AU_r"]):
        assert make_stream("openface", {"groups": given}) == OpenFace(groups=("pose", "AU_r"))
    for bad in ("aus", "", []):
        with pytest.raises(ValueError, match=r"groups has .*: expected some of gaze, eye_lmk"):
            make_stream("openface", {"groups": bad})
    with pytest.raises(ValueError, match="expected names with commas between, found 5"):
        make_stream("openface", {"groups": 5})
    with pytest.raises(ValueError, match="min_confidence is 70, expected 0 to 1"):
        OpenFace(min_confidence=70)


def test_frames_that_were_not_tracked_keep_their_time_and_are_not_observed(tmp_path: Path) -> None:
    lines = rows(V22, 5)
    lines[1] |= {"success": 0}
    lines[2] |= {"confidence": 0.69}
    lines[3] |= {"confidence": 0.7}
    path = write(tmp_path / "a.csv", V22, lines)
    result = extract(path)
    assert result.features is not None
    assert np.isnan(result.features.values).all(axis=1).tolist() == [False, True, True, False, False]
    assert not np.isnan(result.features.values[[0, 3, 4]]).any()
    assert result.features.times.tolist() == [0, 0.04, 0.08, 0.12, 0.16]
    assert np.isnan(values(path, min_confidence=0.0)).all(axis=1).tolist() == [False, True, False, False, False]


def test_version_1_has_no_gaze_angle_and_no_eyes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", V1, rows(V1, 2), space=True)
    found = values(path)
    columns = OpenFace().columns
    nan = [name for name, column in zip(columns, found.T, strict=True) if np.isnan(column).any()]
    assert nan == ["gaze_angle_x", "gaze_angle_y"]
    assert found[0][columns.index("AU45_c")] == V22.index("AU45_c")
    assert "has no column of the group eye_lmk" in str(extract(path, groups=["eye_lmk", "pose"]).reason)


def test_a_group_that_was_not_asked_of_openface_is_an_error(tmp_path: Path) -> None:
    header = [n for n in V22 if not n.startswith(("gaze", "eye"))]
    path = write(tmp_path / "a.csv", header, rows(header, 2))
    assert "no column of the group gaze (gaze_0_x, gaze_0_y, ...): extract it, or leave it out" in str(extract(path).reason)
    assert values(path, groups=["pose", "AU_r"]).shape == (2, 23)


def test_of_several_faces_the_one_that_is_tracked_best_is_taken(tmp_path: Path) -> None:
    lines = []
    for line in rows(V22, 6):
        frame = int(line["frame"])
        if frame != 4:  # the speaker, who is missing from one frame
            lines.append(line | {"face_id": 3, "AU12_r": 30 + frame})
        # A passer-by of as many rows, tracked badly, and another who is there for two frames and tracked well.
        lines.append(line | {"face_id": 1, "AU12_r": 10 + frame, "success": int(frame > 4), "confidence": 0.8})
        if frame < 3:
            lines.append(line | {"face_id": 2, "AU12_r": 20 + frame})
    result = extract(write(tmp_path / "a.csv", V22, lines), groups=["AU_r"])
    assert result.features is not None
    assert result.features.times == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])
    smile = result.features.values[:, OpenFace(groups=("AU_r",)).columns.index("AU12_r")]
    assert smile == pytest.approx([31, 32, 33, np.nan, 35, 36], nan_ok=True)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    image = ["face", *V20[2:3], *V20[4:]]
    path = write(tmp_path / "a.csv", image, [dict.fromkeys(image, 1.0)])
    assert "no column timestamp, success: expected FeatureExtraction's output for a video" in str(extract(path).reason)
    frames = [n for n in V22 if n != "timestamp"]
    assert "no column timestamp" in str(extract(write(tmp_path / "b.csv", frames, rows(frames, 2))).reason)
    (tmp_path / "c.csv").write_text("AU01_r,AU02_r\n1,2\n")
    assert "expected OpenFace's header, with timestamp" in str(extract(tmp_path / "c.csv").reason)


def test_the_computational_sequence_is_the_csv_of_2_0(tmp_path: Path) -> None:
    lines = rows(V20, 3)
    lines[1] |= {"confidence": 0.5}
    sequence = np.array([[line[name] for name in V20] for line in lines], np.float32)
    sequence[2, V20.index("AU01_r")] = -np.inf
    stream = OpenFace()
    times = np.array([[0.0, 0.1], [0.1, 0.2], [0.2, 0.3]])
    videos = {"v": sequence, "w": sequence[:, 4:], "x": np.roll(sequence, 1, axis=1)}
    path = write_csd(tmp_path / "o.csd", "OpenFace_2", {video: (times, of) for video, of in videos.items()})
    found = extract(f"{path}#v").features
    assert found is not None
    expected = values(write(tmp_path / "a.csv", V20, lines)).copy()
    expected[2, stream.columns.index("AU01_r")] = np.nan
    assert found.values == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert found.times == pytest.approx(times.mean(1))
    assert "has 709 columns, expected 713 of OpenFace_2" in str(extract(f"{path}#w").reason)
    assert "column 4 of the sequence holds more than 0 and 1" in str(extract(f"{path}#x").reason)
