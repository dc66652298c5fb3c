"""Jobs in processes of their own, to be killed: found again by a mark in their environment, never by name alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

WORKERS = ("_ExtractWorker", "RayTrainWorker", "TrainController")
ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def living(mark: str, title: str = "") -> list[int]:
    """The processes that have the mark, NAME=value, in their environment, of all generations, and the given text in their
    title (Ray names a worker's class there)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                marked = mark.encode() in (entry / "environ").read_bytes()
                named = title in (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if marked and named:
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def one_killed(mark: str, title: str, when: Callable[[], object] = lambda: True) -> Iterator[None]:
    """kill -9 of the first process with the mark and the title that begins within the context, once `when` holds."""
    killed, over = list[int](), threading.Event()
    there = set(living(mark, title))

    def kill() -> None:
        while not killed and not over.is_set():
            for pid in sorted(set(living(mark, title)) - there)[:1] if when() else ():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()
    assert killed


class Job:
    """`python -m ARGUMENTS` in the project's folder, with all that it starts. more: of its environment."""

    def __init__(self, arguments: Sequence[str], log: Path, more: Mapping[str, str] | None = None) -> None:
        self.mark = f"TEST_JOB={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {name: value} | dict(more or {})
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def pids(self, title: str = "") -> list[int]:
        return living(self.mark, title)

    def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"it did not come to that; the job said:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of the driver; its workers must end by themselves, and what Ray's own agents leave is cleared away."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        end = time.monotonic() + 60
        while left := [pid for title in WORKERS for pid in self.pids(title)]:
            assert time.monotonic() < end, f"workers left behind: {left}"
            time.sleep(0.1)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def finish(self, seconds: float = 240) -> str:
        """Wait for success; returns what it printed."""
        code = self.process.wait(timeout=seconds)
        text = self.log.read_text()
        assert code == 0, text[-3000:]
        return text
