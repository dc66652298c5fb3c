"""Clips and their feature sequences, from the store's files to padded batches.

The store (docs: its layout and schemas) is where extraction and model meet: here it is read with pyarrow alone. Sequences
stay in Arrow's memory, which may be Ray's shared memory, and are copied once, into the padded batch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rrnn.model import Batch
from rrnn.normalise import Normaliser, group_of

STORE_FORMAT = 2
CLIP_COLUMNS = ("clip_id", "uri", "start", "end", "speaker", "emotion", "intensities", "fold", "shares", "votes")


Sequences = dict[str, npt.NDArray[np.float32]]
"""One clip's (K, F) arrays by stream; a stream that is missing or has no frame is absent."""


@dataclass(frozen=True)
class StoreIndex:
    """What a store holds, without its sequences."""

    url: str
    corpus: str
    shards: tuple[str, ...]
    streams: dict[str, dict[str, Any]]
    """What made each stream (its stream.json), by name."""
    alternatives: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Of a stream, others that training may take in its place (TrainConfig.alternatives): what made each, by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the streams and their alternatives."""
        return (*self.streams, *_spare(self.alternatives))

    def about_alternatives(self) -> list[dict[str, Any]]:
        """What made each alternative, in the order in which training takes them."""
        return [about for of in self.alternatives.values() for about in of.values()]


def _spare(alternatives: Mapping[str, Iterable[str]]) -> list[str]:
    return sorted({name for names in alternatives.values() for name in names})


def open_store(
    url: str,
    streams: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    alternatives: Mapping[str, Sequence[str]] | None = None,
) -> StoreIndex:
    """The index of a store's given streams, or of all that are not alternatives of others; of those, the ones of the given
    modalities. Raises FileNotFoundError where there is no store, ValueError where a stream is missing or not extracted to the
    end, or can't stand in for another."""
    others = {s: tuple(names) for s, names in (alternatives or {}).items()}
    if both := set(_spare(others)) & {*(streams or ()), *others}:
        raise ValueError(f"train.alternatives: {', '.join(sorted(both))} can't be taken as a stream, and in place of one")
    if len({len(names) for names in others.values()}) > 1:
        counts = ", ".join(f"{s} {len(names)}" for s, names in others.items())
        raise ValueError(f"train.alternatives: expected as many of each stream, since they are taken together, found {counts}")
    fs, root = fsspec.core.url_to_fs(url.rstrip("/"))
    fs.invalidate_cache()
    if not fs.exists(f"{root}/store.json"):
        raise FileNotFoundError(f"no store at {url}: expected a folder with store.json, as jobs.extract writes")
    info = json.loads(fs.cat_file(f"{root}/store.json"))
    if info.get("format") != STORE_FORMAT:
        raise ValueError(f"{url} has store format {info.get('format')!r}, this version reads {STORE_FORMAT}: extract it anew")
    corpus = info["corpus"]
    parts = sorted(p for p in _names(fs, f"{root}/manifest") if p.startswith("part-"))
    shards = []
    for part in parts:
        with fs.open(f"{root}/manifest/{part}", "rb") as file:
            groups = pq.ParquetFile(file).num_row_groups
        shards += [f"{part[5:10]}-{group:04d}" for group in range(groups)]
    have = [n for n in _names(fs, f"{root}/features") if fs.exists(f"{root}/features/{n}/stream.json")]
    spare = _spare(others)
    if missing := {*(streams or ()), *spare} - set(have):
        raise ValueError(f"{url} has no stream {', '.join(sorted(missing))}: it has {', '.join(have) or 'none'}")
    known = {
        name: json.loads(fs.cat_file(f"{root}/features/{name}/stream.json")) for name in sorted({*(streams or have), *spare})
    }
    if modalities is not None:
        there = {str(of["modality"]) for name, of in known.items() if name not in spare}
        if without := [m for m in modalities if m not in there]:
            raise ValueError(
                f"{url} has no stream of {', '.join(without)}: it has some of {', '.join(sorted(there)) or 'none'}"
            )
    about = {}
    for name, of in known.items():
        if name not in spare and modalities is not None and of["modality"] not in modalities:
            continue
        lacking = set(shards) - {n.removesuffix(".parquet") for n in _names(fs, f"{root}/features/{name}")}
        if lacking:
            raise ValueError(
                f"stream {name!r} of {url} lacks {len(lacking)} of {len(shards)} shards: run jobs.extract again to finish it, "
                "or leave the stream out with streams=[...]"
            )
        about[name] = of
    taken = {name: of for name, of in about.items() if name not in spare}
    if not taken:
        raise ValueError(f"{url} holds no stream: run jobs.extract first")
    if strangers := others.keys() - set(have):
        raise ValueError(f"train.alternatives names {', '.join(sorted(strangers))}: {url} has {', '.join(have)}")
    others = {s: names for s, names in others.items() if s in taken}
    for stream, names in others.items():
        for name in names:
            if unlike := [k for k in ("modality", "columns", "frame_shift") if about[name].get(k) != taken[stream].get(k)]:
                raise ValueError(f"{name!r} can't be an alternative of {stream!r}: it has another {', '.join(unlike)}")
    return StoreIndex(url, corpus, tuple(shards), taken, {s: {n: about[n] for n in names} for s, names in others.items()})


def _names(fs: Any, path: str) -> list[str]:
    try:
        return sorted(p.rstrip("/").rpartition("/")[2] for p in fs.ls(path, detail=False))
    except FileNotFoundError:
        return []


def read_shard(store: StoreIndex, shard: str) -> pa.Table:
    """One shard's clips and all the index's streams, alternatives too, side by side: columns of the manifest, and for each
    stream s `s.status`, `s.reason`, `s.n_frames` and `s.values`. The streams of a shard hold the same clips in the same
    order."""
    fs, root = fsspec.core.url_to_fs(store.url)
    part, _, group = shard.partition("-")
    with fs.open(f"{root}/manifest/part-{part}.parquet", "rb") as file:
        table = pq.ParquetFile(file).read_row_group(int(group), columns=[*CLIP_COLUMNS, "digest"])
    for name in store.names:
        with fs.open(f"{root}/features/{name}/{shard}.parquet", "rb") as file:
            stream = pq.ParquetFile(file).read(columns=["clip_id", "status", "reason", "n_frames", "values"])
        if not stream["clip_id"].equals(table["clip_id"]):
            raise ValueError(f"features/{name}/{shard}.parquet of {store.url} holds other clips than the manifest's shard")
        for column in ("status", "reason", "n_frames", "values"):
            table = table.append_column(f"{name}.{column}", stream[column])
    table = table.append_column("shard", pa.array([shard] * len(table)))
    return table.replace_schema_metadata(None)


@dataclass(frozen=True)
class Times:
    """When a stream's frames are, in seconds from the clip's start, and their words where a frame is a word."""

    seconds: list[float]
    tokens: list[str] | None


def read_times(store: StoreIndex, shard: str, clip_id: str) -> dict[str, Times]:
    """The frames' times of one clip, by stream."""
    fs, root = fsspec.core.url_to_fs(store.url)
    found = {}
    for name in store.streams:
        with fs.open(f"{root}/features/{name}/{shard}.parquet", "rb") as file:
            table = pq.ParquetFile(file).read(columns=["clip_id", "times", "tokens"])
        row = table["clip_id"].to_pylist().index(clip_id)
        found[name] = Times(table["times"][row].as_py(), table["tokens"][row].as_py())
    return found


@dataclass(frozen=True)
class Preparation:
    """What is done to a clip's sequences before a model sees them, in training as in scoring.

    normaliser: statistics of speakers or corpora (rrnn.normalise), None for none. pool: of a stream, how many frames are
    averaged into one.
    """

    normaliser: Normaliser | None = None
    pool: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, group: str, stream: str, x_KF: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One sequence, of a clip of that group."""
        if self.normaliser is not None and len(x_KF):
            x_KF = self.normaliser.apply(group, stream, x_KF)
        return pooled(x_KF, self.pool.get(stream, 1))

    def times(self, stream: str, times: Times) -> Times:
        """When the prepared frames are: each at the mean of those it was made of, with all of their words."""
        n = self.pool.get(stream, 1)
        if n == 1:
            return times
        seconds = pooled(np.array(times.seconds, np.float64)[:, None], n)[:, 0]
        tokens = times.tokens
        if tokens is not None:
            tokens = [" ".join(tokens[i : i + n]) for i in range(0, len(tokens), n)]
        return Times(seconds.tolist(), tokens)


def pooled(x_KF: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    """(K, F) -> (ceil(K / n), F): means of n frames each, the last of what is left; NaN where none was observed."""
    if n == 1 or not len(x_KF):
        return x_KF
    seen = ~np.isnan(x_KF)
    starts = np.arange(0, len(x_KF), n)
    counts = np.add.reduceat(seen, starts, axis=0, dtype=x_KF.dtype)
    sums = np.add.reduceat(np.where(seen, x_KF, 0), starts, axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(x_KF.dtype)


class ClipSet:
    """Clips with their sequences, in memory, in the order of their ids: whoever reads them in whatever order gets the same.

    preparation: what values() does to what was extracted; see prepare().
    ids, speakers, folds, emotions: lists (None where unknown). lengths[s]: (n,) frames of stream s, 0 where a clip has none.
    alternatives: of a stream, others that may be asked for in its place, by their own names.
    """

    def __init__(
        self, tables: Sequence[pa.Table], streams: Sequence[str], alternatives: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self.streams = tuple(sorted(streams))
        self.alternatives = {s: tuple(names) for s, names in (alternatives or {}).items()}
        self._names = (*self.streams, *_spare(self.alternatives))
        tables = [t for t in tables if t.num_rows]
        rows = [(j, i) for j, t in enumerate(tables) for i in range(t.num_rows)]
        ids = [clip_id for t in tables for clip_id in t["clip_id"].to_pylist()]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self._where = [rows[i] for i in order]
        self.ids = [ids[i] for i in order]
        if twice := next((a for a, b in itertools.pairwise(self.ids) if a == b), None):
            raise ValueError(f"clip {twice!r} comes twice in the store: expected one row a clip; extract to a new store")

        def column(name: str) -> list[Any]:
            values = [v for t in tables for v in t[name].to_pylist()]
            return [values[i] for i in order]

        self.uris, self.starts, self.ends = column("uri"), column("start"), column("end")
        self.speakers, self.folds, self.emotions = column("speaker"), column("fold"), column("emotion")
        self.intensities = [dict(v) if v else None for v in column("intensities")]
        self.shares = [dict(v) if v else None for v in column("shares")]
        self.votes = [{shown: dict(of) for shown, of in v} if v else {} for v in column("votes")]
        self.shards = column("shard")
        self._digests = column("digest")
        self.status = {s: column(f"{s}.status") for s in self.streams}
        self.reasons = {s: column(f"{s}.reason") for s in self.streams}
        self.lengths = {s: np.array(column(f"{s}.n_frames"), np.int64) for s in self._names}
        self._flat: dict[str, list[npt.NDArray[np.float32]]] = {}
        self._offsets: dict[str, list[npt.NDArray[np.int64]]] = {}
        self.preparation = Preparation()
        self._pooled: dict[tuple[str, int], npt.NDArray[np.float32]] = {}  # small, and asked for once an epoch
        self._groups = [""] * len(self.ids)
        self._of_alternatives = Preparation()  # apart, for a run keeps what it needs to score, which they are not
        for s in self._names:
            lists = [t[f"{s}.values"].combine_chunks() for t in tables]
            lists = [c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for c in lists]
            self._flat[s] = [c.values.to_numpy(zero_copy_only=True) for c in lists]
            self._offsets[s] = [c.offsets.to_numpy(zero_copy_only=True) for c in lists]

    def __len__(self) -> int:
        return len(self.ids)

    def values(self, stream: str, i: int) -> npt.NDArray[np.float32]:
        """Clip i's sequence as a model sees it, (K, F): as it was extracted (a view), or prepared, after prepare()."""
        if (stream, i) in self._pooled:
            return self._pooled[stream, i]
        preparation = self.preparation if stream in self.streams else self._of_alternatives
        x_KF = preparation(self._groups[i], stream, self.extracted(stream, i))
        if stream in preparation.pool:
            self._pooled[stream, i] = x_KF
        return x_KF

    def one_of(self, stream: str, i: int, drawn: int) -> npt.NDArray[np.float32]:
        """values() of the stream itself (0), or of its alternative of that number (1, 2, ...) where clip i has it."""
        others = self.alternatives.get(stream, ())
        if 0 < drawn <= len(others) and self.lengths[stream][i] and self.lengths[others[drawn - 1]][i]:
            stream = others[drawn - 1]
        return self.values(stream, i)

    def frames(self, stream: str, i: int) -> npt.NDArray[np.float32]:
        """The same, but every frame: normalised, and not pooled."""
        return replace(self.preparation, pool={})(self._groups[i], stream, self.extracted(stream, i))

    def prepare(self, normalise: str, corpus: str, pool: Mapping[str, int]) -> Preparation:
        """Have values() normalise by the clips' own statistics, and pool, from now on; returns what does it. normalise, pool:
        as in TrainConfig."""
        if normalise != "none":
            self._groups = [group_of(normalise, corpus, speaker) for speaker in self.speakers]

        def fitted(streams: Sequence[str]) -> Normaliser | None:
            if normalise == "none" or not streams:
                return None
            clips = range(len(self))
            return Normaliser.fit(
                (self._groups[i], s, self.extracted(s, i)) for i in clips for s in streams if self.lengths[s][i]
            )

        self.preparation = Preparation(fitted(self.streams), pool)
        pool_too = {name: pool[s] for s, names in self.alternatives.items() if s in pool for name in names}
        self._of_alternatives = Preparation(fitted(_spare(self.alternatives)), pool_too)
        self._pooled.clear()
        return self.preparation

    def extracted(self, stream: str, i: int) -> npt.NDArray[np.float32]:
        """Clip i's sequence, (K, F), a view; K is 0 where the clip does not have the stream."""
        j, row = self._where[i]
        offsets = self._offsets[stream][j]
        flat = self._flat[stream][j][offsets[row] : offsets[row + 1]]
        length = int(self.lengths[stream][i])
        return flat.reshape(length, -1) if length else flat.reshape(0, 1)

    def columns(self, stream: str) -> int:
        """How many columns a stream has; 1 where no clip has any frame."""
        n = int(self.lengths[stream].argmax())
        return int(self.extracted(stream, n).shape[1])

    def usable(self) -> npt.NDArray[np.bool_]:
        """(n,) whether a clip has at least one stream."""
        return np.asarray(np.stack([self.lengths[s] for s in self.streams]).max(0) > 0)

    def digest(self) -> str:
        """Of the manifest's rows and of the sequences: two stores of the same digest train the same model."""
        sha = hashlib.sha256()
        for i, digest in enumerate(self._digests):
            sha.update(digest.encode())
            for s in self._names:
                sha.update(np.ascontiguousarray(self.extracted(s, i)).data)
        return sha.hexdigest()[:16]


def collate(sequences: Sequence[Sequences], columns: dict[str, int]) -> Batch:
    """A padded batch of clips."""
    values, lengths = {}, {}
    for s, width in columns.items():
        arrays = [sequence.get(s) for sequence in sequences]
        counts = [0 if a is None else len(a) for a in arrays]
        padded = np.zeros((len(arrays), max(1, *counts), width), np.float32)
        for row, array in enumerate(arrays):
            if counts[row] and array is not None:
                padded[row, : counts[row]] = array
        values[s] = torch.from_numpy(padded)
        lengths[s] = torch.tensor(counts, dtype=torch.int64)
    return Batch(values, lengths)


def length_batches(cost: npt.NDArray[np.int64], batch_size: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Cut n clips into batches of similar length, in a random order that the seed decides.

    cost: (n,) length of each clip. Lengths are jittered by a tenth before they are sorted, so that batches mix anew each
    epoch. Every clip is in exactly one batch.
    """
    random = np.random.default_rng(seed)
    order = np.argsort(cost * random.uniform(0.9, 1.1, len(cost)), kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def evaluation_batches(cost: npt.NDArray[np.int64], batch_size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of similar length, every clip once."""
    order = np.argsort(cost, kind="stable")
    for i in range(0, len(order), batch_size):
        yield order[i : i + batch_size]
