"""Extraction: Ray with one worker against a bare loop, two workers against one.

All sides do the same units (stream, shard) in the same order, write the same store, and give extractors one thread. Ray's
workers extract in child processes, as they always do; the bare loop extracts in its own process. The clock starts when the
units are handed over (to extract_on_ray, or to a new Python), so it counts the start of the pool or of the process and the
loading of models, and not ray.init. The first WARM_SHARDS of every stream are the start-up: a rate is of what comes after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measure import Row, Target, median, ratios
from pipeline.clip import Clip
from pipeline.extract import CLIP_SECONDS, Work, pending
from pipeline.on_ray import extract_on_ray, ray_started
from pipeline.store import Store
from pipeline.streams import make_stream

STREAMS = ("face", "speech", "acoustic", "words")  # the longest units first, so that two workers end together
SHARD_SIZE = 8  # as short as the made clips allow within minutes; 32 by default
WARM_SHARDS = 2  # of every stream: one for each of two workers, so that both have loaded every model


@dataclass(frozen=True)
class Timing:
    """seconds: of the whole. clips: all of them. rate: clips a second, all streams of each, after the start-up."""

    seconds: float
    clips: int
    rate: float

    @property
    def startup(self) -> float:
        """Seconds beyond what the clips took."""
        return self.seconds - self.clips / self.rate


def measure(clips: Sequence[Clip], n_clips: int, turns: int) -> list[Row]:
    """Rows of the table, from n_clips clips after the start-up: the given ones, repeated under other ids."""
    found: dict[str, list[Timing]] = {"bare": [], "two bare": [], "one worker": [], "two workers": []}
    n_all = n_clips + WARM_SHARDS * SHARD_SIZE
    many = [replace(clips[i % len(clips)], clip_id=f"{i:05d}") for i in range(n_all)]
    with ray_started():
        for _ in range(turns):
            found["bare"].append(_time(many, _bare))
            found["one worker"].append(_time(many, lambda store, units: _on_ray(store, units, 1)))
            found["two workers"].append(_time(many, lambda store, units: _on_ray(store, units, 2)))
            found["two bare"].append(_time(many, _two_bare))
    rate = {side: [t.rate for t in timings] for side, timings in found.items()}
    whole = {side: [t.clips / t.seconds for t in timings] for side, timings in found.items()}
    startup = {side: [t.startup for t in timings] for side, timings in found.items()}

    def row(
        what: str, ours: str, peer: str, of: dict[str, list[float]], target: Target | None = None, unit: str = "clips/s"
    ) -> Row:
        figures = [f"{median(of[side]):.3g} {unit}" for side in (ours, peer)]
        return Row(what, figures[0], figures[1], ratios(of[ours], of[peer]), target)

    return [
        row("extraction, Ray with 1 worker / bare loop", "one worker", "bare", rate, Target(0.9, True)),
        row(f"  the same, start-up counted in ({n_all} clips)", "one worker", "bare", whole),
        row("  start-up: pool or process, and models", "one worker", "bare", startup, unit="s"),
        row("extraction, Ray with 2 workers / 1 worker", "two workers", "one worker", rate, Target(1.8, True)),
        row("  what the machine allows: 2 bare loops / 1", "two bare", "bare", rate),
        row("  Ray with 2 workers / 2 bare loops", "two workers", "two bare", rate),
    ]


def _time(clips: Sequence[Clip], run: Callable[[Store, list[Work]], Iterator[Work]]) -> Timing:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = Store.create(folder, "benchmark", SHARD_SIZE)
        store.add_clips(clips)
        extractors = [make_stream(name) for name in STREAMS]
        for extractor in extractors:
            store.begin_stream(extractor)
        warm_shards = store.shards()[:WARM_SHARDS]
        units, _ = pending(store, extractors)
        units.sort(key=lambda unit: unit.shard not in warm_shards)
        began = last = time.perf_counter()
        warm = 0.0
        for unit in run(store, units):
            last = time.perf_counter()
            if unit.shard in warm_shards:
                warm = last
        for name in STREAMS:
            bad = [row for row in store.outcome(name).to_pylist() if row["status"] != "ok"]
            if bad:
                raise ValueError(f"a benchmark needs clips that can be used in every stream, found {bad[0]} in {name}")
    return Timing(last - began, len(clips), (len(clips) - WARM_SHARDS * SHARD_SIZE) / (last - warm))


def _on_ray(store: Store, units: list[Work], workers: int) -> Iterator[Work]:
    extractors = [make_stream(name) for name in STREAMS]
    for report in extract_on_ray(store, extractors, units, workers=workers, clip_seconds=CLIP_SECONDS):
        yield Work(report.stream, report.shard)


def _bare(store: Store, units: list[Work]) -> Iterator[Work]:
    with _loop(store, units) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Work(*line.split())
    _check(process)


def _two_bare(store: Store, units: list[Work]) -> Iterator[Work]:
    """Every other unit in each of two processes: no queue, no driver."""
    # Both write to one pipe. A line is far shorter than what a pipe takes whole, so lines do not mix.
    read_end, write_end = os.pipe()
    with _loop(store, units[::2], write_end) as one, _loop(store, units[1::2], write_end) as two:
        os.close(write_end)
        with open(read_end) as lines:
            for line in lines:
                yield Work(*line.split())
    _check(one)
    _check(two)


def _loop(store: Store, units: list[Work], stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    todo = json.dumps([(unit.stream, unit.shard) for unit in units])
    command = [sys.executable, "-m", "benchmarks.bare_loop", store.folder.url, todo]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=stdout, text=True)


def _check(process: subprocess.Popen[str]) -> None:
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
