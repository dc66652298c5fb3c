"""Makes small stores with made-up sequences in them, as extraction would leave them, without running it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.clip import Clip
from pipeline.parquet import parquet_bytes
from pipeline.store import ClipRow, Store, features_table
from pipeline.streams.base import Features
from rrnn.data import ClipSet, StoreIndex, open_store, read_shard

STREAMS = {"a": ("audio", 3, 0.1), "w": ("text", 2, None)}
EMOTIONS = ("angry", "calm", "sad")


def make_store(
    folder: Path, *, speakers: int = 8, clips: int = 6, shard_size: int = 7, regression: bool = False, folds: Sequence[str] = ()
) -> StoreIndex:
    """Speakers with several clips each. The class is what stream `a` holds on average; each speaker lacks `w` once, and the
    last clip of all is unusable."""
    random = np.random.default_rng(0)
    store = Store.create(str(folder), "folder", shard_size)
    rows = []
    for i in range(speakers * clips):
        emotion = EMOTIONS[i % len(EMOTIONS)]
        label = {"intensities": {"joy": float(i % 3), "fear": 1.0}} if regression else {"emotion": emotion}
        fold = folds[i // clips % len(folds)] if folds else None
        rows.append(Clip(clip_id=f"{i:03d}", uri=f"/{i:03d}.wav", speaker=f"s{i // clips}", fold=fold, **label))
    store.add_clips(rows)
    for name, (modality, columns, shift) in STREAMS.items():
        at = store.folder.at("features", name)
        about = {
            "name": name,
            "version": "1",
            "modality": modality,
            "columns": [f"{name}{j}" for j in range(columns)],
            "frame_shift": shift,
            "config": {},
        }
        at.write("stream.json", json.dumps(about).encode())
        for shard in store.shards():
            out = []
            for clip in store.clips(shard):
                i = int(clip.clip_id)
                n = int(random.integers(2, 12))
                values = random.normal(size=(n, columns)).astype(np.float32) + 10 + 2 * (i % 3)
                features = Features(values, np.arange(n) * 0.1, tuple("x" * n) if name == "w" else None)
                absent = (name == "w" and i % clips == 2) or i == speakers * clips - 1
                out.append(ClipRow(clip.clip_id, "absent", "none here", None) if absent else _ok(clip, features))
            at.write(f"{shard}.parquet", parquet_bytes(features_table(out, columns)))
    return open_store(str(folder))


def _ok(clip: Clip, features: Features) -> ClipRow:
    return ClipRow(clip.clip_id, "ok", None, features)


def add_alternative(store: StoreIndex, stream: str, name: str, *, shift: float, without: str = "") -> None:
    """Another stream of the same columns: the values moved by `shift`; the clip `without` lacks it."""
    at, clips = Store(store.url).folder.at("features"), read_clips(store)
    about = json.loads(at.at(stream).read("stream.json"))
    at.at(name).write("stream.json", json.dumps({**about, "name": name, "extractor": stream}).encode())
    for shard in store.shards:
        rows = []
        for i in (i for i, of in enumerate(clips.shards) if of == shard):
            values = clips.values(stream, i) + np.float32(shift)
            here = len(values) and clips.ids[i] != without
            features = Features(values, np.arange(len(values)) * 0.1) if here else None
            rows.append(ClipRow(clips.ids[i], "ok" if here else "absent", None if here else "none here", features))
        at.at(name).write(f"{shard}.parquet", parquet_bytes(features_table(rows, len(about["columns"]))))


def read_clips(store: StoreIndex) -> ClipSet:
    tables: list[pa.Table] = [read_shard(store, shard) for shard in store.shards]
    return ClipSet(tables, list(store.streams), store.alternatives)
