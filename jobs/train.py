"""Features to a trained, tested model: python -m jobs.train STORE --out RUN [experiment] [key=value ...]"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import ray
import ray.train
import torch
import typer
from ray.train.torch import TorchConfig, TorchTrainer
from rich.table import Table

from jobs._cli import absolute, app, console, overrides, user_errors
from jobs._clips import load_clips, tell_split
from jobs._machines import DISTRIBUTED, machines_missed, wait_for_machines
from pipeline.files import Folder, StorageError, check_buckets, ray_storage
from pipeline.on_ray import ray_started, tell
from rrnn.config import Config, completed, config_from_dict, merge
from rrnn.data import ClipSet, StoreIndex, open_store
from rrnn.experiments import EXPERIMENTS, experiment
from rrnn.results import CLOSED
from rrnn.run import RunFolder
from rrnn.train import CHECKPOINT_SECONDS, Workers, divide, keep_freed_memory, train

RETRIES = 3
RESIZE_SECONDS = 60.0
HEADLINES = ("accuracy", "uar", "cross_entropy", "mse", "mae", "weighted_accuracy")


@dataclass(frozen=True)
class TrainJob:
    """All that a training job depends on."""

    store: str
    out: str
    config: Config
    workers: int = 2
    gpu: bool = False
    command: str | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    min_workers: int | None = None
    """Train on as many as there is room for, from so many to `workers`; None is always `workers`."""
    resize_seconds: float = RESIZE_SECONDS
    """How often it is seen whether there is room for more."""

    def __post_init__(self) -> None:
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ValueError(f"--min-workers {self.min_workers}: expected 1 to {self.workers}, as --workers says")

    @property
    def fewest(self) -> int:
        return self.workers if self.min_workers is None else self.min_workers

    def bundle(self) -> dict[str, float]:
        """What each worker asks Ray for: a core, or where a fixed number of them share fewer cores, their share."""
        cores = float(ray.cluster_resources().get("CPU", 0))
        share = cores / self.workers if cores and self.min_workers is None else 1.0
        return {"CPU": min(1.0, share), **({"GPU": 1.0} if self.gpu else {})}


def train_worker(loop: dict[str, Any]) -> None:
    """What Ray Train runs in each worker."""
    context = ray.train.get_context()
    torch.set_num_threads(1)
    keep_freed_memory()
    store, config = loop["store"], loop["config"]
    clips = ClipSet(ray.get(loop["blocks"]), list(store.streams), store.alternatives)

    def report(figures: dict[str, Any], folder: Path | None) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(str(folder)) if folder is not None else None
        if context.get_world_rank() == 0:
            tell("rrnn_epoch", figures["epoch"])
            tell("rrnn_epoch_loss", figures["train_loss"], part="train")
            tell("rrnn_epoch_loss", figures["valid_loss"], part="valid")
            tell("rrnn_samples_per_second", figures["clips_per_second"])
        ray.train.report(figures, checkpoint=checkpoint)
        if folder is not None:
            shutil.rmtree(folder)  # it is in the run by now

    with tempfile.TemporaryDirectory(prefix="rrnn-") as scratch:
        workers = Workers(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
        checkpoint = ray.train.get_checkpoint()
        resumed = checkpoint.as_directory() if checkpoint is not None else contextlib.nullcontext()
        with resumed as folder:
            train(
                config,
                store,
                clips,
                loop["out"],
                workers=workers,
                report=report,
                scratch=Path(scratch),
                checkpoint=Path(folder) if folder else None,
                command=loop["command"],
                checkpoint_seconds=loop["checkpoint_seconds"],
                test=loop.get("test", True),
                stop=loop.get("stop"),
            )


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Without those of Ray Train's helpers that have nothing to do: each is a process, whose imports take a core for seconds
    while the workers start. No Ray dataset is handed to training; and a Ray that is the job's own (own_ray) ends with it, so
    that no placement group is left behind and no machine is taken away.
    """

    def __init__(self, *args: Any, own_ray: bool = False, **kwargs: Any) -> None:
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a report waits for the next check; 2 by default
        self.idle = {"DatasetsCallback"}
        if own_ray:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            self.idle.add("PlacementGroupCleanerCallback")
        super().__init__(*args, **kwargs)

    def _register_sigint_handler(self, _: Any) -> None:  # Ray's own name: its handler ends the job with 1, and in silence
        pass

    def _create_default_callbacks(self) -> list[Any]:  # Ray's own name: another Ray without it only starts slower
        return [c for c in super()._create_default_callbacks() if type(c).__name__ not in self.idle]


class _Follow(threading.Thread):
    """Prints a line an epoch while Ray Train has the main thread, by reading what the run writes."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(daemon=True)
        self.run_folder, self.stopped = run, threading.Event()
        self.seen = len(self._lines())

    def _lines(self) -> list[str]:
        return self.run_folder.read("metrics.jsonl").decode().splitlines() if self.run_folder.exists("metrics.jsonl") else []

    def run(self) -> None:
        while True:
            last = self.stopped.wait(1.0)
            try:
                lines = self._lines()
            except StorageError:  # who trains will say so
                lines = []
            for line in lines[self.seen :]:
                console.print(epoch_line(json.loads(line)))
            self.seen = max(self.seen, len(lines))
            if last:
                return

    def __enter__(self) -> _Follow:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join()


def epoch_line(figures: dict[str, Any]) -> str:
    known = ("epoch", "train_loss", "valid_loss", "seconds", "best", "learning_rate", "clips_per_second")
    of_valid = [
        f"{k.removeprefix('valid_')} {v:.3f}"
        for k, v in figures.items()
        if k in ("valid_accuracy", "valid_uar", "valid_mse", "valid_mae", "valid_weighted_accuracy") and k not in known
    ]
    return (
        f"  epoch {figures['epoch']:3d}  train loss {figures['train_loss']:.4f}  valid loss {figures['valid_loss']:.4f}  "
        f"valid {', '.join(of_valid)}  {figures['clips_per_second']:.0f} clips/s by {figures['workers']} "
        f"worker{'s' if figures['workers'] > 1 else ''}{'  best' if figures['best'] else ''}"
    )


def run_training(job: TrainJob) -> dict[str, Any]:
    """Train, or go on where an interrupted run stopped, or say that it is finished. Returns the run's summary."""
    job = replace(job, store=absolute(job.store), out=absolute(job.out))
    run = RunFolder(job.out)
    store = open_store(job.store, job.config.streams, job.config.modalities, job.config.train.alternatives)
    _check_same(run, job, store)
    if run.exists("summary.json"):
        summary = run.read_json("summary.json")
        if summary["test"] is None:
            raise ValueError(f"{job.out}: {CLOSED}: choose another --out")
        console.print(f"{job.out} is finished: nothing to train")
        return summary
    workers = job.workers if job.min_workers is None else f"{job.fewest} to {job.workers}"
    console.print(f"training on {', '.join(store.streams)} of {job.store} ({len(store.shards)} shards), {workers} workers")
    Folder(job.out).sweep()
    began = time.perf_counter()
    if job.min_workers is not None:  # the number may be of machines that are lost; by default one is seen after a minute
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    with ray_started(first=DISTRIBUTED, then=["jobs.train"]):
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        bundle = job.bundle()
        wait_for_machines(job.fewest, bundle)
        blocks = load_clips(store)
        clips = ClipSet(ray.get(blocks), list(store.streams), store.alternatives)
        _, split = divide(clips, job.config)  # what is wrong with the data is an error here, before any worker starts
        tell_split(clips, split)
        if run.exists("config.json") and run.read_json("config.json")["data_digest"] != clips.digest():
            raise ValueError(f"{job.out} was begun on other data than {job.store} holds now: choose another --out")
        del clips

        trainer = Trainer(
            train_worker,
            own_ray="RAY_ADDRESS" not in os.environ,
            train_loop_config={
                "config": job.config,
                "store": store,
                "out": job.out,
                "blocks": blocks,
                "command": job.command,
                "checkpoint_seconds": job.checkpoint_seconds,
            },
            torch_config=TorchConfig(backend="nccl" if job.gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=job.workers if job.min_workers is None else (job.min_workers, job.workers),
                use_gpu=job.gpu,
                resources_per_worker=bundle,
                elastic_resize_monitor_interval_s=job.resize_seconds,
            ),
            run_config=ray.train.RunConfig(
                name="checkpoints",
                **ray_storage(job.out),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                failure_config=ray.train.FailureConfig(max_failures=RETRIES),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )
        with machines_missed(job.fewest, bundle), _Follow(run):
            trainer.fit()
    console.print(f"  trained and tested in {time.perf_counter() - began:.0f} s")
    return run.read_json("summary.json")


def _check_same(run: RunFolder, job: TrainJob, store: StoreIndex) -> None:
    """Raise ValueError where the folder holds a run of another configuration: it is neither resumed nor overwritten."""
    if not run.exists("config.json"):
        return
    then = completed(run.read_json("config.json"))
    now = json.loads(json.dumps(job.config.to_dict())) | {"streams": list(store.streams.values()), "store": store.url}
    different = [
        f"{part}.{k} was {then[part].get(k)!r}, now {now[part][k]!r}"
        for part in ("model", "train")
        for k in now[part]
        if then[part].get(k) != now[part][k]
    ]
    different += [f"{k} was {then[k]!r}, now {now[k]!r}" for k in ("store", "experiment") if then[k] != now[k]]
    if then["streams"] != now["streams"] or then.get("alternatives", []) != store.about_alternatives():
        different.append("the streams are others, or made in another way")
    if then["shards"] != len(store.shards):
        different.append(f"the store had {then['shards']} shards, now {len(store.shards)}")
    if different:
        raise ValueError(f"{job.out} holds a run of another configuration ({'; '.join(different)}): choose another --out")


def summary_table(summary: dict[str, Any]) -> Table:
    """Held-out figures beside the naive baseline's."""
    table = Table("held out", "model", "naive", "linear model of averages", box=None, pad_edge=False)
    for name, value in summary["test"].items():
        if name in HEADLINES:
            linear = summary["statistics"].get(name)
            table.add_row(name, f"{value:.4f}", f"{summary['naive'][name]:.4f}", "" if linear is None else f"{linear:.4f}")
    for shown, of in summary.get("human", {}).items():
        table.add_row(
            f"raters shown {shown}, per response / by majority", f"{of['accuracy']:.4f} / {of['majority_accuracy']:.4f}"
        )
    return table


def split_words(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The experiment's name, if one is given, and the overrides."""
    names = [w for w in words if "=" not in w]
    if len(names) > 1:
        raise ValueError(f"expected one experiment and key=value pairs, found {', '.join(names)}")
    return (names[0] if names else "rrnn"), overrides([w for w in words if "=" in w])


@user_errors
def main(
    store: Annotated[str, typer.Argument(help="The features, as jobs.extract writes them; a folder or a URL.")] = "",
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[experiment] [key=value ...]", help="A named experiment (see --list) and changes to it."),
    ] = None,
    out: Annotated[str, typer.Option(help="The run: a folder or a URL. One that was interrupted goes on.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="Training processes (DDP), one core or one GPU each.")] = 2,
    min_workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Go on with so many when machines are lost, and with more, up to --workers, when some come; all by default.",
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="How often to save what a resume needs; at the end of an epoch.")
    ] = CHECKPOINT_SECONDS,
    resize_seconds: Annotated[
        float, typer.Option(min=1, help="With --min-workers: how often to see whether there is room for more.")
    ] = RESIZE_SECONDS,
    gpu: Annotated[bool, typer.Option("--gpu", help="Train on GPUs, one a worker.")] = False,
    list_experiments: Annotated[bool, typer.Option("--list", help="Show the named experiments.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Train the RRNN on a store's features, and test it once on speakers that it never heard.

    Some speakers are held out for the test, some decide when to stop, the rest train. The best epoch by validation loss is
    kept. After a crash, the same command goes on from the last epoch; a finished run is left as it is.

    Example: python -m jobs.train features/ravdess --out runs/first rrnn model.hops=2 train.seed=1
    """
    if list_experiments:
        for name, function in EXPERIMENTS.items():
            console.print(f"{name:12s} {(function.__doc__ or '').strip()}")
        return
    if not store or not out:
        raise ValueError("expected STORE and --out RUN; see --help")
    name, changes = split_words(words or [])
    config = config_from_dict(merge(experiment(name).to_dict(), changes))
    command = shlex.join(["python", "-m", "jobs.train", *sys.argv[1:]])
    job = TrainJob(
        store=store,
        out=out,
        config=config,
        workers=workers,
        gpu=gpu,
        command=command,
        checkpoint_seconds=checkpoint_seconds,
        min_workers=min_workers,
        resize_seconds=resize_seconds,
    )
    if dry_run:
        about = {"store": store, "out": out, "workers": workers, "min_workers": min_workers, "gpu": gpu}
        console.print_json(json.dumps({**about, **config.to_dict()}))
        return
    check_buckets(store, out)
    console.print(summary_table(run_training(job)))


cli = app(main)

if __name__ == "__main__":
    from jobs.train import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
