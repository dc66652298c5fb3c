"""The feature store: a manifest cut into shards, and one Parquet file per stream and shard. Any Arrow tool opens it.

    STORE/store.json                         format, corpus, shard size, code version
    STORE/manifest/part-00000.parquet        one row a clip; row group j is shard "00000-j"
    STORE/features/<stream>/stream.json      what made it: name, version, columns, frame shift, config, licence
    STORE/features/<stream>/<shard>.parquet  one row a clip, in the manifest's order

What exists is done: a feature file is written whole or not at all, and the listing of a stream's folder is the ledger.
Shards are never cut again: clips that are new in the source come in new parts of the manifest, so nothing that was
extracted moves. A row of features holds its sequence flat, row-major, in one large_list<float32>: reading gives one
contiguous array for the whole shard, of which a clip is a slice, reshaped to (n_frames, columns).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clip import Clip, Status, Word
from pipeline.files import Folder
from pipeline.streams.base import Extractor, Features

FORMAT = 2
SHARD_SIZE = 32
SHARDS_A_PART = 1024
SHARD_NAME = re.compile(r"^\d{5}-\d{4}$")

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("speaker", pa.string()),
        ("transcript", pa.string()),
        ("words", pa.list_(pa.struct([("text", pa.string()), ("start", pa.float64()), ("end", pa.float64())]))),
        ("emotion", pa.string()),
        ("intensities", pa.map_(pa.string(), pa.float64())),
        ("fold", pa.string()),
        ("shares", pa.map_(pa.string(), pa.float64())),
        ("votes", pa.map_(pa.string(), pa.map_(pa.string(), pa.float64()))),
        ("features", pa.map_(pa.string(), pa.string())),
        ("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("digest", pa.string(), nullable=False),
        ("inputs", pa.string()),
    ]
)

MAPS = [f.name for f in MANIFEST_SCHEMA if pa.types.is_map(f.type)]

FEATURES_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("reason", pa.string()),
        pa.field("n_frames", pa.int32(), nullable=False),
        pa.field("values", pa.large_list(pa.float32()), nullable=False),
        pa.field("times", pa.large_list(pa.float64()), nullable=False),
        ("tokens", pa.list_(pa.string())),
    ]
)


@functools.cache
def code_version() -> str:
    try:
        return metadata.version("rrnn")
    except metadata.PackageNotFoundError:  # running from an unpacked archive, as a submitted job does
        return "unpackaged"


@dataclass(frozen=True)
class ClipRow:
    """What became of one clip in one stream."""

    clip_id: str
    status: Status
    reason: str | None
    features: Features | None


class Store:
    """A store that exists. See create()."""

    def __init__(self, url: str) -> None:
        self.folder = Folder(url.rstrip("/"))
        self._last: tuple[tuple[str, int, int], pq.ParquetFile] | None = None
        if not self.folder.exists("store.json"):
            raise FileNotFoundError(f"no store at {url}: expected a folder with store.json, as jobs.extract writes")
        self.info: dict[str, Any] = json.loads(self.folder.read("store.json"))
        if self.info.get("format") != FORMAT:
            raise ValueError(f"{url} has store format {self.info.get('format')!r}, this version reads {FORMAT}: choose another")

    @classmethod
    def create(cls, url: str, corpus: str, shard_size: int = SHARD_SIZE) -> Store:
        """Open a store, or begin one. Raises ValueError where one of another corpus is there."""
        folder = Folder(url.rstrip("/"))
        if not folder.exists("store.json"):
            info = {"format": FORMAT, "corpus": corpus, "shard_size": shard_size, "code_version": code_version()}
            folder.write("store.json", json.dumps(info, indent=2).encode())
        store = cls(url)
        if store.info["corpus"] != corpus:
            raise ValueError(f"{url} is a store of corpus {store.info['corpus']!r}, not {corpus!r}")
        return store

    # -- manifest

    def add_clips(self, clips: Iterable[Clip]) -> tuple[int, int]:
        """Append the clips that the manifest does not have yet; returns (new, known).

        Raises ValueError, before anything is written, where a clip id comes twice, or where a known clip has other times or
        words than the store's row: features would then belong to another clip than the row says. One with other labels,
        another speaker, fold, address or attributes has its row brought up to date, in its place.
        """
        known = self._known()
        seen: set[str] = set()
        fresh: list[Clip] = []
        moved: dict[str, Clip] = {}
        for clip in clips:
            if clip.clip_id in seen:
                raise ValueError(f"clip id {clip.clip_id!r} comes twice in the source: expected one row a clip")
            seen.add(clip.clip_id)
            if clip.clip_id not in known:
                fresh.append(clip)
                continue
            now = _Known(clip_inputs(clip), clip_digest(clip), _about(clip))
            if known[clip.clip_id].inputs != now.inputs:
                raise ValueError(
                    f"clip {clip.clip_id!r} is not what it was when {self.folder.url} was made (its times or words changed in "
                    "the source): extract to a new store, or restore the source"
                )
            if known[clip.clip_id] != now:
                moved[clip.clip_id] = clip
        manifest = self.folder.at("manifest")
        size = self.info["shard_size"]
        if moved:
            self._refresh(moved)
        part = len(manifest.names(".parquet"))
        for chunk in _batched(fresh, size * SHARDS_A_PART):
            table = pa.Table.from_pylist([_manifest_row(c) for c in chunk], MANIFEST_SCHEMA)
            manifest.write(f"part-{part:05d}.parquet", parquet_bytes(table, row_group_size=size, compression="zstd"))
            part += 1
        return len(fresh), len(seen) - len(fresh)

    def speakers(self) -> dict[str, str | None]:
        """Of each clip of the manifest, its speaker."""
        manifest = self.folder.at("manifest")
        tables = [self._open(manifest, n).read(columns=["clip_id", "speaker"]) for n in manifest.names(".parquet")]
        return {row["clip_id"]: row["speaker"] for table in tables for row in table.to_pylist()}

    def shards(self) -> list[str]:
        """Names of all shards, in the manifest's order."""
        manifest = self.folder.at("manifest")
        return [
            f"{part:05d}-{group:04d}"
            for part, name in enumerate(manifest.names(".parquet"))
            for group in range(self._open(manifest, name).num_row_groups)
        ]

    def clips(self, shard: str) -> list[Clip]:
        """The clips of one shard."""
        return [_clip(row) for row in self.manifest_rows(shard).to_pylist()]

    def manifest_rows(self, shard: str) -> pa.Table:
        part, _, group = shard.partition("-")
        return self._part(f"part-{part}.parquet").read_row_group(int(group))

    def _part(self, name: str) -> pq.ParquetFile:
        """A part of the manifest. The last stays open: to read what it says of a thousand shards takes longer than a shard."""
        folder = self.folder.at("manifest")
        if not folder.local:
            return self._open(folder, name)
        stat = os.stat(f"{folder.url.removeprefix('file://')}/{name}")
        key = name, stat.st_mtime_ns, stat.st_size
        if self._last is None or self._last[0] != key:
            self._last = key, self._open(folder, name)
        return self._last[1]

    def _known(self) -> dict[str, _Known]:
        manifest = self.folder.at("manifest")
        known: dict[str, _Known] = {}
        for name in manifest.names(".parquet"):
            columns = ["clip_id", "digest", "inputs", "uri", "features", "attributes"]
            for row in self._open(manifest, name).read(columns=columns).to_pylist():
                about = (row["uri"], *(frozenset(row[k] or ()) for k in ("features", "attributes")))
                known[row["clip_id"]] = _Known(row["inputs"], row["digest"], about)
        return known

    def _refresh(self, moved: dict[str, Clip]) -> None:
        manifest = self.folder.at("manifest")
        for name in manifest.names(".parquet"):
            rows = self._open(manifest, name).read().to_pylist()
            if any(row["clip_id"] in moved for row in rows):
                new = [_manifest_row(moved[row["clip_id"]]) if row["clip_id"] in moved else row for row in rows]
                table = pa.Table.from_pylist(new, MANIFEST_SCHEMA)
                manifest.write(name, parquet_bytes(table, row_group_size=self.info["shard_size"], compression="zstd"))

    # -- features

    def streams(self) -> dict[str, dict[str, Any]]:
        """What is known of each stream in the store, by name."""
        features = self.folder.at("features")
        found = {}
        for name in features.names():
            if features.at(name).exists("stream.json"):
                found[name] = json.loads(features.at(name).read("stream.json"))
        return found

    def begin_stream(self, extractor: Extractor) -> None:
        """Note what makes this stream. Raises ValueError where the store holds it made in another way."""
        folder = self.folder.at("features", extractor.name)
        now = json.loads(json.dumps(extractor.describe()))
        if not folder.exists("stream.json"):
            folder.write("stream.json", json.dumps(now, indent=2).encode())
            return
        then = json.loads(folder.read("stream.json"))
        different = [k for k in now if now[k] != then.get(k)]
        if different:
            what = "; ".join(f"{k} was {_short(then.get(k))}, now {_short(now[k])}" for k in different)
            raise ValueError(
                f"stream {extractor.name!r} in {self.folder.url} was made differently: {what}. Extract to a new store, or "
                f"delete {folder.url}"
            )

    def done(self, stream: str) -> set[str]:
        """The shards of a stream that are there."""
        names = (n.removesuffix(".parquet") for n in self.folder.at("features", stream).names(".parquet"))
        return {n for n in names if SHARD_NAME.match(n)}

    def write_features(self, extractor: Extractor, shard: str, clips: Sequence[Clip], rows: Sequence[ClipRow]) -> None:
        about = {
            "stream": extractor.describe(),
            "shard": shard,
            "inputs_digest": inputs_digest(clips),
            "code_version": code_version(),
            "device": "gpu" if extractor.gpus else "cpu",
        }
        table = features_table(rows, len(extractor.columns)).replace_schema_metadata({"rrnn": json.dumps(about)})
        self.folder.at("features", extractor.name).write(f"{shard}.parquet", parquet_bytes(table))

    def read_features(self, stream: str, shard: str, columns: list[str] | None = None) -> pa.Table:
        """One stream of one shard. Raises FileNotFoundError where it was not extracted."""
        return self._open(self.folder.at("features", stream), f"{shard}.parquet").read(columns=columns)

    def rows(self, stream: str, shard: str) -> list[ClipRow]:
        """The same, as write_features() was given it."""
        table = self.read_features(stream, shard)
        columns = json.loads(table.schema.metadata[b"rrnn"])["stream"]["columns"]
        rows = []
        for i, row in enumerate(table.select(["clip_id", "status", "reason", "tokens"]).to_pylist()):
            features = None
            if row["status"] == "ok":
                values = table["values"][i].values.to_numpy().reshape(-1, len(columns))
                tokens = None if row["tokens"] is None else tuple(row["tokens"])
                features = Features(values, table["times"][i].values.to_numpy(), tokens)
            rows.append(ClipRow(row["clip_id"], row["status"], row["reason"], features))
        return rows

    def outcome(self, stream: str) -> pa.Table:
        """clip_id, status and reason of every clip that was extracted in this stream."""
        folder = self.folder.at("features", stream)
        columns = ["clip_id", "status", "reason"]
        tables = [self._open(folder, f"{shard}.parquet").read(columns=columns) for shard in sorted(self.done(stream))]
        empty = FEATURES_SCHEMA.empty_table().select(columns)
        return pa.concat_tables([empty.replace_schema_metadata(None), *(t.replace_schema_metadata(None) for t in tables)])

    def sweep(self) -> int:
        """Delete what killed writers left behind; returns how many files."""
        features = self.folder.at("features")
        return sum(f.sweep() for f in (self.folder, self.folder.at("manifest"), *(features.at(n) for n in features.names())))

    def _open(self, folder: Folder, name: str) -> pq.ParquetFile:
        if folder.local:
            return pq.ParquetFile(f"{folder.url.removeprefix('file://')}/{name}", memory_map=True)
        return pq.ParquetFile(pa.BufferReader(folder.read(name)))


@dataclass(frozen=True)
class _Known:
    inputs: str
    digest: str
    about: tuple[Any, ...]


def _about(clip: Clip) -> tuple[Any, ...]:
    """What may change without making it another clip."""
    return clip.uri, frozenset((clip.features or {}).items()), frozenset(clip.attributes.items())


def clip_inputs(clip: Clip) -> str:
    """Digest of what a clip's features depend on, beside its recording: its id, times and words."""
    row = _plain(clip)
    of_inputs = {k: row[k] for k in ("clip_id", "start", "end", "transcript", "words")}
    return hashlib.sha256(json.dumps(of_inputs, sort_keys=True).encode()).hexdigest()[:16]


def clip_digest(clip: Clip) -> str:
    """Of all that a clip's row says, but its addresses and attributes: a corpus that was moved is the same corpus."""
    row = {k: v for k, v in _plain(clip).items() if k not in ("uri", "features", "attributes")}
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def inputs_digest(clips: Sequence[Clip]) -> str:
    """Of a shard's clips, in order."""
    return hashlib.sha256("\n".join(clip_inputs(c) for c in clips).encode()).hexdigest()[:16]


def features_table(rows: Sequence[ClipRow], n_columns: int) -> pa.Table:
    """Rows as Arrow: every sequence flat, without a copy through Python objects."""
    empty = Features(np.empty((0, n_columns), np.float32), np.empty(0, np.float64))
    features = [r.features or empty for r in rows]
    lengths = np.array([len(f.times) for f in features], np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    values = np.concatenate([f.values.ravel() for f in features]) if features else np.empty(0, np.float32)
    times = np.concatenate([f.times for f in features]) if features else np.empty(0)
    return pa.Table.from_arrays(
        [
            pa.array([r.clip_id for r in rows], pa.string()),
            pa.array([r.status for r in rows], pa.string()),
            pa.array([r.reason for r in rows], pa.string()),
            pa.array(lengths.astype(np.int32)),
            pa.LargeListArray.from_arrays(pa.array(ends * n_columns), pa.array(values)),
            pa.LargeListArray.from_arrays(pa.array(ends), pa.array(times)),
            pa.array([None if f.tokens is None else list(f.tokens) for f in features], pa.list_(pa.string())),
        ],
        schema=FEATURES_SCHEMA,
    )


def parquet_bytes(table: pa.Table, row_group_size: int | None = None, compression: str = "none") -> bytes:
    # Features are not compressed: general codecs gain a tenth on float32 and cost the zero-copy read.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=row_group_size, compression=compression, use_dictionary=False)
    return bytes(sink.getvalue())


def _batched(items: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def _plain(clip: Clip) -> dict[str, Any]:
    """What dataclasses.asdict gives, without its copy of every word: of a large corpus those take longer than its features."""
    row = {f.name: getattr(clip, f.name) for f in fields(clip)}
    row["words"] = None if clip.words is None else [{"text": w.text, "start": w.start, "end": w.end} for w in clip.words]
    return row


def _manifest_row(clip: Clip) -> dict[str, Any]:
    row = _plain(clip)
    row["votes"] = None if clip.votes is None else {shown: list(of.items()) for shown, of in clip.votes.items()}
    for name in MAPS:
        row[name] = None if row[name] is None else list(row[name].items())
    row |= {"digest": clip_digest(clip), "inputs": clip_inputs(clip)}
    return row


def _clip(row: dict[str, Any]) -> Clip:
    words = row.pop("words")
    for name in ("digest", "inputs"):
        row.pop(name)
    for name in MAPS:
        row[name] = None if row[name] is None else dict(row[name])
    if row["votes"] is not None:
        row["votes"] = {shown: dict(of) for shown, of in row["votes"].items()}
    return Clip(**row, words=None if words is None else tuple(Word(**w) for w in words))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
