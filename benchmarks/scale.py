"""What a very large corpus costs before anything is extracted of it: python -m benchmarks.scale [--clips 1000000]

A manifest of so many rows goes through `jobs.extract` into a store, by an extractor that costs nothing, in processes of their
own, which are watched from outside: what is left is the listing, the manifest, Ray, the units of work and their files. Then the
same command once more, with nothing left to do. Linux only.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import typer
from rich.table import Table

from jobs._cli import app, console, user_errors
from jobs.extract import ExtractConfig, extract
from pipeline.clip import Clip, Modality
from pipeline.media import Media
from pipeline.store import SHARD_SIZE
from pipeline.streams import STREAMS
from pipeline.streams.base import Extractor, Features

TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
WATCH_SECONDS = 0.2
SPEAKERS = 5_000


@dataclass(frozen=True)
class Free(Extractor):
    """One frame of one number a clip, out of nothing."""

    name: ClassVar[str] = "free"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "none"
    reads_recording: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return ("one",)

    def extract(self, clip: Clip, media: Media) -> Features:
        return Features(np.ones((1, 1), np.float32), np.zeros(1))


def write_manifest(path: Path, n: int) -> None:
    """Rows such as a corpus has: a path, a speaker, an emotion, a short transcript."""
    emotions = ("angry", "disgusted", "fearful", "happy", "neutral", "sad")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "speaker", "emotion", "transcript"))
        for i in range(n):
            speaker = f"speaker-{i % SPEAKERS:05d}"
            words = f"this is what speaker {i % SPEAKERS} said in clip {i}"
            rows.writerow((f"clips/{speaker}/{i:09d}.flv", speaker, emotions[i % len(emotions)], words))


@dataclass
class Watched:
    """A process and all below it, as seen from outside. cpu: seconds of (pid, its start), what each had used when last seen."""

    seconds: float = 0.0
    cpu: dict[tuple[int, int], float] = field(default_factory=dict)
    kind: dict[tuple[int, int], str] = field(default_factory=dict)
    driver_memory: list[int] = field(default_factory=list)
    """Bytes, resident and its own: no file's pages and no shared memory."""

    def total(self, kind: str) -> float:
        return sum(seconds for key, seconds in self.cpu.items() if self.kind[key] == kind)


def watch(command: list[str]) -> Watched:
    """Run a command to its end. Raises CalledProcessError where it fails."""
    found, began = Watched(), time.perf_counter()
    process = subprocess.Popen(command)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(WATCH_SECONDS):
            _look(process.pid, found)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        code = process.wait()
    finally:
        ended.set()
        watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    found.seconds = time.perf_counter() - began
    return found


def _look(root: int, found: Watched) -> None:
    below: dict[int, list[tuple[int, int, float]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = stat.rpartition(")")[2].split()  # from the third field on
            used = (int(fields[11]) + int(fields[12])) / TICK
            below.setdefault(int(fields[1]), []).append((int(entry), int(fields[19]), used))
            if int(entry) == root:
                found.cpu[root, int(fields[19])] = used
                found.kind[root, int(fields[19])] = "driver"
    waiting = [root]
    while waiting:
        for pid, start, used in below.get(waiting.pop(), ()):
            waiting.append(pid)
            found.cpu[pid, start] = used
            found.kind[pid, start] = _kind(pid) or found.kind.get((pid, start), "Ray")
    try:
        status = Path(f"/proc/{root}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return
    if "RssAnon:" in status:
        found.driver_memory.append(1024 * int(status.partition("RssAnon:")[2].split()[0]))


def _kind(pid: int) -> str:
    """worker: an actor of the pool, or the child in which it extracts; Ray: all else below the driver."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "worker" if "MapWorker" in command or "multiprocessing" in command else "Ray" if command.strip() else ""


def simulate(n: int, shard_size: int, folder: Path) -> list[tuple[str, Watched]]:
    """All clips new, then nothing to do."""
    write_manifest(folder / "manifest.csv", n)
    command = [sys.executable, "-m", "benchmarks.scale", "--child", str(folder), "--shard-size", str(shard_size)]
    return [(what, watch(command)) for what in ("all new", "nothing to do")]


@user_errors
def main(
    clips: Annotated[list[int] | None, typer.Option(min=1, help="Rows of the manifest; may be repeated.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Clips a shard.")] = SHARD_SIZE,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print a table: CPU a clip of the driver, the workers and Ray itself, and what memory the driver took at most.

    Example: python -m benchmarks.scale --clips 100000 --clips 1000000
    """
    STREAMS["free"] = "benchmarks.scale:Free"
    if child is not None:
        out, streams = str(child / "store"), {"free": {}}
        extract(ExtractConfig(str(child / "manifest.csv"), "folder", out, streams=streams, shard_size=shard_size))
        return
    columns = "clips", "shard", "", "seconds", "CPU ms a clip", "driver", "workers", "Ray", "driver's memory, MB"
    found = Table(*columns, box=None, pad_edge=False)
    for n in clips or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            for what, seen in simulate(n, shard_size, Path(folder)):
                each = [1e3 * seen.total(kind) / n for kind in ("driver", "worker", "Ray")]
                memory = f"{max(seen.driver_memory) / 1e6:.0f}"
                shown = f"{sum(each):.3f}", *(f"{ms:.3f}" for ms in each), memory
                found.add_row(f"{n:,}", str(shard_size), what, f"{seen.seconds:.0f}", *shown)
    console.print(found)


cli = app(main)

if __name__ == "__main__":
    from benchmarks.scale import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
