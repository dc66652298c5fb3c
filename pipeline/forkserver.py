"""Ray's workers on this machine, forked from one process that has imported what they need.

A worker of Ray is a new Python, which imports torch and Ray's libraries for four to six seconds of a core, longer than a short
training takes. Here Ray starts launch() in each worker's place (py_executable of its runtime environment), and that hands the
worker's arguments and environment to serve(), a process which forks one that is ready. Where that can't be, the worker starts
as it would have. Only for a Ray that is the job's own: it has one machine and one job.

Run by its path, by workers too, so it imports nothing but the standard library, and little of that.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

SECONDS = 30.0
"""How long a worker waits for the server, which may still be importing; Ray gives it 60 s to start."""
SERVE = """\
import json, sys
about = json.loads(sys.argv[1])
sys.path[:] = about.pop("path")
from pipeline.forkserver import serve
serve(**about)
"""
FIXED = ("RAY_JOB_ID", "RAY_RAYLET_PID")
"""What Ray reads from the environment when it is imported, and never again: workers for which it differs can't be forked."""


@contextmanager
def forked_workers(first: Sequence[str], then: Sequence[str]) -> Iterator[str]:
    """What Ray is to start as py_executable, for as long as the context lasts.

    first: modules that import no Ray, imported at once; then: those that do, imported when the first worker is asked for.
    """
    import shlex
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="rrnn-") as folder, socket.socket(socket.AF_UNIX) as listening:
        with _door(folder) as door:  # that only this user may come to
            listening.bind(door)
        listening.listen(128)
        about = {"listening": listening.fileno(), "path": sys.path, "first": list(first), "then": list(then)}
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, json.dumps(about)],
            pass_fds=[listening.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # or libraries start threads, which a fork leaves behind
        )
        listening.close()  # so that nobody waits for a server that is gone
        try:
            yield shlex.join([sys.executable, "-I", "-S", __file__, folder])
        finally:
            server.kill()
            server.wait()


@contextmanager
def _door(folder: str) -> Iterator[str]:
    """The address of the server's socket: a short one, as it must be, however long the folder's name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}/workers"
    finally:
        os.close(descriptor)


def launch(folder: str, arguments: Sequence[str]) -> None:
    """Have the worker forked, or be it. Ray knows a worker by what it says itself, so this process may end before it does."""
    try:
        with _door(folder) as door, socket.socket(socket.AF_UNIX) as server:
            server.settimeout(SECONDS)
            server.connect(door)
            with open("/proc/self/oom_score_adj") as file:
                oom = file.read()
            # Python's own -s and -S come first where the driver has them; the server has the driver's sys.path anyway
            worker = list(itertools.dropwhile(lambda argument: argument in ("-s", "-S"), arguments))
            asked = {"arguments": worker, "folder": os.getcwd(), "environment": dict(os.environ), "oom": oom}
            about = json.dumps(asked).encode()
            socket.send_fds(server, [len(about).to_bytes(8, "little")], [0, 1, 2])
            server.sendall(about)
            forked = server.recv(1)
    except OSError:
        forked = b""
    if not forked:
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 there is no shell to quote for


def serve(listening: int, first: Sequence[str], then: Sequence[str]) -> None:
    """Fork a worker for each that asks, until the process that started this one is gone."""
    import ctypes
    import gc

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C is the driver's to see to, as Ray has it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers
    for name in first:
        importlib.import_module(name)
    fixed: list[str | None] | None = None
    door = socket.socket(fileno=listening)
    while True:
        asking, _ = door.accept()
        with asking:
            asking.settimeout(SECONDS)
            try:
                size, descriptors, _, _ = socket.recv_fds(asking, 8, 3)
                with asking.makefile("rb") as rest:
                    about = json.loads(rest.read(int.from_bytes(size, "little")))
            except (OSError, ValueError):
                continue
            environment = about["environment"]
            if fixed is None:
                fixed = [environment.get(name) for name in FIXED]
                os.environ.update(environment)
                _import_ray(then)
                gc.freeze()  # or collecting copies the pages of all that was imported
            if fixed == [environment.get(name) for name in FIXED] and os.fork() == 0:
                door.close()
                _become(asking, about, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def _import_ray(names: Sequence[str]) -> None:
    """Import what imports Ray. Its native code seeds itself at the first random number, and a fork does not seed it again: all
    workers would then give the same names to different objects. Raises RuntimeError where they would."""
    import ray.actor
    from ray._raylet import ActorClassID

    class Named:
        """Where a module that is imported has an actor's class, that draws a number; here of the system's."""

        @staticmethod
        def from_random() -> Any:
            return ActorClassID(os.urandom(ActorClassID.size()))

    ray.actor.ActorClassID = Named
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        ray.actor.ActorClassID = ActorClassID
    if len({_drawn_by_a_fork() for _ in range(4)}) < 4:
        raise RuntimeError("Ray has drawn random numbers while it was imported: its workers can't be forked")


def _drawn_by_a_fork() -> bytes:
    from ray._raylet import UniqueID

    here, there = os.pipe()
    if os.fork() == 0:
        os.write(there, UniqueID.from_random().binary())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as drawn:
        return drawn.read()


def _become(asking: socket.socket, to_be: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Be the worker, in this process that was forked for it: all as if Ray had started it."""
    import runpy
    import traceback

    code = 1
    try:
        os.setpgrp()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for standard, descriptor in enumerate(descriptors):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        with open("/proc/self/oom_score_adj", "w") as file:  # a worker goes before the driver where memory runs out
            file.write(to_be["oom"])
        os.chdir(to_be["folder"])
        os.environ.clear()
        os.environ.update(to_be["environment"])
        sys.argv = to_be["arguments"]
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()  # as a new process has it
        asking.sendall(b"1")  # raises where who asked has given up, and is the worker itself
        asking.close()
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2:])
