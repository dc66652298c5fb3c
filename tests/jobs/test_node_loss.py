"""A machine of the cluster is lost in the middle of a job, and another comes, perhaps after a while: the job ends right by
itself. And one that is too busy for Ray to be up in time starts it once more."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import Machines, lines, small, started, summary
from processes import ROOT, Job
from sources import tones
from stores import make_store
from trained import sweep_by_one, train_by

from pipeline.corpora.folder import FolderCorpus
from pipeline.extract import extract_shard
from pipeline.store import Store
from pipeline.streams.acoustic import Acoustic
from rrnn.sweep import Sweep

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

machines = pytest.fixture(scope="module")(started)


def lose_one_when(condition: Callable[[], bool], job: Job, machines: Machines) -> str:
    job.until(condition)
    assert job.process.poll() is None
    machines.lose_one()
    return job.finish()


def test_extraction_ends_with_the_store_that_it_would_have_written(machines: Machines, tmp_path: Path) -> None:
    tones(tmp_path / "clips", 40, seconds=6)
    store = Store.create(str(tmp_path / "whole"), "folder", 2)
    store.add_clips(list(FolderCorpus().clips(str(tmp_path / "clips"), print)))
    store.begin_stream(Acoustic())
    for shard in store.shards():
        extract_shard(store, Acoustic(), shard)

    out = tmp_path / "lost"
    command = ["jobs.extract", tmp_path / "clips", "--out", out, "--streams", "acoustic", "--shard-size", 2]

    def written(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted(folder.glob("features/acoustic/*.parquet"))}

    lose_one_when(lambda: len(written(out)) >= 4, machines.job(*command, log=tmp_path / "log"), machines)
    assert len(written(out)) == 20
    assert written(out) == written(tmp_path / "whole")


def test_training_ends_with_the_model_that_it_would_have_made(machines: Machines, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    config, words = small(epochs=10, dropout=0.3)
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    train_by(2, config, store, whole)
    command = ["jobs.train", store.url, *words, "--workers", 2, "--checkpoint-seconds", 0, "--out", lost]
    lose_one_when(lambda: len(lines(lost)) >= 3, machines.job(*command, log=tmp_path / "log"), machines)
    assert (lost / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert summary(lost)["test"] == summary(whole)["test"]


def test_a_sweep_ends_with_the_winner_that_it_would_have_had(machines: Machines, tmp_path: Path) -> None:
    store, lost = make_store(tmp_path / "store"), tmp_path / "lost"
    of = ["--space", "training", "--trials", 6, "--no-asha", "--epochs", 6, "model.hidden=4", "train.folds=4"]

    def ended() -> dict[str, float]:
        """When each trial was over."""
        return {p.parent.name: p.stat().st_mtime for p in lost.glob("trials/*/summary.json")}

    job = machines.job("jobs.tune", store.url, *of, "--out", lost, log=tmp_path / "log")
    job.until(lambda: len(ended()) >= 2)
    before, now = ended(), time.time()
    machines.lose_one()
    job.finish()
    ended_as, whole = Sweep(str(lost)), sweep_by_one(Sweep(str(lost)).settings(), 6, store, tmp_path / "whole")
    (opened,), (expected,) = ended_as.openings(), whole.openings()
    assert (opened.trial, opened.model_id, opened.test) == (expected.trial, expected.model_id, expected.test)
    tested = f"{opened.trial:04d}"  # whose summary is written once more, with the test
    assert {k: v for k, v in ended().items() if v < now and k != tested} == {k: v for k, v in before.items() if k != tested}


def test_training_goes_on_with_fewer_and_then_with_more(
    machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "store")
    config, words = small(epochs=60, dropout=0.0)  # what is dropped is drawn by each worker for itself
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_by(1, config, store, whole)
    many = ["--workers", 2, "--min-workers", 1, "--resize-seconds", 1, "--checkpoint-seconds", 0]
    job = machines.job("jobs.train", store.url, *words, *many, "--out", run, log=tmp_path / "log")

    def by(workers: int) -> bool:
        return bool(found := lines(run)) and found[-1]["workers"] == workers

    job.until(lambda: by(2) and len(lines(run)) >= 3)
    machines.lose()
    began = time.monotonic()
    job.until(lambda: by(1))
    fewer = time.monotonic()
    machines.add()
    job.until(lambda: by(2))
    more = time.monotonic()
    job.finish()
    with capsys.disabled():
        print(f"\non one worker {fewer - began:.0f} s after the loss, on two {more - fewer:.0f} s after a machine came")
    for a, b in zip(lines(whole), lines(run), strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)
        assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=1e-5)
    for side in ("valid", "test"):
        assert summary(run)[side] == pytest.approx(summary(whole)[side], abs=1e-5)


def test_a_ray_that_was_not_up_in_time_is_started_once_more() -> None:
    program = """if True:
        import jobs
        import ray
        from ray._private import node, services

        class Late:  # half a minute has passed since Ray asked first whether its own processes are up
            def monotonic(self):
                return real_time.monotonic() + 31
            def __getattr__(self, name):
                return getattr(real_time, name)

        real_time, real_get_node, first = node.time, services.get_node, [True]
        def get_node(*arguments):
            node.time = Late() if first else real_time
            if first:
                first.pop()
                raise RuntimeError("not yet")
            return real_get_node(*arguments)
        services.get_node = get_node

        from pipeline.on_ray import ray_started
        with ray_started(num_cpus=1):
            print(ray.get(ray.remote(lambda: 6 * 7).remote()))
            import psutil
            print(sorted(p.name() for p in psutil.Process().children() if p.name() in ("gcs_server", "raylet")))
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.splitlines() == ["42", "['gcs_server', 'raylet']"], done.stderr
    assert "Ray did not start within half a minute on this busy machine: trying once more" in done.stderr
