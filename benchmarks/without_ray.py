"""What four jobs do, with no Ray around it: python -m benchmarks.without_ray NAME ARGUMENTS

NAME is a function of this module, ARGUMENTS is JSON. The processes are started here, each with one thread, and are dealt their
units beforehand (trials they take one by one). Nothing is told of progress; `extract` has no child process around a clip.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.bare_loop import main as extract_units
from benchmarks.tune import bare
from jobs.extract import ExtractConfig, listing, streams_of
from jobs.score import ScoreConfig, ScoreWorker, extractors_of
from pipeline.extract import pending
from pipeline.store import Store
from rrnn.config import config_from_dict, merge
from rrnn.data import ClipSet, open_store, read_shard
from rrnn.experiments import experiment
from rrnn.run import load_model
from rrnn.spaces import open_space
from rrnn.sweep import Settings, drawn_at_random
from rrnn.train import Workers, keep_freed_memory
from rrnn.train import train as train_model


def _on_each(function: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
    """A call in a process of its own for each."""
    with ProcessPoolExecutor(len(arguments), multiprocessing.get_context("spawn")) as pool:
        for call in [pool.submit(function, *of) for of in arguments]:
            call.result()


def extract(processes: int, source: str, corpus: str, out: str, modalities: str) -> None:
    with listing(corpus, {}, source) as (clips, _):
        store = Store.create(out, corpus)
        store.add_clips(clips)
    extractors = ExtractConfig(source, corpus, out, streams=streams_of(corpus, modalities, "", {})).extractors()
    for extractor in extractors:
        store.begin_stream(extractor)
    units = [(work.stream, work.shard) for work in pending(store, extractors)[0]]
    _on_each(_extract, [(out, units[i::processes]) for i in range(processes)])


def _extract(out: str, units: list[tuple[str, str]]) -> None:
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        extract_units(out, units)


def train(processes: int, store: str, out: str, name: str, changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="without-ray-") as folder:
        _on_each(_train, [(i, processes, store, out, name, changes, folder) for i in range(processes)])


def _train(rank: int, count: int, store: str, out: str, name: str, changes: dict[str, Any], folder: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    index = open_store(store)
    train_model(
        config_from_dict(merge(experiment(name).to_dict(), changes)),
        index,
        ClipSet([read_shard(index, shard) for shard in index.shards], list(index.streams)),
        out,
        workers=Workers(rank, count),
        report=lambda *_: None,
        scratch=Path(folder) / str(rank),
        checkpoint_seconds=1e9,
    )
    dist.destroy_process_group()


def tune(processes: int, store: str, out: str, space: str, trials: int, epochs: int) -> None:
    chosen = open_space(space)
    settings = Settings(store, chosen.to_dict(), epochs, asha=False)
    drawn: list[Any] = []
    while len(drawn) < trials:
        drawn.append(drawn_at_random(chosen, settings.seed, len(drawn), drawn))
    bare(settings, drawn, processes, Path(out) / "trials")


def score(processes: int, run: str, clips: str, out: str) -> None:
    config = ScoreConfig(run, clips, "folder", out)
    with listing(config.corpus, {}, clips) as (found, _):
        store = Store.create(out, config.corpus)
        store.add_clips(found)
    shards = store.shards()
    _on_each(_score, [(config, shards[i::processes]) for i in range(processes)])


def _score(config: ScoreConfig, shards: Sequence[str]) -> None:
    if shards:
        worker = ScoreWorker(config, extractors_of(load_model(config.run)[1]))
        for shard in shards:
            worker({"shard": shard})


if __name__ == "__main__":
    from benchmarks import without_ray  # what is sent to processes must come from a module, not from __main__

    os.environ["OMP_NUM_THREADS"] = "1"
    getattr(without_ray, sys.argv[1])(**json.loads(sys.argv[2]))
