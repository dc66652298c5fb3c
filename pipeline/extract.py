"""Extraction of one shard, without Ray: the function that Ray's workers call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.clip import Absent, Clip, ClipError
from pipeline.media import Deadline, Media, no_media, open_media
from pipeline.store import ClipRow, Store
from pipeline.streams.base import Extractor

CLIP_SECONDS = 600.0
"""The most that one clip may take in one stream, in seconds of wall clock."""


@dataclass(frozen=True)
class ShardReport:
    """What one worker did with one shard of one stream."""

    stream: str
    shard: str
    ok: int
    absent: int
    error: int
    frames: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """One unit of work: what is missing in the store."""

    stream: str
    shard: str


def pending(store: Store, extractors: Sequence[Extractor]) -> tuple[list[Work], int]:
    """What is to be done, stream by stream, and how many units are done already."""
    shards = store.shards()
    todo: list[Work] = []
    for extractor in extractors:
        done = store.done(extractor.name)
        todo += [Work(extractor.name, shard) for shard in shards if shard not in done]
    return todo, len(shards) * len(extractors) - len(todo)


def extract_clip(extractor: Extractor, clip: Clip, media: Media) -> ClipRow:
    """One clip in, one row out. Only ClipError becomes a row: anything else is a bug and stops the job."""
    try:
        features = extractor.extract(clip, media)
    except Absent as e:
        return ClipRow(clip.clip_id, "absent", str(e), None)
    except ClipError as e:
        return ClipRow(clip.clip_id, "error", str(e), None)
    values, times = features.values, features.times
    assert values.dtype == np.float32, (extractor.name, values.dtype)
    assert values.shape == (len(times), len(extractor.columns)), (extractor.name, values.shape)
    assert not np.isinf(values).any(), extractor.name
    assert features.tokens is None or len(features.tokens) == len(times), extractor.name
    if not len(times):
        return ClipRow(clip.clip_id, "error", "too short: no frame", None)
    return ClipRow(clip.clip_id, "ok", "; ".join(dict.fromkeys(media.notes)) or None, features)


def extract_rows(extractor: Extractor, clips: Sequence[Clip], clip_seconds: float = CLIP_SECONDS) -> list[ClipRow]:
    """One row a clip, in the clips' order."""
    rows = []
    for clip in clips:
        try:
            deadline = Deadline(clip_seconds)
            opened = open_media(clip, deadline) if extractor.reads_recording else no_media(clip, deadline)
            with opened as media:
                rows.append(extract_clip(extractor, clip, media))
        except ClipError as e:
            rows.append(ClipRow(clip.clip_id, "error", str(e), None))
    return rows


Run = Callable[[Extractor, Sequence[Clip], float], list[ClipRow]]
"""extract_rows, or another that gives the same rows."""


def extract_shard(
    store: Store, extractor: Extractor, shard: str, clip_seconds: float = CLIP_SECONDS, run: Run = extract_rows
) -> ShardReport:
    """Extract one stream of one shard and write its file, whole or not at all."""
    began = time.perf_counter()
    clips = store.clips(shard)
    rows = run(extractor, clips, clip_seconds)
    store.write_features(extractor, shard, clips, rows)
    status = [r.status for r in rows]
    return ShardReport(
        stream=extractor.name,
        shard=shard,
        ok=status.count("ok"),
        absent=status.count("absent"),
        error=status.count("error"),
        frames=sum(len(r.features.times) for r in rows if r.features is not None),
        seconds=time.perf_counter() - began,
    )
