"""Training without Ray around it, by one process or by several: what a job must come to as well."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stores import read_clips

from rrnn.config import Config
from rrnn.data import StoreIndex
from rrnn.train import Workers, train


def train_by(processes: int, config: Config, store: StoreIndex, folder: Path) -> None:
    """The run, in a folder that is not there yet."""
    folder.mkdir(parents=True)
    mp.spawn(_one_of, (processes, config, store, folder), nprocs=processes)
    shutil.rmtree(folder / "scratch")


def _one_of(rank: int, processes: int, config: Config, store: StoreIndex, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/scratch-rendezvous", rank=rank, world_size=processes)
    train(
        config,
        store,
        read_clips(store),
        str(folder),
        workers=Workers(rank, processes),
        report=lambda *_: None,
        scratch=folder / "scratch",
        checkpoint_seconds=0,
    )
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # what was trained is written; leaving in the usual way, torch's threads now and then abort the process
