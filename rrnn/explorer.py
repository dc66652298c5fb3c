"""The page's attention explorer: a clip is played, and the attention of every stream and hop moves with it.

What it shows of each clip travels in the page as JSON, its numbers packed; explorer.js draws it. All text in it is
untrusted: the script writes it as text alone, and the page's policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from rrnn.results import Array, ClipAttention, Run

THUMBNAIL_HEIGHT = 72
LEVELS = 65_535  # of a packed number


@dataclass(frozen=True)
class Media:
    """A clip to be played. content: a small file that browsers play, of MIME type kind, whose time 0 is the clip's start.

    envelope: (n,), peaks of the sound in n equal parts of its time, from 0 to 1; empty where there is none. seconds: how long
    the sound lasts.
    """

    content: bytes
    kind: str
    envelope: Array
    seconds: float


MediaOf = Callable[[dict[str, Any]], Media | str]
"""Of a row of examples.parquet; or why it can't be played."""


@dataclass(frozen=True)
class Explorer:
    """What the template needs. data: JSON that is safe inside a script element; digest: of the script, as the page's policy
    names the only one that may run."""

    data: Markup
    script: Markup
    digest: str


class Recordings:
    """Media for the page: each recording once, and together at most max_bytes as they stand in it (base64)."""

    def __init__(self, media: MediaOf | None, max_bytes: float) -> None:
        self.media, self.room = media, max_bytes
        self.files: list[dict[str, str]] = []
        self.found: dict[tuple[Any, ...], dict[str, Any]] = {}

    def of(self, row: dict[str, Any]) -> dict[str, Any]:
        """A clip's "file" (index in files), "waveform" and "seconds", as far as there are any, and a "note" on what is not."""
        key = row["uri"], row["start"], row["end"]
        if key not in self.found:
            self.found[key] = self._read(row)
        return self.found[key]

    def _read(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.media is None:
            return {"note": "This page carries no recordings."}
        media = self.media(row)
        if isinstance(media, str):
            return {"note": f"Nothing to play: {media}."}
        about: dict[str, Any] = {"seconds": media.seconds}
        if len(media.envelope):
            about["waveform"] = pack(media.envelope)
        content = base64.b64encode(media.content).decode()
        if len(content) > self.room:
            return {**about, "note": "The recording was left out, for the page would be too large."}
        self.room -= len(content)
        self.files.append({"kind": media.kind, "content": content})
        return {**about, "file": len(self.files) - 1}


def pack(values: npt.ArrayLike) -> dict[str, Any]:
    """Numbers of at least 0, of any shape, in 16 bits each: value = scale * integer, little-endian, base64."""
    array = np.asarray(values, np.float64)
    scale = float(array.max(initial=0.0)) / LEVELS or 1.0
    return {"scale": scale, "data": base64.b64encode(np.rint(array / scale).astype("<u2").tobytes()).decode()}


def thumbnail(frame: npt.NDArray[np.uint8] | None) -> str | None:
    """A frame (h, w, 3) as a small data URI."""
    if frame is None:
        return None
    image = Image.fromarray(frame)
    image.thumbnail((4 * THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def clip_data(
    clip: ClipAttention, run: Run, frames: Sequence[npt.NDArray[np.uint8] | None], recording: dict[str, Any]
) -> dict[str, Any]:
    """What the explorer shows of one clip. frames: evenly spread over it, or none."""
    about = clip.about
    return {
        "id": about["clip_id"],
        "speaker": about["speaker"],
        "run": run.label,
        "regression": run.regression,
        "target": about["target"],
        "prediction": about["prediction"],
        "names": clip.names,
        "values": [round(float(v), 4) for v in clip.values],
        "truth": None if isinstance(clip.truth, str) else [round(float(v), 4) for v in clip.truth],
        "end": max(clip.end, recording.get("seconds", 0.0)),
        "updates": clip.updates,
        "frames": [thumbnail(f) for f in frames],
        "frames_end": clip.end,
        "recording": recording,
        "streams": [
            {
                "name": s.stream,
                "modality": s.modality,
                "times": pack(np.maximum(s.times, 0.0)),
                "weights": pack(s.relative),
                "gates": [round(float(g), 4) for g in s.gates],
                "tokens": s.tokens,
            }
            for s in clip.streams
        ],
    }


def make_explorer(clips: Sequence[dict[str, Any]], recordings: Recordings) -> Explorer | None:
    """The explorer of the given clips (of clip_data); None for no clips."""
    if not clips:
        return None
    content = {"clips": list(clips), "files": recordings.files}
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # nothing in it may end the script element, or begin a comment
        text = text.replace(character, f"\\u{ord(character):04x}")
    script = Path(__file__).with_name("explorer.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Explorer(Markup(text), Markup(script), digest)  # noqa: S704 (escaped above, and our own file)
