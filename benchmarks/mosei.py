"""CMU-MOSEI at its size, made up: python -m benchmarks.mosei [--videos 3300] [--segments 23000] [--folder DIR]

Makes computational sequences of the published dimensions and rates, float32, with random values. Then the corpus reader lists
them, and a bare loop cuts and stores each stream: one process, no Ray. Each step is a process of its own, whose peak of
memory is shown beside what it had after its imports. In the same run, the disk alone reads the same file from its beginning
to its end, and writes as many files of as many bytes as the store did, each with fsync. Before each of the three the file's
pages are dropped from the page cache; what a disk keeps in a cache of its own, no program can drop.

Segments last 7.3 s on average and lie close together, 51 h of video in all; the published corpus has 65 h. That takes 23 GB,
which --folder must have room for. Stored shards are deleted as they are written, and everything at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from jobs._cli import app, console, user_errors
from pipeline.corpora import open_corpus
from pipeline.corpora.cmu_mosei import PUBLISHED_ORDER, SEQUENCES, standard_folds
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_shard
from pipeline.store import Store
from pipeline.streams import make_stream
from pipeline.streams.base import Extractor
from pipeline.streams.openface import GROUPS

COLUMNS = {"covarep": 74, "facet": 35, "openface": 713, "glove": 300}
RATES = {"covarep": 100.0, "facet": 30.0, "openface": 30.0}
FILES = {
    "All Labels": "CMU_MOSEI_Labels.csd",
    "words": "CMU_MOSEI_TimestampedWords.csd",
    "COVAREP": "CMU_MOSEI_COVAREP.csd",
    "FACET 4.2": "CMU_MOSEI_VisualFacet42.csd",
    "OpenFace_2": "CMU_MOSEI_VisualOpenFace2.csd",
    "glove_vectors": "CMU_MOSEI_TimestampedWordVectors.csd",
}
SEGMENT_SECONDS, GAP_SECONDS = 7.3, 0.7
WORDS_A_SECOND = 2.5
PAUSE_EVERY = 10  # words
LONGEST = 3600.0  # seconds of a video
MB = 1e6

Floats = npt.NDArray[np.float64]


def importer(stream: str) -> Extractor:
    """The stream with all columns of its sequence."""
    options: dict[str, dict[str, Any]] = {"openface": {"groups": list(GROUPS)}, "facet": {"emotions": True}}
    return make_stream(stream, options.get(stream))


def make(folder: Path, videos: int, segments: int) -> float:
    """Write the sequences; returns the hours of video in them."""
    rng = np.random.default_rng(0)
    ids = [v for part in standard_folds().values() for v in part][:videos]
    ids += [f"made{i:07d}" for i in range(videos - len(ids))]
    counts = 1 + rng.multinomial(segments - videos, np.full(videos, 1 / videos))
    labels, words, lengths = {}, {}, {}
    for video, n in zip(ids, counts.tolist(), strict=True):
        lasting = rng.gamma(3.0, SEGMENT_SECONDS / 3.0, n).clip(0.5, 60.0)
        starts = np.cumsum(np.concatenate([[0.0], (lasting + rng.exponential(GAP_SECONDS, n))[:-1]]))
        lengths[video] = min(float(starts[-1] + lasting[-1]) + GAP_SECONDS, LONGEST)
        graded = rng.choice([0.0, 1 / 3, 2 / 3, 1.0, 2.0, 3.0], (n, len(PUBLISHED_ORDER)))
        labels[video] = np.column_stack([starts, starts + lasting]), graded
        words[video] = _frames(lengths[video], WORDS_A_SECOND)
    text = np.array([b"sp" if i % PAUSE_EVERY == 0 else b"word%d" % i for i in range(int(LONGEST * WORDS_A_SECOND))])[:, None]
    _write(folder, "All Labels", labels)
    _write(folder, "words", {v: (t, text[: len(t)]) for v, t in words.items()})
    for stream, columns in COLUMNS.items():
        times = words if stream == "glove" else {v: _frames(s, RATES[stream]) for v, s in lengths.items()}
        most = max(len(t) for t in times.values())
        block = rng.standard_normal((most + 1000, columns), np.float32)
        block[::97, 0], block[::89, 1] = np.nan, np.inf
        if stream == "openface":
            block[:, 3] = 1  # success
        offsets = rng.integers(0, 1000, len(ids)).tolist()
        features = {v: (t, block[o : o + len(t)]) for (v, t), o in zip(times.items(), offsets, strict=True)}
        _write(folder, SEQUENCES[stream], features)
    return sum(lengths.values()) / 3600


def _frames(seconds: float, rate: float) -> Floats:
    edges = np.arange(int(seconds * rate) + 1) / rate
    return np.column_stack([edges[:-1], edges[1:]])


def _write(folder: Path, root: str, videos: Mapping[str, tuple[Floats, Any]]) -> None:
    path = folder / FILES[root]
    with h5py.File(path, "w") as file:
        data = file.create_group(f"{root}/data")
        for video, (times, features) in videos.items():
            group = data.create_group(video)
            group["features"], group["intervals"] = features, times
    with open(path, "rb") as written:
        os.fsync(written.fileno())


# -- in processes of their own


def list_alone(folder: str, store: str) -> dict[str, float]:
    before, began = _peak(), time.perf_counter()
    clips, _ = read_corpus(open_corpus("cmu_mosei"), folder)
    listed = time.perf_counter() - began
    Store.create(store, "cmu_mosei").add_clips(clips)
    stored = time.perf_counter() - began - listed
    return {"clips": len(clips), "listed": listed, "stored": stored, "before": before, "peak": _peak()}


def extract_alone(url: str, stream: str) -> dict[str, float]:
    store, extractor = Store(url), importer(stream)
    store.begin_stream(extractor)
    shards = store.shards()
    before, began = _peak(), time.perf_counter()
    ok = size = 0
    for shard in shards:
        ok += extract_shard(store, extractor, shard).ok
        path = Path(url) / "features" / stream / f"{shard}.parquet"
        size += path.stat().st_size
        path.unlink()
    seconds = time.perf_counter() - began
    return {"ok": ok, "shards": len(shards), "bytes": size, "seconds": seconds, "before": before, "peak": _peak()}


def _peak() -> float:
    """The most memory that this process has had, in MB. Not getrusage's, which begins with that of the process before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MB


def _alone(function: str, *arguments: str) -> dict[str, float]:
    code = f"import json, sys; from benchmarks.mosei import {function} as f; print(json.dumps(f(*sys.argv[1:])))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=root, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# -- the disk alone


def forget(path: Path) -> None:
    """Drop a file's pages from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(path: Path) -> float:
    """Bytes a second."""
    size, began = 0, time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(8 << 20):
            size += len(chunk)
    return size / (time.perf_counter() - began)


def plain_write(folder: Path, size: int, files: int) -> float:
    """Bytes a second, of files that are written, synced and deleted one after the other."""
    data = np.random.default_rng(0).bytes(size // files)
    began = time.perf_counter()
    for _ in range(files):
        with open(folder / "plain", "wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        (folder / "plain").unlink()
    return len(data) * files / (time.perf_counter() - began)


@user_errors
def main(
    videos: Annotated[int, typer.Option(min=1)] = 3300,
    segments: Annotated[int, typer.Option(min=1, help="At least as many as there are videos.")] = 23000,
    folder: Annotated[Path | None, typer.Option(help="Where the files are made, in a folder of their own.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the files at the end.")] = False,
) -> None:
    """Print a table: how fast each stream is cut and stored, how fast the disk alone would be, and the memory it takes."""
    work = Path(tempfile.mkdtemp(prefix="bench-mosei-", dir=folder))
    try:
        load = os.getloadavg()[0]
        began = time.perf_counter()
        source, store = work / "mosei", work / "store"
        source.mkdir()
        hours = make(source, videos, segments)
        size = sum(p.stat().st_size for p in source.iterdir())
        console.print(
            f"{segments} segments of {videos} videos, {hours:.1f} h, {size / 1e9:.1f} GB, made in "
            f"{time.perf_counter() - began:.0f} s; {os.cpu_count()} cores, load before {load:.1f}"
        )
        for path in source.iterdir():
            forget(path)
        listed = _alone("list_alone", str(source), str(store))
        rate = listed["clips"] / listed["listed"]
        console.print(
            f"listed in {listed['listed']:.1f} s ({rate:.0f} segments/s), manifest stored in {listed['stored']:.1f} s; "
            f"memory {listed['peak']:.0f} MB at most, {listed['before']:.0f} MB after imports"
        )
        Console(width=max(console.width, 140), highlight=False).print(_table(source, store, work))
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)


def _table(source: Path, store: Path, work: Path) -> Table:
    headers = (
        "stream",
        "columns",
        "segments/s",
        "stored",
        "MB/s",
        "s",
        "disk alone: read",
        "write",
        "s",
        "ours / disk",
        "memory",
    )
    table = Table(*headers, "after imports", box=None, pad_edge=False)
    for stream, columns in COLUMNS.items():
        path = source / FILES[SEQUENCES[stream]]
        forget(path)
        ours = _alone("extract_alone", str(store), stream)
        forget(path)
        read, write = plain_read(path), plain_write(work, int(ours["bytes"]), int(ours["shards"]))
        disk = ours["bytes"] / read + ours["bytes"] / write
        table.add_row(
            stream,
            str(columns),
            f"{ours['ok'] / ours['seconds']:.0f}",
            f"{ours['bytes'] / 1e9:.2f} GB",
            f"{ours['bytes'] / MB / ours['seconds']:.0f}",
            f"{ours['seconds']:.0f}",
            f"{read / MB:.0f} MB/s",
            f"{write / MB:.0f} MB/s",
            f"{disk:.0f}",
            f"{ours['seconds'] / disk:.2f}",
            f"{ours['peak']:.0f} MB",
            f"{ours['before']:.0f} MB",
        )
    return table


cli = app(main)

if __name__ == "__main__":
    cli()
