"""Many configurations, compared on the validation clips: python -m jobs.tune STORE --space NAME --out FOLDER [key=value ...]"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, get_args

import ray
import ray.train
import torch
import typer
from ray import tune
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig
from ray.tune.execution import class_cache
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.logger import TBXLoggerCallback
from ray.tune.search import Searcher
from rich.table import Table

from jobs._cli import absolute, app, console, overrides, storage_error_in, user_errors
from jobs._clips import load_clips, tell_split
from jobs._machines import DISTRIBUTED, check_room, machines_missed, wait_for_machines
from pipeline.files import StorageError, check_buckets, ray_storage
from pipeline.on_ray import ray_started, room, tell
from rrnn.data import ClipSet, StoreIndex, open_store
from rrnn.results import CLASSIFICATION, REGRESSION
from rrnn.run import RunFolder
from rrnn.spaces import SPACES, Space, open_space
from rrnn.sweep import Opening, Settings, State, Sweep, Trial, about_the_test, name_of, winner
from rrnn.train import CHECKPOINT_SECONDS, Diverged, Workers, divide, keep_freed_memory, train

RETRIES = 2
"""How often a trial goes on after its worker or its machine died."""
FROM_NOTHING = 8
"""Trials at a time, at most, that a cluster without machines is asked for."""
DRIVER_CPUS = 0.01
"""Of the process of a trial that only waits for training processes of its own."""
STILL_RUNNING_EVERY = 60.0  # seconds between lines on what runs, where no trial ends
SHOWN = 12
CHECKPOINT = "checkpoint.zip"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class TuneJob:
    """All that a sweep depends on, but its settings."""

    out: str
    trials: int
    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 1
    """Training processes of each trial; they share its CPUs and GPUs."""
    test: bool = True
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    at_a_time: int | None = None

    @property
    def bundle(self) -> dict[str, float]:
        """What each training process of a trial takes."""
        return {"CPU": self.cpus / self.workers, "GPU": self.gpus / self.workers}


@lru_cache(maxsize=1)
def _clips(blocks: tuple[Any, ...], streams: tuple[str, ...], alternatives: tuple[tuple[str, ...], ...]) -> ClipSet:
    """Once a process, which trains one trial after the other. alternatives: of each stream, its name and theirs."""
    return ClipSet(ray.get(list(blocks)), streams, {s: names for s, *names in alternatives})


def run_trial(about: dict[str, Any], *, job: TuneJob, settings: Settings, store: StoreIndex, blocks: Sequence[Any]) -> None:
    """What Ray Tune runs for each trial."""
    sweep, number = Sweep(job.out), int(about["number"])
    run = sweep.run_folder(number)
    config = sweep.config(settings, about["choices"])
    stop = partial(sweep.stops, settings, job.trials, number)
    if job.workers > 1:
        _train_on_workers(run, job, {"config": config, "store": store, "out": run.url, "blocks": blocks, "stop": stop})
        return

    def after_epoch(history: list[dict[str, Any]]) -> bool:
        tune.report(history[-1])
        return stop(history)

    torch.set_num_threads(max(1, int(job.cpus)))
    keep_freed_memory()
    device = torch.device("cuda" if job.gpus else "cpu")
    with tempfile.TemporaryDirectory(prefix="rrnn-") as scratch:
        try:
            train(
                config,
                store,
                _clips(tuple(blocks), tuple(store.streams), tuple((s, *names) for s, names in store.alternatives.items())),
                run.url,
                workers=Workers(device=device),
                report=partial(_keep, run),
                scratch=Path(scratch),
                checkpoint=_kept(run, Path(scratch) / "resumed"),
                checkpoint_seconds=job.checkpoint_seconds,
                test=False,
                stop=after_epoch,
            )
        except (Diverged, torch.OutOfMemoryError) as e:
            sweep.fail(number, str(e))
    if run.exists(CHECKPOINT):
        run.fs.rm(f"{run.path}/{CHECKPOINT}")


def _keep(run: RunFolder, _: dict[str, Any], folder: Path | None) -> None:
    """A checkpoint, as one file: it is there whole or not at all, in a bucket too."""
    assert folder is not None
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    run.write(CHECKPOINT, packed.getvalue())
    shutil.rmtree(folder)


def _kept(run: RunFolder, to: Path) -> Path | None:
    if not run.exists(CHECKPOINT):
        return None
    with zipfile.ZipFile(io.BytesIO(run.read(CHECKPOINT))) as archive:
        archive.extractall(to)
    return to


def _train_on_workers(run: RunFolder, job: TuneJob, loop: dict[str, Any]) -> None:
    """A trial of several processes, by Ray Train, which resumes by itself from what it finds in the folder."""
    from jobs.train import Trainer, train_worker  # here: each process of a sweep imports this module, and few need that

    gpu = {"GPU": job.gpus / job.workers} if job.gpus else {}
    Trainer(
        train_worker,
        train_loop_config={**loop, "command": None, "checkpoint_seconds": job.checkpoint_seconds, "test": False},
        torch_config=TorchConfig(backend="nccl" if job.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.workers,
            use_gpu=bool(job.gpus),
            resources_per_worker={"CPU": (job.cpus - DRIVER_CPUS) / job.workers, **gpu},
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            **ray_storage(run.url),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=RETRIES),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


class _Draws(Searcher):  # type: ignore[misc]
    """Hands Ray Tune the trials that are not over, in order; what they are is decided by rrnn.sweep."""

    def __init__(self, sweep: Sweep, settings: Settings, numbers: Sequence[int]) -> None:
        super().__init__()
        self.sweep, self.settings, self.numbers = sweep, settings, list(numbers)
        self.exhausted: int | None = None

    def suggest(self, trial_id: str) -> Any:
        if not self.numbers:
            return Searcher.FINISHED
        choices = self.sweep.draw(self.settings, self.numbers[0])
        if choices == "later":
            return None
        if choices is None:
            self.exhausted = self.numbers[0]
            self.numbers.clear()
            return Searcher.FINISHED
        return {"number": self.numbers.pop(0), "choices": choices}

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Figures are read from the trials' folders."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is restored from Ray Tune's own files."""

    def restore(self, checkpoint_path: str) -> None:
        """Likewise."""


def _in_a_line(record: logging.LogRecord) -> bool:
    """A filter of a log, in which a lost bucket then takes a line a trial and not a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and (told := storage_error_in(error)) is not None:
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {told}", (), None
    return True


class _Progress(tune.Callback):  # type: ignore[misc]
    """A line for each trial that ends, with the best so far; now and then one on what runs."""

    def __init__(self, sweep: Sweep, settings: Settings, n: int) -> None:
        self.sweep, self.settings, self.n = sweep, settings, n
        self.said = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._say(int(trial.config["number"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._say(int(trial.config["number"]))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if time.monotonic() - self.said > STILL_RUNNING_EVERY:
            self.said = time.monotonic()
            at = [
                f"{name_of(t.config['number'])} at epoch {(t.last_result or {}).get('epoch', 0)}"
                for t in trials
                if t.status == "RUNNING"
            ]
            console.print(f"  running: {', '.join(at)}")

    def _say(self, number: int) -> None:
        self.said = time.monotonic()
        trials = self.sweep.record(self.n)
        best = winner(self.settings, trials)
        so_far = f"best {best.name} {_figure(self.settings, best)}" if best else "none has a figure yet"
        over = sum(t.over for t in trials)
        for state in get_args(State):
            tell("rrnn_trials", sum(t.state == state for t in trials), state=state)
        console.print(f"  {over}/{self.n}  {trial_line(self.settings, trials[number])}  [{so_far}]")


def _figure(settings: Settings, trial: Trial) -> str:
    figure = settings.figure(trial.history)
    return "none" if figure is None else f"{figure:.4f}"


def trial_line(settings: Settings, trial: Trial) -> str:
    if trial.state in ("failed", "unfinished"):
        return f"trial {trial.name}  {trial.state}: {trial.reason or 'its process died'}  {trial.shown}"
    assert trial.summary is not None
    stopped = ", stopped" if trial.state == "stopped" else ""
    return (
        f"trial {trial.name}  valid {settings.metric} {_figure(settings, trial)}  epoch {trial.summary['best_epoch']} of "
        f"{trial.summary['epochs']}{stopped}, {trial.summary['seconds']:.0f} s  {trial.shown}"
    )


def trial_table(settings: Settings, trials: Sequence[Trial]) -> Table:
    """The best trials, on the validation clips."""
    ended = [(settings.figure(t.history), t) for t in trials if t.summary is not None]
    ranked = sorted(((f, t) for f, t in ended if f is not None), key=lambda x: x[0] if settings.lower_is_better else -x[0])
    keys = [key for key in settings.opened_space.varying() if any(key in (t.choices or {}) for _, t in ranked)]
    table = Table("trial", f"valid {settings.metric}", "epochs", *(k.partition(".")[2] for k in keys), box=None, pad_edge=False)
    for figure, t in ranked[:SHOWN]:
        assert t.choices is not None
        values = [f"{v:.3g}" if isinstance(v := t.choices.get(k, ""), float) else str(v) for k in keys]
        table.add_row(t.name, f"{figure:.4f}", f"{len(t.history)}{' stopped' if t.state == 'stopped' else ''}", *values)
    return table


def run_sweep(settings: Settings, job: TuneJob) -> list[Trial]:
    """Train the trials that are not over, and test the winner. Returns the trials."""
    job = replace(job, out=absolute(job.out))
    sweep, n = Sweep(job.out), job.trials
    base = sweep.config(settings, {})
    store = open_store(settings.store, base.streams, base.modalities, base.train.alternatives)
    began = time.perf_counter()
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # what it would save is not what a sweep goes on from
    with ray_started(first=DISTRIBUTED if job.workers > 1 else ["rrnn.train"], then=["jobs.tune"]):
        at_a_time = _at_a_time(job)
        settings = _settled(settings, sweep, at_a_time)
        blocks = load_clips(store)
        clips = ClipSet(ray.get(blocks), list(store.streams), store.alternatives)
        objective, split = divide(clips, base)  # what is wrong with the data is an error here
        measures = REGRESSION if objective.targets.task == "regression" else CLASSIFICATION
        if settings.metric not in (known := ["loss", *(m.key for m in measures)]):
            raise ValueError(f"--metric {settings.metric}: not for {objective.targets.task}, expected {', '.join(known)}")
        tell_split(clips, split)
        sweep.begin(settings, n, clips.digest())
        todo = [t.number for t in sweep.trials(n) if not t.over]
        console.print(f"{n} trials of space {settings.space['name']}: {n - len(todo)} are over, {len(todo)} to train")
        for _ in range(1 + RETRIES):
            if not todo:
                break
            wait_for_machines(job.workers, job.bundle)
            with machines_missed(job.workers, job.bundle):
                lost = _train_trials(sweep, settings, job, store, blocks, todo, at_a_time)
            todo = [t.number for t in sweep.trials(n) if not t.over] if lost else []
        trials = sweep.record(n)
        console.print(f"  trained in {time.perf_counter() - began:.0f} s")
        if left := [t for t in trials if t.choices is not None and not t.over]:
            raise RuntimeError(
                f"{len(left)} trials did not end (the first is {sweep.run_folder(left[0].number).url}); nothing was tested. "
                "The same command tries them again"
            )
        if job.test:
            tell_opening(sweep.test(n, store, clips), sweep.openings())
    return sweep.trials(n)


def _at_a_time(job: TuneJob) -> int:
    """How many trials are trained at a time, unless the job says: as many as the cluster has room for. One that has none yet is
    asked for a few. Raises ValueError where Ray is this machine alone, and has no room for one."""
    if job.at_a_time is not None:
        return job.at_a_time
    if there := room(job.bundle) // job.workers:
        return there
    check_room(job.workers, job.bundle)
    return min(job.trials, FROM_NOTHING)


def _settled(settings: Settings, sweep: Sweep, at_a_time: int) -> Settings:
    """With the lag of the sweep that is there: it decides what Optuna draws, so it may not change with the machine."""
    return replace(settings, lag=sweep.settings().lag if sweep.exists() else 2 * at_a_time)


def _train_trials(
    sweep: Sweep,
    settings: Settings,
    job: TuneJob,
    store: StoreIndex,
    blocks: list[Any],
    todo: list[int],
    at_a_time: int,
) -> bool:
    """Train them, in order. Returns whether one was given up for its process died: Ray Tune starts a trial again RETRIES times,
    but where two calls of it are under way when its machine is lost, it takes the second call's failure for the last."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # its tables; progress is told by ours
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"  # of state that nobody reads
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune.execution.tune_controller").addFilter(_in_a_line)
    # Tune would send the driver's keys to its workers as a runtime environment, which Ray logs and shows in clear. Workers have
    # their machine's, as in all other jobs.
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(KEYS)
    draws = _Draws(sweep, settings, todo)
    trainable = tune.with_parameters(run_trial, job=job, settings=settings, store=store, blocks=blocks)
    alone = job.workers == 1
    resources = {"cpu": job.cpus, "gpu": job.gpus} if alone else {"cpu": DRIVER_CPUS}
    ended = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=draws,
            num_samples=len(todo),
            max_concurrent_trials=at_a_time,
            reuse_actors=alone,
            trial_dirname_creator=lambda trial: name_of(trial.config["number"]),
        ),
        run_config=tune.RunConfig(
            name="tensorboard",
            **ray_storage(sweep.url),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[_Progress(sweep, settings, job.trials), TBXLoggerCallback()],
        ),
    ).fit()
    for told in filter(None, map(storage_error_in, ended.errors)):
        raise StorageError(told)
    if draws.exhausted is not None:
        console.print(f"  the space has no other configuration than those of {draws.exhausted} trials", style="yellow")
    return any(isinstance(error, RayActorError) for error in ended.errors)


def tell_opening(opened: Opening | None, openings: Sequence[Opening]) -> None:
    if opened is None:
        console.print("the test set stays as it is: the winner is the one that was tested")
        return
    if len(openings) > 1:
        console.print(
            f"WARNING: the winner changed, and the test set was opened again: {len(openings)} times by now", style="yellow"
        )
    shown = ", ".join(f"{k} {v:.4f}" for k, v in (opened.test or {}).items() if isinstance(v, float))
    console.print(f"  tested trial {name_of(opened.trial)}, chosen on the validation clips: {shown}")


def write_page(url: str) -> Path:
    from rrnn import sweep_page  # here: it brings matplotlib, which no trial needs

    return sweep_page.write_page(url)


def _describe(space: Space) -> None:
    console.print(f"{space.name:10s} {space.about}")
    for key, dimension in space.dimensions.items():
        console.print(f"    {key:22s} {dimension}")


@user_errors
def main(
    store: Annotated[str, typer.Argument(help="The features, as jobs.extract writes them; a folder or a URL.")] = "",
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Changes to the base; a dimension is fixed so.")
    ] = None,
    space: Annotated[str, typer.Option(help="A named space (see --list), or one's own in a .yaml or .json file.")] = "",
    out: Annotated[str, typer.Option(help="The sweep: a folder or a URL. One that was interrupted goes on.")] = "",
    trials: Annotated[int, typer.Option(min=1, help="How many; more may be asked for later.")] = 16,
    search: Annotated[str, typer.Option(help="random, or optuna (TPE).")] = "random",
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn; train.seed is that of each training.")] = 0,
    metric: Annotated[str, typer.Option(help="What trials are compared by, on the validation clips: loss, uar ...")] = "loss",
    epochs: Annotated[int | None, typer.Option(min=1, help="The most that a trial may train; the base's by default.")] = None,
    asha: Annotated[bool, typer.Option(help="Stop trials early that do worse than others did.")] = True,
    grace: Annotated[int, typer.Option(min=1, help="Epochs before a trial may be stopped so.")] = 4,
    reduction: Annotated[int, typer.Option(min=2, help="One in so many goes on.")] = 3,
    cpus_per_trial: Annotated[float, typer.Option(min=0.1)] = 1.0,
    gpus_per_trial: Annotated[float, typer.Option(min=0.0, help="A share of a GPU, or several.")] = 0.0,
    workers_per_trial: Annotated[
        int, typer.Option(min=1, help="Training processes (DDP) of each trial; more than one costs half a minute a trial.")
    ] = 1,
    at_a_time: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials at a time; as many as there is room for by default, or 8 where there are no machines yet."
        ),
    ] = None,
    test: Annotated[bool, typer.Option(help="Test the winner. --no-test leaves the test set closed.")] = True,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="How often a trial saves what a resume needs; at the end of an epoch.")
    ] = CHECKPOINT_SECONDS,
    page: Annotated[str, typer.Option(help="Only write the page of this sweep again.")] = "",
    list_spaces: Annotated[bool, typer.Option("--list", help="Show the named spaces.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Train many configurations, choose one on the validation clips, and test that one, once.

    The test set stays closed while trials are trained and compared. sweep.json says which trial won, and when and for which
    the test set was opened. After a crash, the same command goes on; no trial that ended is trained again.

    Example: python -m jobs.tune features/ravdess --space training --out sweeps/a --trials 32 train.normalise=speaker
    """
    if list_spaces:
        for function in SPACES.values():
            _describe(function())
        return
    if page:
        check_buckets(page)
        console.print(f"page: {page}/sweep.html" if dry_run else f"page: {write_page(page)}")
        return
    if not store or not space or not out:
        raise ValueError("expected STORE, --space NAME and --out FOLDER; see --help")
    chosen = open_space(space).fixed(overrides(changes or []))
    settings = Settings(
        store=absolute(store),
        space=json.loads(json.dumps(chosen.to_dict())),
        epochs=epochs or chosen.base.train.epochs,
        search=search,  # type: ignore[arg-type]  # Settings checks it
        seed=seed,
        metric=metric,
        asha=asha,
        grace=grace,
        reduction=reduction,
    )
    job = TuneJob(out, trials, cpus_per_trial, gpus_per_trial, workers_per_trial, test, checkpoint_seconds, at_a_time)
    if dry_run:
        console.print_json(json.dumps({**asdict(settings), **asdict(job)}))
        return
    check_buckets(store, out)
    found = run_sweep(settings, job)
    console.print(trial_table(settings, found))
    console.print(about_the_test(settings, Sweep(absolute(out)).openings(), found))
    if "://" not in out:
        console.print(f"page: {write_page(absolute(out))}")


cli = app(main)

if __name__ == "__main__":
    from jobs.tune import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
