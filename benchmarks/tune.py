"""What Ray Tune costs: python -m benchmarks.tune

The same trials of the space `made`, each trained to its last epoch, once by jobs.tune and once by rrnn.train alone, as many
at a time, in processes that are up, with torch imported and the clips read, before the clock starts: a floor for any sweep.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.measure import Row, Target, median, ratios, table
from jobs._cli import app, console, user_errors
from jobs.made_task import MadeTask, make_store
from jobs.tune import TuneJob, run_sweep
from pipeline.on_ray import ray_started
from rrnn.data import ClipSet, StoreIndex, open_store, read_shard
from rrnn.spaces import Choices, open_space
from rrnn.sweep import Settings, Sweep, drawn_at_random
from rrnn.train import Workers, keep_freed_memory, train

_shared: dict[str, Any] = {}
"""Of a process of the bare side: what it read before the clock started."""


def _start(store: StoreIndex, ready: Any) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    _shared["store"] = store
    _shared["clips"] = ClipSet([read_shard(store, shard) for shard in store.shards], list(store.streams))
    ready.wait()


def _train(trial: tuple[Settings, Choices, str]) -> None:
    settings, choices, out = trial
    train(
        Sweep(out).config(settings, choices),
        _shared["store"],
        _shared["clips"],
        out,
        workers=Workers(),
        report=lambda *_: None,
        scratch=Path(out),
        checkpoint_seconds=1e9,
        test=False,
    )


def bare(settings: Settings, trials: list[Choices], processes: int, out: Path) -> float:
    """Seconds from when the processes are ready until the last trial has ended."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(processes + 1)
    with spawn.Pool(processes, _start, (open_store(settings.store), ready)) as pool:
        ready.wait()
        began = time.perf_counter()
        pool.map(_train, [(settings, c, str(out / str(i))) for i, c in enumerate(trials)], chunksize=1)
        return time.perf_counter() - began


def on_tune(settings: Settings, n: int, processes: int, out: Path) -> tuple[float, float]:
    """Seconds with and without the start of Ray."""
    os.environ.pop("RAY_ADDRESS", None)
    began = time.perf_counter()
    with ray_started(num_cpus=processes, first=["rrnn.train"], then=["jobs.tune"]):
        started = time.perf_counter()
        run_sweep(settings, TuneJob(str(out), n, test=False))
        ended = time.perf_counter()
    return ended - began, ended - started


def _epochs(folder: Path) -> tuple[int, float]:
    """How many epochs the runs in a folder trained, and the seconds of these: both sides must have trained as many, and where
    an epoch took longer on one side than on the other, the machine was not the same to both."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/summary.json")]
    return sum(s["epochs"] for s in found), sum(s["seconds"] for s in found)


@user_errors
def main(
    trials: Annotated[int, typer.Option(min=2)] = 16,
    clips: Annotated[int, typer.Option(help="Of the made task.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Of each trial.")] = 8,
    processes: Annotated[int, typer.Option(min=1, help="Trials at a time, on one core each.")] = 2,
    turns: Annotated[int, typer.Option(min=1, help="How often the two sides take turns.")] = 1,
) -> None:
    """Print the time of a sweep beside that of its trials alone.

    Example: python -m benchmarks.tune --trials 32 --turns 3
    """
    load = os.getloadavg()[0]
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray has it in a worker of one core: both sides alike
    floor, whole, warm, inside = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-tune-") as folder:
        at = Path(folder)
        make_store(MadeTask("sparse", clips), str(at / "store"))
        space = open_space("made")
        settings = Settings(str(at / "store"), space.to_dict(), epochs, asha=False)
        drawn: list[Choices] = []
        while len(drawn) < trials and (choices := drawn_at_random(space, settings.seed, len(drawn), drawn)):
            drawn.append(choices)
        for turn in range(turns):
            floor.append(bare(settings, drawn, processes, at / f"bare-{turn}"))
            with_start, without = on_tune(settings, len(drawn), processes, at / f"tune-{turn}")
            whole.append(with_start)
            warm.append(without)
            inside.append((_epochs(at / f"bare-{turn}"), _epochs(at / f"tune-{turn}/trials")))
    rows = [
        Row(f"{len(drawn)} trials, {what}", f"{median(ours):.1f} s", f"{median(floor):.1f} s", ratios(ours, floor), target)
        for what, ours, target in (("Ray's start included", whole, None), ("Ray already up", warm, Target(1.3, at_least=False)))
    ]
    Console(width=max(console.width, 140), highlight=False).print(table(rows))
    for turn, sides in enumerate(inside, 1):
        shown = (
            f"{who} {epochs} in {seconds:.1f} s" for who, (epochs, seconds) in zip(("alone", "on Tune"), sides, strict=True)
        )
        console.print(f"turn {turn}, epochs and the seconds that they took, all trials together: {', '.join(shown)}")
    console.print(
        f"{processes * median(floor) / len(drawn):.1f} s a trial alone; load before the start {load:.1f}, expected below 1"
    )


cli = app(main)

if __name__ == "__main__":
    from benchmarks.tune import cli as importable  # what is sent to processes must come from a module, not from __main__

    importable()
