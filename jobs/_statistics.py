"""The statistics of new clips' speakers, by which a model of normalised clips is fed; without torch, which takes each worker's
start seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs._cli import progress
from pipeline.extract import pending
from pipeline.on_ray import extract_on_ray, map_units
from pipeline.parquet import open_parquet, parquet_bytes
from pipeline.store import Store
from pipeline.streams.base import Extractor
from rrnn.normalise import Moments, add_up, group_of, moments_of, moments_table

STATISTICS = "statistics.parquet"


class StatisticsWorker:
    """One actor; a shard whose features are there in, a file of its speakers' (or its corpus's) moments out."""

    def __init__(self, store: str, corpus: str, by: str, streams: Sequence[str]) -> None:
        self.store, self.corpus, self.by, self.streams = Store(store), corpus, by, streams

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        clips = self.store.clips(unit["shard"])
        found = add_up(
            (group_of(self.by, self.corpus, clip.speaker), stream, Moments.of(row.features.values))
            for stream in self.streams
            for clip, row in zip(clips, self.store.rows(stream, unit["shard"]), strict=True)
            if row.features is not None
        )
        data = parquet_bytes(moments_table(found), compression="zstd")
        self.store.folder.at("statistics").write(f"{unit['shard']}.parquet", data)
        return unit


def prepare_statistics(
    store: Store, corpus: str, by: str, extractors: Sequence[Extractor], workers: int | None, clip_seconds: float
) -> None:
    """Extract what is missing, and write the statistics of all the clips' speakers (or corpus): no clip can be scored before
    its speaker's others were seen. A shard that has its statistics is not read again.

    corpus: its name, which is part of a speaker's. by: speaker or corpus (rrnn.normalise.group_of). workers: at most, as
    map_units() has it. clip_seconds: the most that one clip may take in one stream.
    """
    for extractor in extractors:
        store.begin_stream(extractor)
    todo, done = pending(store, extractors)
    with progress(done + len(todo), "shards extracted", done) as advance:
        for report in extract_on_ray(store, extractors, todo, workers=workers, clip_seconds=clip_seconds):
            advance(1, f"({report.stream} {report.shard})")
    folder = store.folder.at("statistics")
    there = set(folder.names(".parquet"))
    units = [{"shard": s} for s in store.shards() if f"{s}.parquet" not in there]
    args = {"store": store.folder.url, "corpus": corpus, "by": by, "streams": [e.name for e in extractors]}
    for _ in map_units(StatisticsWorker, args, units, workers=workers):
        pass
    tables = (open_parquet(folder, name).read() for name in folder.names(".parquet"))
    total = add_up(moments for table in tables for moments in moments_of(table))
    store.folder.write(STATISTICS, parquet_bytes(moments_table(total), compression="zstd"))
