"""A matrix of runs: every one of them, none twice, each the run that jobs.train would make of the same configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from stores import make_store
from test_jobs import refused, run
from trained import train_by

from jobs.matrix import MatrixConfig
from pipeline.store import Store
from rrnn.config import config_from_dict, merge
from rrnn.experiments import EXPERIMENTS, experiment

SMALL = ["model.hidden=4", "train.epochs=2", "train.folds=3"]


def test_experiments_are_named_as_they_are_called_and_say_what_they_are() -> None:
    for name, function in EXPERIMENTS.items():
        assert experiment(name).experiment == name
        assert function.__doc__
    listed = run("train", "--list")
    assert all(name in listed for name in ("ravdess_gca", "mosei_gating", "crema_d_audio", "few_hops5"))
    with pytest.raises(ValueError, match="unknown experiment 'fwe'"):
        experiment("fwe")


@pytest.mark.slow
def test_runs_that_are_there_are_not_done_again(tmp_path: Path, ray_cluster: None) -> None:
    store, out = make_store(tmp_path / "store"), tmp_path / "runs"
    first = run("matrix", store.url, "--out", out, "--rows", "few", "--seeds", 1, *SMALL)
    assert "3 runs: 0 done, 3 to do" in first
    runs = {p.parent: p.stat().st_mtime_ns for p in out.rglob("summary.json")}
    assert {str(p.relative_to(out)) for p in runs} == {f"few/fold{k}-seed0" for k in range(3)}
    assert json.loads((out / "few/fold1-seed0/config.json").read_text())["experiment"] == "few"
    tested = [r for p in runs if p.parent.name == "few" for r in pl.read_parquet(p / "predictions.parquet").to_dicts()]
    ids = [r["clip_id"] for r in tested if r["split"] == "test"]
    assert len(ids) == len(set(ids)) == 47  # each usable clip is tested once

    more = run("matrix", store.url, "--out", out, "--rows", "few,few_tied", "--seeds", 2, *SMALL)
    assert "12 runs: 3 done, 9 to do" in more
    assert {p: (p / "summary.json").stat().st_mtime_ns for p in runs} == runs
    (row,) = [line for line in more.splitlines() if line.startswith("few ")]
    by_seed = []
    for seed in range(2):
        rows = [
            r
            for k in range(3)
            for r in pl.read_parquet(out / f"few/fold{k}-seed{seed}/predictions.parquet").to_dicts()
            if r["split"] == "test"
        ]
        by_seed.append(sum(r["target"] == r["prediction"] for r in rows) / len(rows))
    assert f"{sum(by_seed) / 2:.4f}" in row

    other = refused("matrix", store.url, "--out", out, "--rows", "few", "--seeds", 1, *SMALL, "model.dropout=0.1")
    assert "was made with another model: choose another --label or --out" in other

    clip = Store(store.url).clips("00000-0000")[0]
    Store(store.url).add_clips([replace(clip, emotion="calm" if clip.emotion != "calm" else "sad")])
    other = refused("matrix", store.url, "--out", out, "--rows", "few", "--seeds", 1, *SMALL)
    assert "was made with another data_digest" in other
    Store(store.url).add_clips([clip])

    # One run of the matrix is that training, as jobs.train would do it.
    changes = {"model": {"hidden": 4}, "train": {"epochs": 2, "folds": 3, "test_fold": 2}}
    train_by(1, config_from_dict(merge(experiment("few").to_dict(), changes)), store, tmp_path / "alone")
    name = "model/model.safetensors"
    assert (tmp_path / "alone" / name).read_bytes() == (out / "few/fold2-seed0" / name).read_bytes()


def test_wrong_arguments_are_refused_before_anything_starts(tmp_path: Path) -> None:
    assert MatrixConfig("s", "o", ("few",), label="-dry").folder("few", 0, 1) == "o/few-dry/fold0-seed1"
    assert "unknown experiment fwe" in refused("matrix", "store", "--out", tmp_path, "--rows", "few,fwe")
    assert "--folds 1;2: expected numbers" in refused("matrix", "store", "--out", tmp_path, "--folds", "1;2")
    assert "expected --out FOLDER" in refused("matrix", "store")
    shown = json.loads(run("matrix", "s", "--out", tmp_path / "o", "--rows", "few_late", "--dry-run", "train.mixup=0"))
    assert shown["runs_of"]["few_late"]["train"]["mixup"] == 0
    assert shown["runs_of"]["few_late"]["model"]["architecture"] == "late"
