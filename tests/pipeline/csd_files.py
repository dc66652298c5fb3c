"""Computational sequences in the published layout, written by h5py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Videos = Mapping[str, tuple[Any, Any]]
"""Of each video, its intervals and features."""


def write_csd(path: Path, root: str, videos: Videos, metadata: Mapping[str, Any] | None = None, **how: Any) -> str:
    """how: h5py's options of a dataset, such as compression. Replaces a file, which a reader may still hold open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group(f"{root}/data")
        for video, (intervals, features) in videos.items():
            group = data.create_group(video)
            group.create_dataset("features", data=features, **how)
            group.create_dataset("intervals", data=intervals, **how)
        about = file.create_group(f"{root}/metadata")
        for key, value in {"root name": root, **(metadata or {})}.items():
            about.create_dataset(key, (1,), dtype=h5py.special_dtype(vlen=str))[0] = json.dumps(value)
    return str(path)


def frames(n: int, rate: float, columns: int, first: float = 0.0) -> tuple[Any, Any]:
    """n neighbouring frames; the first column counts them."""
    edges = first + np.arange(n + 1) / rate
    features = np.random.default_rng(n).normal(size=(n, columns))
    features[:, 0] = np.arange(n)
    return np.column_stack([edges[:-1], edges[1:]]), features
