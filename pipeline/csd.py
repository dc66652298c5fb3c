"""Computational sequences (.csd), the format of CMU-MOSEI."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Segment = tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], tuple[str, ...] | None]


def read_segment(path: str, video: str, start: float, end: float | None) -> Segment:
    """Frames of one video that overlap a segment: middles in seconds within the video (n,), values (n, F), no tokens."""
    raise NotImplementedError
