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
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clip import Clip, Status
from pipeline.files import Folder
from pipeline.manifest import Manifest, clip_inputs
from pipeline.parquet import open_parquet, parquet_bytes
from pipeline.streams.base import Extractor, Features

FORMAT = 2
SHARD_SIZE = 32
SHARD_NAME = re.compile(r"^\d{5}-\d{4}$")

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
        if not self.folder.exists("store.json"):
            raise FileNotFoundError(f"no store at {url}: expected a folder with store.json, as jobs.extract writes")
        self.info: dict[str, Any] = json.loads(self.folder.read("store.json"))
        if self.info.get("format") != FORMAT:
            raise ValueError(f"{url} has store format {self.info.get('format')!r}, this version reads {FORMAT}: choose another")
        self.manifest = Manifest(self.folder.at("manifest"), self.info["shard_size"])

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

    def add_clips(self, clips: Iterable[Clip], same_speakers: bool = False) -> tuple[int, int]:
        """Append the clips that the manifest does not have yet; returns (new, known).

        Raises ValueError, before anything is written, where a clip id comes twice, or where a known clip has other times or
        words than the store's row: features would then belong to another clip than the row says. One with other labels,
        another speaker, fold, address or attributes has its row brought up to date, in its place; with same_speakers, another
        speaker is refused too. Also where another job added clips while these were listed.
        A store that holds no clip then is none: another may be begun in its place.
        """
        try:
            return self.manifest.add(clips, same_speakers)
        except ValueError:
            if not self.manifest.shards():
                self.folder.remove("store.json")
            raise

    def shards(self) -> list[str]:
        """Names of all shards, in the manifest's order."""
        return self.manifest.shards()

    def clips(self, shard: str) -> list[Clip]:
        """The clips of one shard."""
        return self.manifest.clips(shard)

    def manifest_rows(self, shard: str) -> pa.Table:
        return self.manifest.rows(shard)

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
        return open_parquet(self.folder.at("features", stream), f"{shard}.parquet").read(columns=columns)

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
        columns = ["clip_id", "status", "reason"]
        return pa.concat_tables([FEATURES_SCHEMA.empty_table().select(columns), *self._of_shards(stream, columns)])

    def tally(self, stream: str) -> Counter[tuple[str, str | None]]:
        """How many clips have each (status, reason) in a stream; a shard at a time."""
        found: Counter[tuple[str, str | None]] = Counter()
        for table in self._of_shards(stream, ["status", "reason"]):
            found.update(zip(*table.to_pydict().values(), strict=True))
        return found

    def _of_shards(self, stream: str, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of a stream's shards, in order."""
        folder = self.folder.at("features", stream)
        for shard in sorted(self.done(stream)):
            table = open_parquet(folder, f"{shard}.parquet", whole=False).read(columns=columns)
            yield table.replace_schema_metadata(None)

    def sweep(self) -> int:
        """Delete what killed writers left behind; returns how many files."""
        features = self.folder.at("features")
        return sum(f.sweep() for f in (self.folder, self.folder.at("manifest"), *(features.at(n) for n in features.names())))


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


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
