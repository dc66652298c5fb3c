"""Four jobs submitted to a cluster, and Ray's own share of their time: python -m benchmarks.submitted SOURCE --corpus NAME

A head is started on this machine, with a token, and each job is given to it by `ray job submit`, as cluster/README.md says.
Then the same command line has a Ray of its own, as on a laptop. At last its work is done without Ray, by as many processes,
which are dealt their units beforehand (benchmarks.without_ray): a floor, with the start of Python and the loading of models
in it. Ray's own share is what the first takes beyond the last; a child process around each extraction and the page of the
sweep, which the floor does without, go with it. The sides take no turns.

Wants the extra `cluster`: pip install -c constraints.txt -e '.[cluster]'.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from jobs._cli import app, console, user_errors

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Job:
    """words: of the command line, after python -m jobs.NAME. bare: arguments of the function of benchmarks.without_ray. {in}
    is a folder that an earlier job filled, {out} this side's own."""

    name: str
    words: Sequence[str]
    bare: dict[str, Any]


def jobs(source: str, corpus: str, clips: str, processes: int, epochs: int, trials: int) -> list[Job]:
    store, run = "{in}/extract", "{in}/train"
    n = str(processes)
    return [
        Job(
            "extract",
            [source, "--corpus", corpus, "--out", "{out}", "--modalities", "audio", "--workers", n],
            {"source": source, "corpus": corpus, "out": "{out}", "modalities": "audio"},
        ),
        Job(
            "train",
            [store, "few", "--out", "{out}", "--workers", n, f"train.epochs={epochs}"],
            {"store": store, "out": "{out}", "name": "few", "changes": {"train": {"epochs": epochs}}},
        ),
        Job(
            "tune",
            f"{store} --space training --out {{out}} --trials {trials} --at-a-time {n} --no-asha --no-test".split()
            + f"--epochs {epochs}".split(),
            {"store": store, "out": "{out}", "space": "training", "trials": trials, "epochs": epochs},
        ),
        Job("score", [run, clips, "--out", "{out}", "--workers", n], {"run": run, "clips": clips, "out": "{out}"}),
    ]


@contextlib.contextmanager
def head(folder: str, cores: int) -> Iterator[dict[str, str]]:
    """A head on this machine; yields the environment in which it can be spoken to."""
    gcs, dashboard = _free_port(), _free_port()
    env = {
        **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_urlsafe(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_COLOR": "1",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--port", str(gcs), "--dashboard-host", "127.0.0.1"]
    command += ["--dashboard-port", str(dashboard), "--temp-dir", folder, "--num-cpus", str(cores), "--disable-usage-stats"]
    with open(f"{folder}.log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(dashboard, process)
        yield env
    finally:
        process.send_signal(signal.SIGTERM)  # it ends what it started; `ray stop` would end every Ray of this machine
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"ray start ended with {process.returncode}: is the extra `cluster` installed?")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no job server on port {port} after a minute")


def seconds(command: Sequence[str], env: dict[str, str], log: Path) -> float:
    """Of a command from the root of the repository. Raises RuntimeError where it fails."""
    began = time.perf_counter()
    with log.open("wb") as to:
        code = subprocess.run(command, cwd=ROOT, env=env, stdout=to, stderr=to).returncode
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {log.read_text()[-2000:]}")
    return time.perf_counter() - began


def filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"{{{name}}}", place)
        return value
    return [filled(v, places) for v in value] if isinstance(value, list) else value


@user_errors
def main(
    source: Annotated[str, typer.Argument(help="Clips with emotions, of four speakers or more.")],
    corpus: Annotated[str, typer.Option(help="How to read them.")] = "folder",
    clips: Annotated[str, typer.Option(help="Clips to score; the same by default.")] = "",
    processes: Annotated[int, typer.Option(min=1, help="Workers, on one core each.")] = 2,
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    trials: Annotated[int, typer.Option(min=1)] = 8,
    logs: Annotated[str, typer.Option(help="A folder for the jobs' logs.")] = "",
) -> None:
    """Print each job's wall time, submitted, with a Ray of its own, and without Ray.

    Example: python -m benchmarks.submitted ravdess --corpus ravdess --clips new-clips
    """
    load = os.getloadavg()[0]
    source, clips = os.path.abspath(source), os.path.abspath(clips or source)
    alone = {**{k: v for k, v in os.environ.items() if not k.startswith("RAY_")}, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    submit = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml", "--"]
    table = Table("job", "submitted", "a Ray of its own", "without Ray", "Ray's own share", box=None, pad_edge=False)
    with tempfile.TemporaryDirectory(prefix="submitted-") as folder:
        at = Path(folder)
        kept = Path(logs or folder)
        kept.mkdir(parents=True, exist_ok=True)
        with head(f"{folder}/ray", processes) as env:
            for job in jobs(source, corpus, clips, processes, epochs, trials):
                took: dict[str, float] = {}
                for side in ("submitted", "own", "bare"):
                    places = {"in": str(at / "submitted"), "out": str(at / side / job.name)}
                    arguments = {k: filled(v, places) for k, v in {**job.bare, "processes": processes}.items()}
                    command = [sys.executable, "-m", f"jobs.{job.name}", *filled(list(job.words), places)]
                    if side == "submitted":
                        command = [*submit, *command]
                    elif side == "bare":
                        command = [sys.executable, "-m", "benchmarks.without_ray", job.name, json.dumps(arguments)]
                    (at / side).mkdir(exist_ok=True)
                    took[side] = seconds(command, env if side == "submitted" else alone, kept / f"{job.name}-{side}.log")
                share = took["submitted"] - took["bare"]
                table.add_row(
                    job.name,
                    *(f"{s:.1f} s" for s in took.values()),
                    f"{share:.1f} s, {share / took['submitted']:.0%}",
                )
                console.print(f"{job.name}: {', '.join(f'{side} {s:.1f} s' for side, s in took.items())}")
    console.print(table)
    console.print(f"{os.cpu_count()} cores; load before the start {load:.1f}, which should be below 1")


cli = app(main)

if __name__ == "__main__":
    cli()
