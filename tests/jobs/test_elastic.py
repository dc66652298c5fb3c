"""Elastic training: a machine is lost and none comes for a while."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from machines import Machines, lines, small, started, summary
from stores import make_store
from trained import train_by

pytestmark = pytest.mark.slow

machines = pytest.fixture(scope="module")(started)


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
