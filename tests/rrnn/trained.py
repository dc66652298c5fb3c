"""Training without Ray around it, by one process or by several: what a job must come to as well."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stores import read_clips

from rrnn.config import Config
from rrnn.data import ClipSet, StoreIndex
from rrnn.sweep import Settings, Sweep
from rrnn.train import Workers, train


def train_by(processes: int, config: Config, store: StoreIndex, folder: Path) -> None:
    """The run, in a folder that is not there yet; one process is this one."""
    folder.mkdir(parents=True)
    if processes == 1:
        _train(Workers(), config, store, folder)
    else:
        # Their torch is imported once, by a process without threads that all are forked from.
        multiprocessing.set_forkserver_preload(["rrnn.train", "torch._dynamo"])
        mp.start_processes(_one_of, (processes, config, store, folder), nprocs=processes, start_method="forkserver")


def _train(workers: Workers, config: Config, store: StoreIndex, folder: Path) -> None:
    torch.set_num_threads(1)
    train(
        config,
        store,
        read_clips(store),
        str(folder),
        workers=workers,
        report=lambda *_: None,
        scratch=folder / "scratch",
        checkpoint_seconds=float("inf"),
    )


def _one_of(rank: int, processes: int, config: Config, store: StoreIndex, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/scratch-rendezvous", rank=rank, world_size=processes)
    _train(Workers(rank, processes), config, store, folder)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # what was trained is written; leaving in the usual way, torch's threads now and then abort the process


def train_trial(sweep: Sweep, settings: Settings, number: int, store: StoreIndex, clips: ClipSet, n: int = 9) -> None:
    choices = sweep.draw(settings, number)
    assert isinstance(choices, dict)
    torch.set_num_threads(1)
    train(
        sweep.config(settings, choices),
        store,
        clips,
        sweep.run_folder(number).url,
        workers=Workers(),
        report=lambda *_: None,
        scratch=Path("unused"),
        checkpoint_seconds=1e9,
        test=False,
        stop=lambda history: sweep.stops(settings, n, number, history),
    )


def sweep_by_one(settings: Settings, n: int, store: StoreIndex, folder: Path) -> Sweep:
    """The sweep of n trials, trained one after the other, its winner tested."""
    sweep, clips = Sweep(str(folder)), read_clips(store)
    sweep.begin(settings, n, clips.digest())
    for i in range(n):
        train_trial(sweep, settings, i, store, clips, n)
    sweep.record(n)
    sweep.test(n, store, clips)
    return sweep
