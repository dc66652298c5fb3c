"""Where the pipeline meets Ray: start it, and run units of work in actor pools. Everything else works without it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
import ray._private.node
import ray.data
from ray.util.annotations import RayDeprecationWarning
from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.clip import Clip
from pipeline.extract import Run, ShardReport, Work, extract_shard
from pipeline.forkserver import forked_workers
from pipeline.isolated import IsolatedExtractors
from pipeline.store import ClipRow, Store
from pipeline.streams.base import Extractor

MAX_BLOCKS = 2_000
"""Ray Data's bookkeeping grows with its blocks; beyond this many units a block holds several."""

UNITS_EACH = 4
AT_FIRST = 64
"""A cluster without machines is asked for a worker for so many units, and for so many workers at most: a machine takes a
minute or more to come, a unit often less."""

RETRIES = 30
"""How often a unit is tried again when its worker or its machine died; what kills a worker each time ends the job. Many, for
until Ray takes a lost machine for lost, seconds to half a minute, each call of a worker on it fails and counts."""


FIRST = ("pandas", "pipeline.extract", "pipeline.isolated")
THEN = ("pipeline.on_ray",)
"""What every worker imports, without Ray and with it."""


@contextlib.contextmanager
def ray_started(num_cpus: int | None = None, first: Sequence[str] = (), then: Sequence[str] = ()) -> Iterator[None]:
    """Ray for as long as the context lasts: the cluster of RAY_ADDRESS (a submitted job has it), or one of our own on
    this machine, which is gone afterwards. One that the caller has started already is used and left running.

    first, then: modules that the work imports; workers of a Ray of our own have imported them when they start
    (forked_workers)."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # What workers print stays in Ray's log files: progress is told by the driver, and a worker's error reaches it anyway.
    options: dict[str, Any] = {"configure_logging": True, "logging_level": logging.WARNING, "log_to_driver": False}
    with contextlib.ExitStack() as stack:
        if "RAY_ADDRESS" not in os.environ:
            options |= {"address": "local", "include_dashboard": False, "num_cpus": num_cpus}
            stack.enter_context(_heads_do_less())
            if sys.platform == "linux" and not os.path.exists("/proc/driver/nvidia"):
                launcher = stack.enter_context(forked_workers([*FIRST, *first], [*THEN, *then]))
                options["runtime_env"] = {"py_executable": launcher}
                options["_system_config"] = {"prestart_worker_first_driver": False}  # workers of Ray's own kind, for nobody
        in_charge = threading.current_thread() is threading.main_thread()
        if in_charge:
            stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
        _init(options)
        stack.callback(ray.shutdown)
        if in_charge:  # as Ctrl-C, workers and all; Ray's own way is a native stack on the screen, and an abort
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


class _Head(ray._private.node.Node):  # type: ignore[misc]
    """The head of a Ray of our own, without three processes that nobody here asks for anything. They cost some 1.5 s of a core
    each, and ray.init would wait for the dashboard's."""

    def start_monitor(self) -> None:
        """The autoscaler: there is one machine."""

    def start_log_monitor(self) -> None:
        """What relays workers' output to the driver: see log_to_driver."""

    def start_api_server(self, **_: Any) -> None:
        """The dashboard, which without its pages counts usage."""
        self._webui_url = ""


@contextlib.contextmanager
def _heads_do_less() -> Iterator[None]:
    """ray.init makes a _Head: it has no option for any of it."""
    node, rays = ray._private.node, ray._private.node.Node
    node.Node = _Head
    try:
        yield
    finally:
        node.Node = rays


def _init(options: Mapping[str, Any]) -> None:
    """ray.init, and once more where Ray's own processes were not up in the half minute that it grants them: a machine that
    is busy with other work may take longer, and then has read all of Ray from the disk."""
    try:
        ray.init(**options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        print("Ray did not start within half a minute on this busy machine: trying once more", file=sys.stderr)
        import psutil  # which Ray brings, and lets be found

        for process in psutil.Process().children():
            if process.name() in ("gcs_server", "raylet"):  # which would stay as long as this process
                process.kill()
                process.wait()
        ray.init(**options)


def quiet_data_context() -> None:
    """Ray Data without progress bars of its own, and with its notes on plans and defaults in its log file alone."""
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)  # Ray is pinned: of use when the pin moves
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray._private.ray_data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def room(bundle: Mapping[str, float]) -> int:
    """How many workers that ask for the bundle ({"CPU": 1.0, "GPU": 0.25}) the machines that are there could hold."""
    needs = {name: amount for name, amount in bundle.items() if amount}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(machine.get(name, 0) / amount + 1e-9) for name, amount in needs.items()) for machine in machines)


def pool_size(n: int, there: int, limit: int | None) -> tuple[int, int]:
    """Actors of a pool at its start, and at most, for n units of work, where there is room for so many now.

    Ray tells nobody how far a cluster may grow. An actor without a place asks its autoscaler for a machine at once, but if that
    can't come, it is started in vain when the work runs out; so a pool begins with what has a place, or where nothing has,
    with less than the work would take. As long as work is left Ray Data asks for twice the cores that there are, again and
    again, and adds an actor where one has a place.
    """
    most = n if limit is None else min(n, limit)
    return min(most, there or min(AT_FIRST, -(-n // UNITS_EACH))), most


def gpu_share(gpus: str) -> float | None:
    """The share of a GPU that --gpus asks for; None for auto. Raises ValueError for anything else."""
    if gpus == "auto":
        return None
    try:
        share = float(gpus)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"--gpus {gpus}: expected auto, or a share of one GPU a worker, from 0 to 1")
    return share


def placed(extractors: Sequence[Extractor], gpus: str) -> tuple[list[Extractor], str]:
    """The extractors as they are to be run, and a line on it for people. gpus: the share of a GPU that a worker of an
    extractor asks for that can use one, such as "1" or "0.25"; "0", and none is used; "auto", 1 where the cluster has a GPU.

    Raises ValueError where a GPU is asked for that no machine will ever have: features are not extracted elsewhere in
    silence. A cluster that has none yet may still bring one.
    """
    able = [e.name for e in extractors if e.can_use_gpu]
    there = float(ray.cluster_resources().get("GPU", 0))
    share = gpu_share(gpus)
    if share is None:
        share = 1.0 if there else 0.0
    if not able or not share:
        why = "no GPU in the cluster" if gpus == "auto" and able else ""
        return list(extractors), f"{why}: extracting on the CPU" if why else ""
    if there < share and "RAY_ADDRESS" not in os.environ:
        raise ValueError(f"--gpus {gpus}: this machine has {there:g} GPUs that Ray knows; --gpus 0 extracts on the CPU")
    waiting = "" if there >= share else "; the cluster has none yet and must bring one (--gpus 0 extracts on the CPU)"
    line = f"{', '.join(able)} on {share:g} GPU a worker{waiting}"
    return [e.on_gpu(share) if e.can_use_gpu else e for e in extractors], line


def map_units(
    worker: type,
    worker_args: dict[str, Any],
    units: Sequence[dict[str, Any]],
    *,
    workers: int | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Give every unit to one of a pool of actors, and yield what each returns, as it is done, in no order.

    worker: a class; worker(**worker_args) runs once in each actor, and each call maps one unit (a flat dict) to a flat
    dict. Ray gives an actor of one core one thread (OMP_NUM_THREADS). workers: actors at most; None takes as many as the
    cluster has room for, or brings machines for (pool_size). An actor that dies is replaced and its unit done again; an
    exception in a worker is a bug: it stops the job.
    """
    if not units:
        return
    quiet_data_context()
    waiting = Tally(unit.get("stream", "all") for unit in units)
    for stream, n in waiting.items():
        tell("rrnn_units_waiting", n, stream=stream)
    at_first, most = pool_size(len(units), room({"CPU": cpus, "GPU": gpus}), workers)
    source = ray.data.from_items(list(units), override_num_blocks=min(len(units), MAX_BLOCKS))
    results = source.map(
        worker,
        fn_constructor_kwargs=worker_args,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=at_first, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=gpus or None,
        ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
    )
    for result in results.iter_rows():
        stream = result.get("stream", "all")
        waiting[stream] -= 1
        tell("rrnn_units_waiting", waiting[stream], stream=stream)
        yield result


# -- what Prometheus is told (infra/monitoring). Nothing of a clip, a speaker or a path.

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rrnn_clips_total": ("Clips done in a stream.", ("stream", "modality", "status")),
    "rrnn_frames_total": ("Frames extracted.", ("stream", "modality")),
    "rrnn_unusable_total": ("Clips that can't be used, by kind of reason.", ("stream", "reason")),
    "rrnn_clip_seconds": ("Wall clock a clip, the mean of its shard.", ("stream",)),
    "rrnn_units_waiting": ("Units of work (a stream of a shard) not done yet.", ("stream",)),
    "rrnn_epoch": ("Epochs that a training has ended.", ()),
    "rrnn_epoch_loss": ("Of the last epoch; part: train or valid.", ("part",)),
    "rrnn_samples_per_second": ("Clips a second in the last epoch's training.", ()),
    "rrnn_trials": ("Of a sweep, by state.", ("state",)),
}
"""What each says, and its labels."""

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
REASONS = ("timeout", "can't decode", "the decoder crashed", "can't read", "no such file", "the file is", "too short")
"""How the reasons of unusable clips begin that are told apart; others are "other", so that a label has few values."""


@functools.cache
def _metric(kind: type[Counter] | type[Gauge] | type[Histogram], name: str, **more: Any) -> Any:
    about, labels = METRICS[name]
    return kind(name, about, tag_keys=labels, **more)


def tell(name: str, value: float, **labels: str) -> None:
    """Set a gauge. Ray exports it as ray_<name>, and leaves out what is NaN or infinite."""
    _metric(Gauge, name).set(value, labels)


def _count(name: str, n: int, **labels: str) -> None:
    _metric(Counter, name).inc(n, labels)


def isolated_run(extractors: Sequence[Extractor], clip_seconds: float) -> Run:
    """Rows of a worker of Ray, whose extractors run in a process of their own, and each row is counted."""
    # A new process imports what its parent's __main__ is: here Ray's worker, with all of Ray.
    vars(sys.modules["__main__"]).pop("__file__", None)
    run = IsolatedExtractors(extractors, clip_seconds).rows

    def counting(extractor: Extractor, clips: Sequence[Clip], clip_seconds: float) -> list[ClipRow]:
        began = time.perf_counter()
        rows = run(extractor, clips, clip_seconds)
        each = (time.perf_counter() - began) / max(1, len(rows))
        stream, modality = extractor.name, extractor.modality
        for row in rows:
            _count("rrnn_clips_total", 1, stream=stream, modality=modality, status=row.status)
            _metric(Histogram, "rrnn_clip_seconds", boundaries=SECONDS).observe(each, {"stream": stream})
            if row.status == "error":
                kind = next((r for r in REASONS if (row.reason or "").startswith(r)), "other")
                _count("rrnn_unusable_total", 1, stream=stream, reason=kind)
            elif row.features is not None:
                _count("rrnn_frames_total", len(row.features.times), stream=stream, modality=modality)
        return rows

    return counting


class _ExtractWorker:
    """One actor, with the extractors in a child of its own."""

    def __init__(self, store: str, extractors: Sequence[Extractor], clip_seconds: float) -> None:
        self.store = Store(store)
        self.extractors = {e.name: e for e in extractors}
        self.clip_seconds = clip_seconds
        self.run = isolated_run(extractors, clip_seconds)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        extractor = self.extractors[unit["stream"]]
        report = extract_shard(self.store, extractor, unit["shard"], self.clip_seconds, self.run)
        return dataclasses.asdict(report)


def extract_on_ray(
    store: Store,
    extractors: Sequence[Extractor],
    todo: Sequence[Work],
    *,
    workers: int | None = None,
    clip_seconds: float,
) -> Iterator[ShardReport]:
    """Extract the missing units; yields a report a unit as it is written.

    Streams that ask for the same resources share one pool of actors, so that a pool's start and its tail are paid once
    and not once a stream; a stream that asks for a GPU gets a pool of its own.
    """
    by_name = {e.name: e for e in extractors}
    by_resources = sorted(todo, key=lambda w: (by_name[w.stream].cpus, by_name[w.stream].gpus))
    for (cpus, gpus), group in itertools.groupby(by_resources, lambda w: (by_name[w.stream].cpus, by_name[w.stream].gpus)):
        units = [dataclasses.asdict(w) for w in group]
        names = list(dict.fromkeys(u["stream"] for u in units))
        args = {
            "store": store.folder.url,
            "extractors": [by_name[n] for n in names],
            "clip_seconds": clip_seconds,
        }
        for result in map_units(_ExtractWorker, args, units, workers=workers, cpus=cpus, gpus=gpus):
            yield ShardReport(**result)
