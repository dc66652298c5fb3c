"""Variants of the model on made tasks whose best possible accuracy is known: python -m benchmarks.made_task

Every variant is trained as often as there are seeds on each task, on the same clips, by rrnn.train without Ray, and stopped by
the validation clips. OUT/stores/TASK holds the clips, OUT/runs/TASK/VARIANT/SEED the runs, OUT/results.csv the figures. A run
that is finished is not run again.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from jobs._cli import app, console, progress, user_errors
from jobs.made_task import CLIPS, MadeTask, make_store, references
from rrnn.config import Config, ModelConfig, TrainConfig
from rrnn.data import ClipSet, StoreIndex, open_store, read_shard
from rrnn.made_task import TASKS
from rrnn.run import RunFolder
from rrnn.train import Workers, keep_freed_memory, train

HIDDEN, DROPOUT, ALIGN = 32, 0.1, 8
TRAIN = TrainConfig(loss="cross_entropy", epochs=18, patience=12, batch_size=128, learning_rate=6e-3)
COLUMNS = ("task", "variant", "seed", "accuracy", "cross_entropy", "best_epoch", "epochs", "seconds")


def _model(**options: Any) -> ModelConfig:
    attends = {} if options.get("architecture") == "late" else {"align_size": ALIGN}
    return ModelConfig(hidden=HIDDEN, dropout=DROPOUT, **{**attends, **options})


VARIANTS: dict[str, ModelConfig] = {
    "late": _model(architecture="late"),
    "early": _model(architecture="early", hops=3),
    "gca-1": _model(gate="none", hops=1),
    "gca-2": _model(gate="none", hops=2),
    "gca-3": _model(gate="none", hops=3),
    "gated-1": _model(hops=1),
    "gated-2": _model(hops=2),
    "gated-3": _model(hops=3),
    "per-modality-3": _model(hops=3, gate="per_modality"),
    "tied-3": _model(hops=3, tied=True),
    "concatenative-3": _model(hops=3, align="concatenative"),
    "heads-3": _model(hops=3, heads=4),
    "align-16-3": _model(hops=3, align_size=16),
    "align-32-3": _model(hops=3, align_size=32),
    "zero-memory-1": _model(hops=1, memory="zero"),
    "zero-memory-2": _model(hops=2, memory="zero"),
    "zero-memory-3": _model(hops=3, memory="zero"),
}
"""Gated is the joint gate; a name ends with the number of hops. The alignment space has 8 dimensions where none are named."""


@dataclass(frozen=True)
class Run:
    """One training. store: the task's clips. folder: the run's."""

    task: str
    variant: str
    seed: int
    store: str
    folder: str

    @property
    def config(self) -> Config:
        return Config(model=VARIANTS[self.variant], train=TrainConfig(**{**asdict(TRAIN), "seed": self.seed}))

    def summary(self) -> dict[str, Any] | None:
        """Of a finished run. Raises ValueError where the run is one of another configuration."""
        folder = RunFolder(self.folder)
        if not folder.exists("summary.json"):
            return None
        then, now = folder.read_json("config.json"), self.config.to_dict()
        different = [f"{part}.{k}" for part in ("model", "train") for k in now[part] if now[part][k] != then[part].get(k)]
        if different:
            raise ValueError(f"{self.folder} is a run with another {', '.join(different)}: choose another --out, or delete it")
        return folder.read_json("summary.json")

    def row(self) -> dict[str, Any]:
        """A line of the results. The run must be finished."""
        summary = self.summary()
        assert summary is not None
        test = {k: summary["test"][k] for k in ("accuracy", "cross_entropy")}
        of_run = {k: summary[k] for k in ("best_epoch", "epochs", "seconds")}
        return {"task": self.task, "variant": self.variant, "seed": self.seed, **test, **of_run}


@functools.cache
def _read(url: str) -> tuple[StoreIndex, ClipSet]:
    store = open_store(url)
    return store, ClipSet([read_shard(store, shard) for shard in store.shards], list(store.streams))


def _train(run: Run) -> Run:
    store, clips = _read(run.store)
    train(
        run.config,
        store,
        clips,
        run.folder,
        workers=Workers(),
        report=lambda *_: None,
        scratch=Path(run.folder),  # nothing comes there: a run is over before a checkpoint is due
        command="python -m benchmarks.made_task",
        checkpoint_seconds=math.inf,
    )
    return run


def _start_worker() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def train_all(runs: Sequence[Run], processes: int) -> None:
    """Train what is not finished, each run on one core."""
    todo = sorted((run for run in runs if run.summary() is None), key=lambda run: run.seed)  # a table of few seeds comes first
    console.print(f"{len(runs)} runs: {len(runs) - len(todo)} done, {len(todo)} to do")
    if not todo:
        return
    spawn = multiprocessing.get_context("spawn")  # a forked child would inherit torch's threads in an unknown state
    with spawn.Pool(processes, _start_worker) as pool, progress(len(runs), "runs", len(runs) - len(todo)) as advance:
        for run in pool.imap_unordered(_train, todo):
            row = run.row()
            note = f"{row['accuracy']:.1%}, {row['epochs']} epochs, {row['seconds']:.0f} s"
            advance(1, f"({run.task} {run.variant} seed {run.seed}: {note})")


def task_table(task: str, known: dict[str, dict[str, float]], rows: Iterable[dict[str, Any]]) -> Table:
    """Mean and spread over the seeds of each variant's test accuracy, and which share of the way from the naive answer to the
    best possible one that is."""
    best, naive = known["Bayes-optimal"]["accuracy"], known["naive"]["accuracy"]
    table = Table(task, "accuracy", "spread", "of the gap", "cross-entropy", "seconds a run", box=None, pad_edge=False)
    for who, figures in known.items():
        share = (figures["accuracy"] - naive) / (best - naive)
        table.add_row(who, f"{figures['accuracy']:.1%}", "", f"{share:.0%}", f"{figures['cross_entropy']:.3f}", "")
    by_variant: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], []).append(row)
    for variant, found in by_variant.items():
        accuracy = [row["accuracy"] for row in found]
        mean = statistics.mean(accuracy)
        table.add_row(
            variant,
            f"{mean:.1%}",
            f"{min(accuracy):.1%} to {max(accuracy):.1%}",
            f"{(mean - naive) / (best - naive):.0%}",
            f"{statistics.mean(row['cross_entropy'] for row in found):.3f}",
            f"{statistics.mean(row['seconds'] for row in found):.0f}",
        )
    return table


def csv_text(known: dict[str, dict[str, dict[str, float]]], rows: Iterable[dict[str, Any]]) -> str:
    """One line a run, after those of what is known of each task; these have no seed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for task, found in known.items():
        writer.writerows({"task": task, "variant": who, **figures} for who, figures in found.items())
    writer.writerows(rows)
    return text.getvalue()


def chosen(names: str, known: Iterable[str], what: str) -> list[str]:
    """The names in a list with commas, or all known ones where it is empty. Raises ValueError for a name that is not known."""
    asked = [n.strip() for n in names.split(",") if n.strip()] or list(known)
    if unknown := set(asked) - set(known):
        raise ValueError(f"unknown {what} {', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    return asked


@user_errors
def main(
    tasks: Annotated[str, typer.Option(help=f"Some of {','.join(TASKS)}; all by default.")] = "",
    variants: Annotated[str, typer.Option(help=f"Some of {','.join(VARIANTS)}; all by default.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant on each task.")] = 3,
    clips: Annotated[
        int, typer.Option(help="Clips a task: three fifths to train on, a fifth to stop by, a fifth to test.")
    ] = CLIPS,
    processes: Annotated[int, typer.Option(min=1, help="Trainings side by side, on one core each.")] = 2,
    out: Annotated[Path, typer.Option(help="Stores, runs and results; what is finished there is not done again.")] = Path(
        "bench-made-task"
    ),
) -> None:
    """Train variants of the model on made tasks, and compare them with the best possible answer.

    Example: python -m benchmarks.made_task --tasks pointer,chain --variants gated-1,gated-2,gated-3 --seeds 3
    """
    began = time.monotonic()
    runs, known = [], {}
    for task in chosen(tasks, TASKS, "task"):
        made = MadeTask(task, clips)
        store = str(out / "stores" / task)
        make_store(made, store)
        known[task] = references(made)
        runs += [
            Run(task, variant, seed, store, str(out / "runs" / task / variant / str(seed)))
            for variant in chosen(variants, VARIANTS, "variant")
            for seed in range(seeds)
        ]
    train_all(runs, processes)
    rows = [run.row() for run in runs]
    (out / "results.csv").write_text(csv_text(known, rows))
    wide = Console(width=max(console.width, 120), highlight=False)
    for task, found in known.items():
        wide.print(task_table(task, found, [row for row in rows if row["task"] == task]), "")
    console.print(f"{time.monotonic() - began:.0f} s; {out / 'results.csv'}")


cli = app(main)

if __name__ == "__main__":
    from benchmarks.made_task import cli as importable  # what a pool sends to its processes must come from a module

    importable()
