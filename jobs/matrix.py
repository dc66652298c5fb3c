"""Many runs as one job: experiments, test folds and seeds: python -m jobs.matrix STORE --out FOLDER --rows few,few_gca"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import ray
import torch
import typer
from rich.table import Table

from jobs._cli import absolute, app, console, overrides, progress, user_errors
from jobs._clips import load_clips
from jobs._machines import machines_missed
from pipeline.files import check_buckets
from pipeline.on_ray import map_units, ray_started
from rrnn.config import Config, completed, config_from_dict, merge
from rrnn.data import ClipSet, open_store
from rrnn.experiments import EXPERIMENTS, experiment
from rrnn.results import read_run
from rrnn.run import RunFolder
from rrnn.statistics import deviation, seed_scores
from rrnn.tables import group_runs
from rrnn.train import Workers, divide, keep_freed_memory, train


@dataclass(frozen=True)
class MatrixConfig:
    """All that a matrix of runs depends on. rows: names of experiments; changes: laid over each of them; label: added to their
    names, so that the same rows with other changes are other experiments."""

    store: str
    out: str
    rows: tuple[str, ...]
    seeds: int = 5
    folds: tuple[int, ...] | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def config(self, row: str, fold: int, seed: int) -> Config:
        """Of one run."""
        of_run = {"experiment": row + self.label, "train": {"test_fold": fold, "seed": seed}}
        return config_from_dict(merge(merge(experiment(row).to_dict(), self.changes), of_run))

    def folder(self, row: str, fold: int, seed: int) -> str:
        return f"{self.out}/{row}{self.label}/fold{fold}-seed{seed}"


class MatrixWorker:
    """One actor, one core: a run at a time, by the same function as jobs.train. The clips are in Ray's shared memory."""

    def __init__(self, config: MatrixConfig, blocks: list[Any]) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self.config = config
        self.tables = ray.get(blocks)
        self.clips: dict[str, ClipSet] = {}

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        row, fold, seed = str(unit["row"]), int(unit["fold"]), int(unit["seed"])
        config = self.config.config(row, fold, seed)
        store = open_store(self.config.store, config.streams, config.modalities, config.train.alternatives)
        of = f"{list(store.streams)} {[(s, *names) for s, names in store.alternatives.items()]}"
        if of not in self.clips:
            self.clips[of] = ClipSet(self.tables, list(store.streams), store.alternatives)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="rrnn-") as scratch:
            train(
                config,
                store,
                self.clips[of],
                self.config.folder(row, fold, seed),
                workers=Workers(),
                report=lambda *_: None,
                scratch=Path(scratch),
                checkpoint_seconds=float("inf"),
            )
        return {**unit, "seconds": time.perf_counter() - began}


def run_matrix(config: MatrixConfig) -> None:
    """Do the runs that are not there yet. A run that is there was made by the same configuration on the same data, or the job
    stops."""
    rows = {row: config.config(row, 0, 0) for row in config.rows}
    indices = {row: open_store(config.store, of.streams, of.modalities, of.train.alternatives) for row, of in rows.items()}
    streams: dict[str, Any] = {s: {} for index in indices.values() for s in index.names}
    with ray_started(first=["rrnn.train"], then=["jobs.matrix"]), machines_missed(1, {"CPU": 1.0}):
        blocks = load_clips(replace(indices[config.rows[0]], streams=streams, alternatives={}))
        tables = ray.get(blocks)
        digests, folds = {}, {}
        for row, index in indices.items():
            clips = ClipSet(tables, list(index.streams), index.alternatives)
            digests[row] = clips.digest()
            n = divide(clips, rows[row])[1].folds
            folds[row] = list(range(n)) if config.folds is None else [k for k in config.folds if k < n]
        units: list[dict[str, Any]] = [
            {"row": row, "fold": fold, "seed": seed}
            for seed in range(config.seeds)  # all rows fill alike, however far it comes
            for row in config.rows
            for fold in folds[row]
        ]
        todo = [unit for unit in units if not finished(config, digests[unit["row"]], **unit)]
        console.print(f"{len(units)} runs: {len(units) - len(todo)} done, {len(todo)} to do")
        with progress(len(units), "runs", len(units) - len(todo)) as advance:
            for done in map_units(MatrixWorker, {"config": config, "blocks": blocks}, todo):
                advance(1, f"({done['row']}, fold {done['fold']}, seed {done['seed']}: {done['seconds']:.0f} s)")
    console.print(matrix_table([config.folder(**unit) for unit in units]))


def finished(config: MatrixConfig, data_digest: str, row: str, fold: int, seed: int) -> bool:
    """Whether a run is there. Raises ValueError where it is of another configuration, or of other data."""
    run = RunFolder(config.folder(row, fold, seed))
    if not run.exists("summary.json"):
        return False
    then = completed(run.read_json("config.json"))
    now = json.loads(json.dumps(config.config(row, fold, seed).to_dict())) | {"data_digest": data_digest}
    if different := [key for key in ("model", "train", "modalities", "data_digest") if then.get(key) != now[key]]:
        raise ValueError(f"{run.url} was made with another {' and '.join(different)}: choose another --label or --out")
    return True


def matrix_table(runs: Sequence[str]) -> Table:
    """The first measure of each experiment over all of its test clips, mean and deviation over the seeds; a seed that lacks a
    fold does not count."""
    experiments, notes = group_runs([read_run(url) for url in runs])
    measure = experiments[0].measures[0]
    columns = "experiment", "seeds", "folds", measure.name, "sd over seeds", "naive", "linear model of averages"
    table = Table(*columns, box=None, pad_edge=False, caption="\n".join(notes) or None)
    for e in experiments:
        scores = seed_scores(e.pooled, measure.key)
        figures = float(scores.mean()), deviation(scores), *(e.baseline(of, measure.key) for of in ("naive", "statistics"))
        shown = ["" if x is None or math.isnan(x) else f"{x:.4f}" for x in figures]
        table.add_row(e.label, str(len(scores)), str(e.n_folds), *shown)
    return table


@user_errors
def main(
    store: Annotated[str, typer.Argument(help="The features, as jobs.extract writes them; a folder or a URL.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Changes to all of the experiments.")
    ] = None,
    out: Annotated[
        str, typer.Option(help="Where the runs go: a folder or a URL. Those that are there are not done again.")
    ] = "",
    rows: Annotated[str, typer.Option(help="Names of experiments, with commas between them; see jobs.train --list.")] = "few",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 5,
    folds: Annotated[str, typer.Option(help="Test folds, such as 0,2; all by default.")] = "",
    label: Annotated[str, typer.Option(help="Added to the experiments' names: the same rows, otherwise changed.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Train and test every experiment on every test fold with every seed, a run on each core.

    A run that is there is not done again: give the same command once more to go on, with more seeds or rows to add some. Each
    is a run like any other, FOLDER/<experiment>/fold<k>-seed<s>, for `jobs.report` and all else.

    Example: python -m jobs.matrix features/ravdess --out runs --rows few,few_gca --label=-speaker train.normalise=speaker
    """
    if not out:
        raise ValueError("expected --out FOLDER; see --help")
    names = tuple(name.strip() for name in rows.split(",") if name.strip())
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise ValueError(f"unknown experiment {', '.join(unknown)}: expected some of {', '.join(EXPERIMENTS)}")
    try:
        chosen = tuple(int(k) for k in folds.split(",")) if folds else None
    except ValueError:
        raise ValueError(f"--folds {folds}: expected numbers with commas between them, such as 0,2") from None
    config = MatrixConfig(absolute(store), absolute(out), names, seeds, chosen, overrides(changes or []), label)
    if dry_run:
        console.print_json(json.dumps({**asdict(config), "runs_of": {n: config.config(n, 0, 0).to_dict() for n in names}}))
        return
    check_buckets(store, out)
    run_matrix(config)


cli = app(main)

if __name__ == "__main__":
    from jobs.matrix import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
