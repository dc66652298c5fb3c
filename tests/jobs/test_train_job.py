"""Training by the job: on Ray Train with two workers, killed and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from processes import Job, one_killed
from ray.train.torch import TorchTrainer
from stores import make_store

from jobs.train import Trainer, TrainJob, run_training, split_words
from rrnn.config import Config, ModelConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(hidden=4, hops=2, dropout=0.2),
    train=TrainConfig(epochs=14, patience=14, batch_size=7, learning_rate=0.005, folds=4),
    experiment="rrnn",
)
OVERRIDES = [
    f"{part}.{key}={json.dumps(value)}"
    for part, values in {"model": CONFIG.model, "train": CONFIG.train}.items()
    for key, value in vars(values).items()
    if not key.startswith("__")
]


def as_before_there_was_a_choice(path: Path) -> None:
    """Write a run's configuration as an earlier version did, which had fewer options."""
    config = json.loads(path.read_text())
    for part, key in (("model", "deviations"), ("train", "average"), ("train", "alternatives")):
        del config[part][key]
    del config["alternatives"]
    path.write_text(json.dumps(config))


@pytest.mark.slow
def test_killed_driver_and_killed_worker_change_nothing(tmp_path: Path, ray_cluster: str) -> None:
    store, run = make_store(tmp_path / "store").url, tmp_path / "killed"
    undisturbed = run_training(TrainJob(store, str(tmp_path / "whole"), CONFIG))
    command = ["jobs.train", store, "rrnn", *OVERRIDES, "--out", str(run), "--checkpoint-seconds", "0"]

    def epochs() -> int:
        path = run / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    first = Job(command, tmp_path / "log")
    first.until(lambda: epochs() >= 3)
    first.kill()
    reached = epochs()
    assert reached < 11

    again = TrainJob(store, str(run), CONFIG, checkpoint_seconds=0)
    with one_killed(ray_cluster, "RayTrainWorker", lambda: epochs() > reached):
        summary = run_training(again)

    assert (run / "model/model.safetensors").read_bytes() == (tmp_path / "whole/model/model.safetensors").read_bytes()
    told = ("test", "valid", "best_epoch", "epochs", "model_id")
    assert {k: summary[k] for k in told} == {k: undisturbed[k] for k in told}
    lines = [(d / "metrics.jsonl").read_text().splitlines() for d in (run, tmp_path / "whole")]
    assert [json.loads(x)["train_loss"] for x in lines[0]] == [json.loads(x)["train_loss"] for x in lines[1]]

    assert run_training(again) == summary  # it is there: nothing is done
    as_before_there_was_a_choice(run / "config.json")
    assert run_training(again) == summary

    other = Config(model=CONFIG.model, train=replace(CONFIG.train, seed=1), experiment="rrnn")
    with pytest.raises(ValueError, match=r"holds a run of another configuration \(train\.seed was 0, now 1\)"):
        run_training(TrainJob(store, str(run), other))


def test_helpers_of_ray_train_are_started_where_they_have_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def helpers(trainer: TorchTrainer) -> set[str]:
        return {type(c).__name__ for c in trainer._create_default_callbacks()}

    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
    assert callable(TorchTrainer._register_sigint_handler)  # which Trainer does without
    everyone = helpers(TorchTrainer(print))
    assert everyone - helpers(Trainer(print)) == {"DatasetsCallback"}
    assert everyone - helpers(Trainer(print, own_ray=True)) == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def test_words_of_the_command_line() -> None:
    assert split_words(["demo", "model.hops=2", "train.loss=l2"]) == (
        "demo",
        {"model": {"hops": 2}, "train": {"loss": "l2"}},
    )
    assert split_words(["streams=[acoustic, words]"]) == ("rrnn", {"streams": ["acoustic", "words"]})
    with pytest.raises(ValueError, match="expected one experiment and key=value pairs, found demo, rrnn"):
        split_words(["demo", "rrnn"])
    with pytest.raises(ValueError, match="expected key=value"):
        split_words(["=2"])
