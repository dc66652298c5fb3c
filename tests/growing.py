"""A cluster that grows and shrinks, on this machine: Ray's autoscaler over Ray's own nodes that are processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import Job, free_port
from ray.autoscaler.v2.sdk import get_cluster_status

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD_ID = "f" * 51 + "00000"
"""What that provider takes the head for."""
SMALL_MEMORY = 200_000_000


class GrowingCluster:
    """A head without cores, and from none to `most` machines of one core, each gone after `idle` seconds without work."""

    def __init__(self, folder: Path, most: int, idle: float) -> None:
        # Sockets lie in Ray's own folder, and their paths may not be long.
        self.temporary = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")
        port = free_port()
        host = socket.gethostbyname(socket.gethostname())
        self.address = f"{host}:{port}"
        config: dict[str, Any] = {
            "cluster_name": "growing",
            "max_workers": most,
            "upscaling_speed": 100.0,
            "idle_timeout_minutes": idle / 60,
            "provider": {
                "type": "external",
                "module": PROVIDER,
                "launch_multiple": True,
                "head_node_id": HEAD_ID,
                "gcs_address": self.address,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                "worker": {
                    "resources": {"CPU": 1, "object_store_memory": SMALL_MEMORY},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": most,
                },
            },
            **{k: {} for k in ("auth", "docker", "file_mounts")},
            **{f"{k}_commands": [] for k in ("initialization", "setup", "head_setup", "worker_setup")},
            **{f"{k}_start_ray_commands": [] for k in ("head", "worker")},
            **{k: [] for k in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
            "file_mounts_sync_continuously": False,
        }
        path = folder / "autoscaling.yaml"
        path.write_text(json.dumps(config))
        self.access = {k: os.environ[k] for k in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        environment = self.access | {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        start = f"ray.scripts.scripts start --head --block --port {port} --num-cpus 0 --include-dashboard false"
        start += " --include-log-monitor false"
        start += f" --object-store-memory {SMALL_MEMORY} --temp-dir {self.temporary.name} --autoscaling-config {path}"
        self.head = Job(start.split(), folder / "head", environment)

    @property
    def machines(self) -> int:
        """How many there are beside the head."""
        now = get_cluster_status(self.address)
        return len([*now.active_nodes, *now.idle_nodes]) - 1

    def job(self, arguments: Sequence[object], log: Path) -> Job:
        return Job([str(a) for a in arguments], log, {"RAY_ADDRESS": self.address, **self.access})

    def close(self) -> None:
        for pid in self.head.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.head.process.wait()
        self.temporary.cleanup()
