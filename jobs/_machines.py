"""Waiting for a cluster's machines, aloud: a job on a cluster that begins empty, or that lost a machine, says what it lacks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from jobs._cli import console
from pipeline.on_ray import room

DISTRIBUTED = ["rrnn.train", "torch.distributed", "torch._dynamo"]
"""What training processes import besides Ray: DistributedDataParallel wants torch's compiler."""
SAY_AFTER = 10.0
SAY_EVERY = 60.0
"""Seconds until the first line, and between lines."""


def check_room(workers: int, bundle: Mapping[str, float]) -> None:
    """Raises ValueError where Ray is this machine alone, which brings no others, and it can't hold so many workers, each of
    which asks for the bundle ({"CPU": 1.0, "GPU": 1.0})."""
    if "RAY_ADDRESS" not in os.environ and room(bundle) < workers:
        all_ = ray.cluster_resources()
        there = " and ".join(_count(all_.get(name, 0), name) for name, amount in bundle.items() if amount)
        raise ValueError(f"{_wanted(workers, bundle)} asked for: this machine has {there} that Ray knows of")


def wait_for_machines(workers: int, bundle: Mapping[str, float]) -> None:
    """Until so many workers have room in the cluster at once; an autoscaler is asked for their machines. Raises as
    check_room()."""
    check_room(workers, bundle)
    group = placement_group([{k: v for k, v in bundle.items() if v} for _ in range(workers)])
    try:
        seconds = SAY_AFTER
        while not group.wait(seconds):
            _say(workers, bundle)
            seconds = SAY_EVERY
    finally:
        remove_placement_group(group)


@contextlib.contextmanager
def machines_missed(workers: int, bundle: Mapping[str, float]) -> Iterator[None]:
    """Says now and then, as long as the context lasts, when the machines that are there have no room for so many workers."""
    over = threading.Event()

    def watch() -> None:
        said = -SAY_EVERY
        while not over.wait(SAY_AFTER):
            if time.monotonic() - said >= SAY_EVERY and room(bundle) < workers:
                said = time.monotonic()
                _say(workers, bundle)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wanted(workers: int, bundle: Mapping[str, float]) -> str:
    each = " and ".join(_count(amount, name) for name, amount in bundle.items() if amount)
    return f"{_count(workers, 'worker')} of {each}"


def _count(n: float, name: str) -> str:
    return f"{n:g} {name}" if 0 < n <= 1 else f"{n:g} {name}s"


def _say(workers: int, bundle: Mapping[str, float]) -> None:
    all_, free = ray.cluster_resources(), ray.available_resources()
    there = " and ".join(f"{_count(all_.get(k, 0), k)} ({free.get(k, 0):g} free)" for k, amount in bundle.items() if amount)
    short = "" if room(bundle) >= workers else "; it must bring more machines, or this can't go on"
    console.print(f"  waiting for {_wanted(workers, bundle)}: the cluster has {there}{short}")
