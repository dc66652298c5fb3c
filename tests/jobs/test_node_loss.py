"""A machine of the cluster is lost in the middle of a job, and another comes: the job ends right by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import Machines, lines, small, started, summary
from processes import Job
from sources import tones
from stores import make_store
from trained import train_by

from pipeline.corpora.folder import FolderCorpus
from pipeline.extract import extract_shard
from pipeline.store import Store
from pipeline.streams.acoustic import Acoustic

pytestmark = pytest.mark.slow

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
    store = make_store(tmp_path / "store").url
    of = ["--space", "training", "--trials", 6, "--no-asha", "--epochs", 6, "model.hidden=4", "train.folds=4"]
    command = ["jobs.tune", store, *of, "--out"]
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    machines.job(*command, whole, log=tmp_path / "log").finish()

    def ended() -> dict[str, float]:
        """When each trial was over."""
        return {p.parent.name: p.stat().st_mtime for p in lost.glob("trials/*/summary.json")}

    job = machines.job(*command, lost, log=tmp_path / "log")
    job.until(lambda: len(ended()) >= 2)
    before, now = ended(), time.time()
    machines.lose_one()
    job.finish()
    winners = [json.loads((d / "sweep.json").read_text())["openings"] for d in (lost, whole)]
    assert [(o["trial"], o["model_id"], o["test"]) for o in winners[0]] == [
        (o["trial"], o["model_id"], o["test"]) for o in winners[1]
    ]
    tested = f"{winners[0][0]['trial']:04d}"  # whose summary is written once more, with the test
    assert {k: v for k, v in ended().items() if v < now and k != tested} == {k: v for k, v in before.items() if k != tested}
