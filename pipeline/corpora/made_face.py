"""Faces for made clips: one portrait photograph, warped by its landmarks into expressions and speech.

The portrait is NASA's photograph of Eileen Collins (public domain), which the package scikit-image carries.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.streams.face import LEFT_EYE_CORNER, RIGHT_EYE_CORNER, FaceLandmarker

Image = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]

SIZE = 256  # of a frame, in pixels
FACE_HEIGHT = 0.53  # of the frame
GRID = 8  # pixels between the points at which displacements are computed; between them they are interpolated

# Landmarks of the 478-point mesh that move together.
_INNER_BROWS = [55, 65, 107, 66, 285, 295, 336, 296]
_OUTER_BROWS = [70, 63, 105, 46, 53, 52, 300, 293, 334, 276, 283, 282]
_UPPER_LIP = [  # four rows, from the skin to the teeth, without the corners
    185, 40, 39, 37, 0, 267, 269, 270, 409, 184, 74, 73, 72, 11, 302, 303, 304, 408,
    183, 42, 41, 38, 12, 268, 271, 272, 407, 191, 80, 81, 82, 13, 312, 311, 310, 415,
]  # fmt: skip
_LOWER_LIP = [
    146, 91, 181, 84, 17, 314, 405, 321, 375, 77, 90, 180, 85, 16, 315, 404, 320, 307,
    96, 89, 179, 86, 15, 316, 403, 319, 325, 95, 88, 178, 87, 14, 317, 402, 318, 324,
]  # fmt: skip
_MOUTH_CORNERS = [61, 76, 62, 78, 291, 306, 292, 308]
_BESIDE_MOUTH = [57, 186, 92, 43, 106, 212, 216, 206, 287, 410, 322, 273, 335, 432, 436, 426]
_CHEEKS = [205, 50, 187, 425, 280, 411]
_CHIN = [18, 83, 313, 200, 201, 421, 199, 175, 152, 148, 377, 176, 400, 171, 396, 208, 428, 194, 418, 32, 262, 182, 406]
_SIDES_OF_JAW = [149, 378, 150, 379, 136, 365, 140, 369, 211, 431, 204, 424]
_UPPER_LIDS = [159, 158, 160, 157, 161, 386, 385, 387, 384, 388]
_LOWER_LIDS = [145, 144, 153, 154, 163, 374, 373, 380, 381, 390]

# What one unit of a movement does: (landmarks, how it is spread across the mouth's width, outwards, down), in distances
# between the outer eye corners. For the spread, see _spread().
MOVEMENTS: dict[str, list[tuple[list[int], str, float, float]]] = {
    "smile": [  # negative: the corners go down
        (_UPPER_LIP + _LOWER_LIP + _MOUTH_CORNERS + _BESIDE_MOUTH, "corners", 0.6, -1.0),
        (_CHEEKS, "flat", 0.0, -0.4),
    ],
    "brows_down": [(_INNER_BROWS + _OUTER_BROWS, "flat", 0.0, 1.0)],
    "inner_brows_up": [(_INNER_BROWS, "flat", 0.0, -1.0)],
    "open": [
        (_LOWER_LIP, "middle", 0.0, 1.0),
        (_CHIN, "flat", 0.0, 0.9),
        (_SIDES_OF_JAW, "flat", 0.0, 0.7),
        (_UPPER_LIP, "middle", 0.0, -0.1),
        (_MOUTH_CORNERS, "flat", -0.15, 0.2),
    ],
    "blink": [(_UPPER_LIDS, "flat", 0.0, 1.0), (_LOWER_LIDS, "flat", 0.0, -0.3)],
}


@dataclass(frozen=True, slots=True)
class Look:
    """What one made speaker looks like.

    stretch: width over height of the face, over the portrait's. hue: degrees. contrast: a factor; brightness: added, of
    255. shade: grey level of the background, 0 to 255.
    """

    stretch: float
    mirrored: bool
    hue: float
    contrast: float
    brightness: float
    shade: int


class Sway(NamedTuple):
    """Where the head is: clockwise turn in degrees, shift right and down in pixels, and size as a factor."""

    turn: float
    right: float
    down: float
    zoom: float


def portrait() -> Image:
    """The photograph, RGB (512, 512, 3). Raises ModuleNotFoundError where scikit-image is not installed."""
    spec = importlib.util.find_spec("skimage")  # the file is all that is needed: the package is not imported
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((file for folder in folders if (file := Path(folder, "data", "astronaut.png")).is_file()), None)
    if path is None:
        raise ModuleNotFoundError("the portrait of made clips is in the package scikit-image: pip install -e '.[demo]'")
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise ValueError(f"{path} is not a picture")
    return np.asarray(picture, np.uint8)


class TalkingFace:
    """One made speaker's face. render() changes nothing: threads may share it."""

    def __init__(self, look: Look, photograph: Image, landmarker: FaceLandmarker) -> None:
        self._picture = _framed(photograph, look, _landmarks(photograph, landmarker))
        landmarks = _landmarks(self._picture, landmarker)
        self._picture = _on_background(_coloured(self._picture, look), landmarks, look.shade)
        self._fields = _displacement_fields(landmarks)
        self._y, self._x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)

    def render(self, movements: dict[str, float], sway: Sway) -> Image:
        """A frame, RGB (SIZE, SIZE, 3). movements: by the names of MOVEMENTS, 0 leaves the portrait as it is."""
        coarse = sum(amount * self._fields[name] for name, amount in movements.items())
        # The picture at a place comes from where that place was before the movement.
        field = cv2.resize(np.asarray(coarse, np.float32), None, fx=GRID, fy=GRID, interpolation=cv2.INTER_LINEAR)
        from_x, from_y = self._x - field[:SIZE, :SIZE, 0], self._y - field[:SIZE, :SIZE, 1]
        moved = cv2.remap(self._picture, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        head = np.asarray(cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), -sway.turn, sway.zoom), np.float64)
        head[:, 2] += np.array([sway.right, sway.down])
        frame = cv2.warpAffine(moved, head, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(frame, np.uint8)


def _landmarks(picture: Image, landmarker: FaceLandmarker) -> Doubles:
    """The mesh's points on a picture, (478, 2) in pixels."""
    landmarker.reset()
    face = landmarker.find(picture)
    if face is None:
        raise ValueError("no face is found in the portrait")
    return face.landmarks[:, :2]


def _framed(photograph: Image, look: Look, landmarks: Doubles) -> Image:
    """The face in the middle of a SIZE x SIZE picture."""
    scale = SIZE * FACE_HEIGHT / np.ptp(landmarks[:, 1])
    across = scale * look.stretch * (-1 if look.mirrored else 1)
    x, y = (landmarks.min(0) + landmarks.max(0)) / 2
    to_frame = np.array([[across, 0.0, SIZE / 2 - across * x], [0.0, scale, SIZE / 2 - scale * y]])
    framed = cv2.warpAffine(photograph, to_frame, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(framed, np.uint8)


def _coloured(picture: Image, look: Look) -> Image:
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(look.hue / 2)) % 180  # OpenCV counts hue in steps of 2 degrees
    shifted = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
    return np.asarray(np.clip((shifted - 128) * look.contrast + 128 + look.brightness, 0, 255), np.uint8)


def _on_background(picture: Image, landmarks: Doubles, shade: int) -> Image:
    """The head in a soft oval, on plain grey."""
    middle = (landmarks.min(0) + landmarks.max(0)) / 2
    reach = np.ptp(landmarks, axis=0) * (0.95, 0.85)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    distance = np.hypot((x - middle[0]) / reach[0], (y - middle[1]) / reach[1])
    head = np.clip((1.15 - distance) / 0.3, 0.0, 1.0)[..., None]
    return np.asarray(picture * head + shade * (1 - head), np.uint8)


def _displacement_fields(landmarks: Doubles) -> dict[str, npt.NDArray[np.float32]]:
    """For each movement, how far one unit of it moves each point of the grid: (points, points, 2), right and down, in pixels.

    Every landmark pulls what is near it, those that stay put included, so that a movement does not spread over the face.
    """
    eyes = float(np.linalg.norm(landmarks[LEFT_EYE_CORNER] - landmarks[RIGHT_EYE_CORNER]))
    points = SIZE // GRID + 1
    at = np.arange(points) * GRID + (GRID - 1) / 2  # where cv2.resize puts the samples of an enlarged grid
    grid = np.stack(np.meshgrid(at, at), -1)
    squared = ((grid[:, :, None] - landmarks) ** 2).sum(-1)
    pull = np.exp(-squared / (2 * (0.07 * eyes) ** 2))
    pull /= pull.sum(-1, keepdims=True) + 1e-3
    right, left = landmarks[_MOUTH_CORNERS[0], 0], landmarks[_MOUTH_CORNERS[4], 0]
    across = (landmarks[:, 0] - (right + left) / 2) / ((left - right) / 2)  # -1 and 1 at the corners of the mouth
    fields = {}
    for name, parts in MOVEMENTS.items():
        moved = np.zeros_like(landmarks)
        for indices, shape, outwards, down in parts:
            amount = _spread(shape, across[indices]) * eyes
            moved[indices] += np.stack([outwards * np.sign(across[indices]) * amount, down * amount], -1)
        fields[name] = (pull @ moved).astype(np.float32)
    return fields


def _spread(shape: str, across: Doubles) -> Doubles:
    """How much of a movement reaches a landmark; across: -1 and 1 at the corners of the mouth, 0 in its middle."""
    if shape == "corners":
        return np.minimum(across**2, 1.5)
    if shape == "middle":
        return np.maximum(1.0 - across**2, 0.0)
    return np.ones_like(across)
