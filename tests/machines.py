"""A cluster of a head and two machines, as processes of this one, to lose them in the middle of a job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Job

from rrnn.config import Config, config_from_dict, merge
from rrnn.experiments import experiment

MACHINE = {"object_store_memory": 200_000_000, "include_log_monitor": False}
"""Of each machine. Nobody reads what its log monitor would send, and three of these cost a tenth of the processor."""


class Machines:
    """A head without cores, and two machines of one core each, as processes of this one."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, **MACHINE}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers: list[object] = []
        self.add()
        self.add()

    def add(self) -> None:
        self.workers.append(self.cluster.add_node(num_cpus=1, **MACHINE))

    def lose(self) -> None:
        """The one that has been there longest dies without a word, with all of its processes."""
        self.cluster.remove_node(self.workers.pop(0), allow_graceful=False)

    def lose_one(self) -> None:
        """Likewise, and a new one comes."""
        self.lose()
        self.add()

    def job(self, *arguments: object, log: Path) -> Job:
        where = {"RAY_ADDRESS": self.cluster.address, **{k: os.environ[k] for k in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}}
        return Job([str(a) for a in arguments], log, where)


def started() -> Iterator[Machines]:
    """To be made a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_period_ms", "500")  # a lost machine is noticed within seconds, a busy one not lost
        patch.setenv("RAY_health_check_failure_threshold", "8")
        found = Machines()
        yield found
        found.cluster.shutdown()


def small(epochs: int, dropout: float) -> tuple[Config, list[str]]:
    """A configuration, and the words of a command line that say it."""
    changes = {
        "model": {"hidden": 4, "hops": 2, "dropout": dropout},
        "train": {"batch_size": 7, "folds": 4, "epochs": epochs, "patience": epochs},
    }
    words = [f"{part}.{key}={value}" for part, of in changes.items() for key, value in of.items()]
    return config_from_dict(merge(experiment("rrnn").to_dict(), changes)), words


def lines(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found
