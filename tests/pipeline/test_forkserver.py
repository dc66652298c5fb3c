"""Workers that are forked from a process that has imported what they need are the workers that Ray would have started."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.forkserver import forked_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
without_nvidia = pytest.mark.skipif(
    os.path.exists("/proc/driver/nvidia"), reason="with an NVIDIA driver a Ray of our own starts its workers itself"
)
SLOW_TO_IMPORT = "colorsys"  # stands for torch: nothing else imports it
ABOUT = f"""\
import json, os, sys
about = {{
    "arguments": sys.argv[1:],
    "name": __name__,
    "variable": os.environ.get("VARIABLE"),
    "folder": os.getcwd(),
    "imported": {SLOW_TO_IMPORT!r} in sys.modules,
    "leads its group": os.getpgrp() == os.getpid(),
    "oom": open("/proc/self/oom_score_adj").read().strip(),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "pid": os.getpid(),
    "parent": os.getppid(),
}}
print(json.dumps(about))
print("aside", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("a folder whose name is longer than that of a socket may be, " + 60 * "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        with forked_workers([SLOW_TO_IMPORT], []) as command:
            yield shlex.split(command)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(ABOUT)
    return path


def worker(launcher: list[str], script: Path, *flags: str, **environment: str) -> dict[str, Any]:
    """What the script says of the process that it runs in, which outlives the launcher."""
    out, err = script.with_suffix(".out"), script.with_suffix(".err")
    with out.open("wb") as said, err.open("wb") as aside:
        subprocess.run(
            ["sh", "-c", 'echo 500 > /proc/self/oom_score_adj; exec "$@"', "sh", *launcher, *flags, str(script), "--a b", "c"],
            cwd=script.parent,
            env={**os.environ, "RAY_JOB_ID": "1", "VARIABLE": "of the worker", **environment},
            stdout=said,
            stderr=aside,
            stdin=subprocess.DEVNULL,
        )
    end = time.monotonic() + 20
    while not err.read_text().endswith("aside\n"):
        assert time.monotonic() < end, err.read_text()
        time.sleep(0.01)
    return dict(json.loads(out.read_text()))


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_worker_is_ready_and_otherwise_as_if_it_had_been_started(launcher: list[str], script: Path) -> None:
    about = worker(launcher, script)
    pid, parent = about.pop("pid"), about.pop("parent")
    assert about == {
        "arguments": ["--a b", "c"],
        "name": "__main__",
        "variable": "of the worker",
        "folder": str(script.parent),
        "imported": True,
        "leads its group": True,
        "oom": "500",
        "descriptors": [0, 1, 2],
    }
    assert gone(pid)  # and leaves no zombie
    assert worker(launcher, script, VARIABLE="of another")["variable"] == "of another"
    assert worker(launcher, script, "-s", "-S")["parent"] == parent != os.getpid()


def test_what_cannot_be_forked_starts_as_it_would_have(launcher: list[str], script: Path) -> None:
    forked = worker(launcher, script)
    started = worker(launcher, script, RAY_JOB_ID="2")
    assert (forked["imported"], started["imported"]) == (True, False)
    assert started["arguments"] == forked["arguments"]

    with forked_workers([], ["no_such_module"]) as command:  # its server says so and ends
        assert not worker(shlex.split(command), script)["imported"]
    assert not worker(shlex.split(command), script)["imported"]


def test_the_server_ends_with_its_context_and_when_its_starter_is_killed(script: Path) -> None:
    with forked_workers([], []) as command:
        parent = worker(shlex.split(command), script)["parent"]
    assert gone(parent)

    starter = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import time\nfrom pipeline.forkserver import forked_workers\n"
            "with forked_workers([], []) as command:\n    print(command, flush=True)\n    time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert starter.stdout is not None
    with starter:
        command = starter.stdout.readline()
        parent = worker(shlex.split(command), script)["parent"]
        starter.send_signal(signal.SIGKILL)
        assert gone(parent)


@without_nvidia
def test_workers_of_our_own_ray_are_forked(ray_cluster: str) -> None:
    import ray
    from ray._raylet import UniqueID

    @ray.remote(num_cpus=0.1)
    class Worker:
        def about(self) -> tuple[int, bool, bool]:
            return os.getppid(), "jobs.train" in sys.modules, "torch._dynamo" in sys.modules

        def draw(self) -> list[str]:
            """As Ray names tasks and objects, here and in a new thread; and numpy."""
            drawn: list[str] = []

            def draw() -> None:
                drawn.append(UniqueID.from_random().hex())
                drawn.append(ray.put(0).hex())

            draw()
            thread = threading.Thread(target=draw)
            thread.start()
            thread.join()
            return [*drawn, str(np.random.random())]

    workers = [Worker.remote() for _ in range(3)]
    parent, *imported = ray.get(workers[0].about.remote())
    assert b"pipeline.forkserver" in Path(f"/proc/{parent}/cmdline").read_bytes()
    assert imported == [True, True]
    drawn = [x for of_one in ray.get([w.draw.remote() for w in workers]) for x in of_one]
    assert len(set(drawn)) == len(drawn) == 15


@without_nvidia
def test_a_ray_of_our_own_starts_nothing_that_has_no_use_here(ray_cluster: str) -> None:
    import psutil
    import ray

    def title(process: psutil.Process) -> str:
        return " ".join(process.cmdline()).strip()

    ray.get(ray.remote(lambda: None).remote())
    started = psutil.Process().children()
    (raylet,) = [p for p in started if p.name() == "raylet"]
    for useless in ("autoscaler/_private/monitor.py", "log_monitor.py", "dashboard/dashboard.py"):
        assert not [title(p) for p in started if useless in title(p)]
    forks = ("setup_worker.py", "forkserver.py")  # the first becomes the second
    directly = {title(p) for p in raylet.children() if not any(f in title(p) for f in forks)}
    assert directly == {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
