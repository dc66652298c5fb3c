"""The manifest of a store: one row a clip, cut into shards. However many clips there are, few are in memory at a time.

    STORE/manifest/part-00000.parquet    row group j is shard "00000-j"

Of each clip that a source lists 8 bytes are kept until the source is read (no clip may come twice), and of each clip that the
manifest holds already 28 (what it said then). What is new is spooled to this machine's disk, and enters the store once the
source is read to its end: a source that makes no sense leaves the store as it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clip import Clip, Word
from pipeline.files import Folder
from pipeline.parquet import open_parquet, parquet_bytes

SHARDS_A_PART = 1024
BATCH = 1024  # clips looked at together

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

Keys = npt.NDArray[np.uint64]


class Manifest:
    """The clips of a store. Iterating gives every clip, in order; each time anew, few at a time."""

    def __init__(self, folder: Folder, shard_size: int) -> None:
        self.folder, self.shard_size = folder, shard_size
        self._last: tuple[tuple[str, int, int], pq.ParquetFile] | None = None

    def __iter__(self) -> Iterator[Clip]:
        for name in self.folder.names(".parquet"):
            for batch in open_parquet(self.folder, name).iter_batches(BATCH):
                yield from map(_clip, batch.to_pylist())

    def shards(self) -> list[str]:
        """Names of all shards, in order."""
        return [
            f"{part:05d}-{group:04d}"
            for part, name in enumerate(self.folder.names(".parquet"))
            for group in range(open_parquet(self.folder, name, whole=False).num_row_groups)
        ]

    def rows(self, shard: str) -> pa.Table:
        """One shard, as it is stored."""
        part, _, group = shard.partition("-")
        return self._part(f"part-{part}.parquet").read_row_group(int(group))

    def clips(self, shard: str) -> list[Clip]:
        """The clips of one shard."""
        return [_clip(row) for row in self.rows(shard).to_pylist()]

    def add(self, clips: Iterable[Clip], same_speakers: bool = False) -> tuple[int, int]:
        """See Store.add_clips()."""
        before = self.folder.names(".parquet")
        known = self._known()
        seen, new, source = array("Q"), 0, iter(clips)
        with tempfile.TemporaryDirectory(prefix="rrnn-manifest-") as scratch:
            fresh = _Spool(f"{scratch}/fresh")
            moved: defaultdict[int, _Spool] = defaultdict(lambda: _Spool(f"{scratch}/moved-{len(moved)}"))  # by part
            while batch := [_manifest_row(clip) for clip in itertools.islice(source, BATCH)]:
                keys = _keys([row["clip_id"] for row in batch])
                seen.frombytes(keys.tobytes())
                for row, at in zip(batch, known.find(keys), strict=True):
                    if at is None:
                        fresh.add(row)
                        new += 1
                    elif known.inputs[at] != _inputs_key(row):
                        raise ValueError(
                            f"clip {row['clip_id']!r} is not what it was when {self._store} was made (its times or words "
                            "changed in the source): extract to a new store, or restore the source"
                        )
                    elif known.rest[at] != _rest_key(row):
                        moved[int(known.part[at])].add(row)
            self._check_once(seen, fresh)
            names = self.folder.names(".parquet")
            if names != before:
                raise ValueError(
                    f"another job added clips to {self._store} while this one listed the source: give the same command again"
                )
            brought = {names[part]: spool for part, spool in moved.items()}
            if same_speakers:
                self._check_speakers(brought)
            for name, spool in brought.items():
                self._write(name, _replaced(open_parquet(self.folder, name).read(), spool.whole()))
            for part, table in enumerate(fresh.tables(self.shard_size * SHARDS_A_PART), len(names)):
                self._write(f"part-{part:05d}.parquet", table)
        return new, len(seen) - new

    @property
    def _store(self) -> str:
        return self.folder.url.rpartition("/")[0]

    def _part(self, name: str) -> pq.ParquetFile:
        """A part. The last stays open: to read what it says of a thousand shards takes longer than a shard. Of a part in a
        bucket it is not asked whether it changed since: what features depend on never does."""
        key = name, 0, 0
        if self.folder.local:
            stat = os.stat(f"{self.folder.url.removeprefix('file://')}/{name}")
            key = name, stat.st_mtime_ns, stat.st_size
        if self._last is None or self._last[0] != key:
            self._last = key, open_parquet(self.folder, name, whole=False)
        return self._last[1]

    def _write(self, name: str, table: pa.Table) -> None:
        self._last = None
        self.folder.write(name, parquet_bytes(table, row_group_size=self.shard_size, compression="zstd"))

    def _known(self) -> _Known:
        columns = ["clip_id", "digest", "inputs", "uri", "features", "attributes"]
        keys, inputs, rest, parts = [], array("Q"), array("Q"), []
        for part, name in enumerate(self.folder.names(".parquet")):
            for batch in open_parquet(self.folder, name).iter_batches(BATCH, columns=columns):
                rows = batch.to_pylist()
                keys.append(_keys([row["clip_id"] for row in rows]))
                inputs.extend(map(_inputs_key, rows))
                rest.extend(map(_rest_key, rows))
                parts.append(np.full(len(rows), part, np.uint32))
        of_all = np.concatenate([np.empty(0, np.uint64), *keys])
        order = np.argsort(of_all)
        part_of = np.concatenate([np.empty(0, np.uint32), *parts])
        return _Known(of_all[order], _uint64(inputs)[order], _uint64(rest)[order], part_of[order])

    def _check_once(self, seen: array[int], fresh: _Spool) -> None:
        keys = np.sort(_uint64(seen))
        twice = keys[1:][keys[1:] == keys[:-1]]
        if not len(twice):
            return
        known = (open_parquet(self.folder, name).read(["clip_id"]) for name in self.folder.names(".parquet"))
        for table in itertools.chain(fresh.tables(BATCH), known):
            names = table["clip_id"].to_pylist()
            for name in itertools.compress(names, _keys(names) == twice[0]):
                raise ValueError(f"clip id {name!r} comes twice in the source: expected one row a clip")

    def _check_speakers(self, brought: Mapping[str, _Spool]) -> None:
        changed = []
        for name, spool in brought.items():
            then = open_parquet(self.folder, name).read(["clip_id", "speaker"]).to_pylist()
            speaker = {row["clip_id"]: row["speaker"] for row in then}
            now = spool.whole().select(["clip_id", "speaker"]).to_pylist()
            changed += [(row, speaker[row["clip_id"]]) for row in now if row["speaker"] != speaker[row["clip_id"]]]
        if changed:
            row, was = changed[0]
            raise ValueError(
                f"the speaker of {len(changed)} clips changed, such as of {row['clip_id']!r} from {was!r} to "
                f"{row['speaker']!r}, and {self._store} holds what was normalised by them: choose another place"
            )


@dataclass(frozen=True)
class _Known:
    """What the manifest says of its clips, by keys of 64 bits, in the order of `keys`. part: of the manifest, each clip's."""

    keys: Keys
    inputs: Keys
    rest: Keys
    part: npt.NDArray[np.uint32]

    def find(self, keys: Keys) -> list[int | None]:
        """Where each is; None where it is not."""
        at = np.searchsorted(self.keys, keys)
        there = at < len(self.keys)
        there[there] = self.keys[at[there]] == keys[there]
        return [i if here else None for i, here in zip(at.tolist(), there.tolist(), strict=True)]


class _Spool:
    """Rows on this machine's disk, in their order."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._rows: list[dict[str, Any]] = []
        self._files = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == BATCH:
            self.folder.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(self._rows, MANIFEST_SCHEMA), self.folder / f"{self._files}.parquet")
            self._files += 1
            self._rows = []

    def tables(self, size: int) -> Iterator[pa.Table]:
        """All rows, so many a table; the last may have fewer."""
        waiting = MANIFEST_SCHEMA.empty_table()
        for i in range(self._files):
            waiting = pa.concat_tables([waiting, pq.ParquetFile(self.folder / f"{i}.parquet").read()])
            while len(waiting) >= size:
                yield waiting[:size]
                waiting = waiting[size:]
        waiting = pa.concat_tables([waiting, pa.Table.from_pylist(self._rows, MANIFEST_SCHEMA)])
        for start in range(0, len(waiting), size):
            yield waiting[start : start + size]

    def whole(self) -> pa.Table:
        return pa.concat_tables(self.tables(BATCH))


def _replaced(rows: pa.Table, new: pa.Table) -> pa.Table:
    """The rows, with new ones in the places of those of the same clips."""
    place = {clip_id: len(rows) + i for i, clip_id in enumerate(new["clip_id"].to_pylist())}
    take = [place.get(clip_id, i) for i, clip_id in enumerate(rows["clip_id"].to_pylist())]
    return pa.concat_tables([rows, new]).combine_chunks().take(pa.array(take))


def _key(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def _keys(names: Sequence[str]) -> Keys:
    """Of ten million names, some two have the same key once in 400,000 times; they are refused then, not mixed up."""
    return np.array([_key(name.encode()) for name in names], np.uint64)


def _uint64(keys: array[int]) -> Keys:
    return np.frombuffer(keys, np.uint64) if len(keys) else np.empty(0, np.uint64)


def _inputs_key(row: Mapping[str, Any]) -> int:
    return int(row["inputs"], 16)


def _rest_key(row: Mapping[str, Any]) -> int:
    """Of what may change without making it another clip."""
    maps = [sorted(row[name] or ()) for name in ("features", "attributes")]
    return _key(json.dumps([row["digest"], row["uri"], *maps]).encode())


def clip_inputs(clip: Clip) -> str:
    """Digest of what a clip's features depend on, beside its recording: its id, times and words."""
    return _inputs(_plain(clip))


def _inputs(row: Mapping[str, Any]) -> str:
    return _digest({k: row[k] for k in ("clip_id", "start", "end", "transcript", "words")})


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _plain(clip: Clip) -> dict[str, Any]:
    """What dataclasses.asdict gives, without its copy of every word: of a large corpus those take longer than its features."""
    row = {f.name: getattr(clip, f.name) for f in fields(clip)}
    row["words"] = None if clip.words is None else [{"text": w.text, "start": w.start, "end": w.end} for w in clip.words]
    return row


def _manifest_row(clip: Clip) -> dict[str, Any]:
    """As it is stored. digest: of all that it says but its addresses and attributes, for a corpus that was moved is the same
    corpus. inputs: clip_inputs()."""
    row = _plain(clip)
    digests = {
        "digest": _digest({k: v for k, v in row.items() if k not in ("uri", "features", "attributes")}),
        "inputs": _inputs(row),
    }
    row["votes"] = None if clip.votes is None else {shown: list(of.items()) for shown, of in clip.votes.items()}
    for name in MAPS:
        row[name] = None if row[name] is None else list(row[name].items())
    return row | digests


def _clip(row: dict[str, Any]) -> Clip:
    words = row.pop("words")
    for name in ("digest", "inputs"):
        row.pop(name)
    for name in MAPS:
        row[name] = None if row[name] is None else dict(row[name])
    if row["votes"] is not None:
        row["votes"] = {shown: dict(of) for shown, of in row["votes"].items()}
    return Clip(**row, words=None if words is None else tuple(Word(**w) for w in words))
