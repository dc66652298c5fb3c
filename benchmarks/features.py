"""Reading features: from a store's files to arrays, and from arrays to the padded batches of a training step.

The features are real ones, of clips that are extracted here; a shard of SHARD_CLIPS repeats them under other ids.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.measure import Row, Target, in_turn, milliseconds, ratios
from benchmarks.training import CLASSES, Shape, made_batch, training_step
from pipeline.clip import Clip
from pipeline.extract import extract_rows
from pipeline.parquet import parquet_bytes
from pipeline.store import SHARD_SIZE, ClipRow, Store, features_table
from pipeline.streams import make_stream
from rrnn.architectures import build_model
from rrnn.config import ModelConfig
from rrnn.data import ClipSet, StoreIndex, collate, length_batches, open_store, read_shard

STREAMS = ("acoustic", "speech", "face", "words")
BATCH = 16  # clips of one of two workers, at the default of 32 a step
VALUES = "values.list.element"  # the leaf column of a list, as Parquet names it
SPLIT: dict[str, object] = {"compression": "zstd", "use_byte_stream_split": [VALUES, "times.list.element"]}
ENCODINGS: dict[str, dict[str, object]] = {"zstd": {"compression": "zstd"}, "byte_stream_split and zstd": SPLIT}


def measure(clips: Sequence[Clip], turns: int) -> list[Row]:
    """Rows of the table."""
    rows = {name: _extract(name, clips) for name in STREAMS}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        index = _store(f"{folder}/store", clips, rows)
        return [*_reading(Path(folder), index, turns), *_loading(index, turns), *_encodings(rows, turns)]


def _extract(stream: str, clips: Sequence[Clip]) -> list[ClipRow]:
    extractor = make_stream(stream)
    extractor.load()
    return extract_rows(extractor, clips)


def _store(url: str, clips: Sequence[Clip], rows: Mapping[str, Sequence[ClipRow]]) -> StoreIndex:
    store = Store.create(url, "benchmark")
    which = [i % len(clips) for i in range(SHARD_SIZE)]
    many = [replace(clips[i], clip_id=f"{n:05d}") for n, i in enumerate(which)]
    store.add_clips(many)
    (shard,) = store.shards()
    for name in STREAMS:
        extractor = make_stream(name)
        store.begin_stream(extractor)
        repeated = [replace(rows[name][i], clip_id=f"{n:05d}") for n, i in enumerate(which)]
        store.write_features(extractor, shard, many, repeated)
    return open_store(url)


def _reading(folder: Path, index: StoreIndex, turns: int) -> list[Row]:
    """One shard to one array a clip and stream that is the caller's own."""
    (shard,) = index.shards
    clips = ClipSet([read_shard(index, shard)], STREAMS)
    ends = {s: np.cumsum(clips.lengths[s]) for s in STREAMS}
    for s in STREAMS:
        np.save(folder / f"{s}.npy", np.concatenate([clips.values(s, i) for i in range(len(clips))]))

    def ours() -> list[npt.NDArray[np.float32]]:
        found = ClipSet([read_shard(index, shard)], STREAMS)
        return [found.values(s, i).copy() for s in STREAMS for i in range(len(found))]

    def raw() -> list[npt.NDArray[np.float32]]:
        arrays = {s: np.load(folder / f"{s}.npy", mmap_mode="r", allow_pickle=False) for s in STREAMS}
        return [np.array(clip) for s in STREAMS for clip in np.split(arrays[s], ends[s][:-1])]

    for a, b in zip(ours(), raw(), strict=True):
        np.testing.assert_array_equal(a, b)
    found = in_turn({"ours": _timed(ours), "raw": _timed(raw)}, turns)
    size = sum(array.nbytes for array in raw()) / 2**20
    what = f"read a shard, {len(clips)} clips, {size:.1f} MiB / numpy.load of the same"
    return [Row(what, milliseconds(found["ours"]), milliseconds(found["raw"]), ratios(found["ours"], found["raw"]))]


def _loading(index: StoreIndex, turns: int) -> list[Row]:
    """What a training step's batch costs, as a share of the step."""
    clips = ClipSet([read_shard(index, shard) for shard in index.shards], STREAMS)
    columns = {s: len(index.streams[s]["columns"]) for s in STREAMS}
    cost = np.sum([clips.lengths[s] for s in STREAMS], axis=0)
    steps = len(clips) // BATCH

    def batches() -> None:
        for batch in length_batches(cost, BATCH, seed=0):
            collate([{s: clips.values(s, int(i)) for s in columns} for i in batch], columns)

    torch.set_num_threads(1)
    shape = Shape(BATCH, ModelConfig().hidden, {s: (columns[s], int(clips.lengths[s].max())) for s in STREAMS})
    step = training_step(build_model(ModelConfig(), columns, CLASSES), *made_batch(shape))
    step()
    found = in_turn({"batches": _timed(batches), "step": step}, turns)
    a_step = [seconds / steps for seconds in found["batches"]]
    what = f"batching and padding {BATCH} clips / their training step"
    return [Row(what, milliseconds(a_step), milliseconds(found["step"]), ratios(a_step, found["step"]), Target(0.05, False))]


def _encodings(rows: Mapping[str, Sequence[ClipRow]], turns: int) -> list[Row]:
    """Size on disk and time to read of each way to write features, against plain Parquet."""
    tables = [features_table(rows[s], len(make_stream(s).columns)) for s in STREAMS]
    files = {"as stored": [parquet_bytes(table) for table in tables]}
    files |= {name: [_parquet(table, options) for table in tables] for name, options in ENCODINGS.items()}
    files["the same, values not nullable"] = [_parquet(_not_nullable(table), SPLIT) for table in tables]
    plain = [_parquet(table, {"compression": "none"}) for table in tables]

    def reader(of: Sequence[bytes]) -> Callable[[], object]:
        return lambda: [pq.read_table(pa.BufferReader(file), columns=["n_frames", "values"]) for file in of]

    found = in_turn({"plain": _timed(reader(plain)), **{n: _timed(reader(f)) for n, f in files.items()}}, turns)
    table = []
    for name, written in files.items():
        size, plain_size = sum(map(len, written)), sum(map(len, plain))
        sizes = [f"{n / 2**20:.2f} MiB" for n in (size, plain_size)]
        times = [milliseconds(found[side]) for side in (name, "plain")]
        table.append(Row(f"size of features, {name} / plain Parquet", sizes[0], sizes[1], [size / plain_size]))
        table.append(Row("  time to read them", times[0], times[1], ratios(found[name], found["plain"])))
    return table


def _not_nullable(table: pa.Table) -> pa.Table:
    """The table with values that can't be null, so that Parquet keeps no level that says so of each."""
    floats = pa.large_list(pa.field("element", pa.float32(), nullable=False))
    i = table.schema.get_field_index("values")
    values = table["values"].combine_chunks()
    column = pa.LargeListArray.from_arrays(values.offsets, values.values, type=floats)
    return table.set_column(i, pa.field("values", floats, nullable=False), column)


def _parquet(table: pa.Table, options: Mapping[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=False, **options)
    return bytes(sink.getvalue())


def _timed(function: Callable[[], object]) -> Callable[[], float]:
    """The function's CPU seconds."""

    def timed() -> float:
        began = time.process_time()
        function()
        return time.process_time() - began

    return timed
