"""A sweep on Ray Tune: its trials are the runs that training makes, it can be killed, and trials can be added."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import Job, one_killed
from ray.tune import FailureConfig
from stores import make_store, read_clips
from trained import sweep_by_one
from typer.testing import CliRunner

from jobs import made_task as made_job
from jobs.ablate import ablate_run
from jobs.tune import TuneJob, cli, run_sweep
from rrnn import made_task
from rrnn.config import Config, ModelConfig, TrainConfig
from rrnn.spaces import Dimension, Space, one_of, open_space
from rrnn.sweep import Settings, Sweep, winner
from rrnn.train import Workers, train

TRIAL = "ImplicitFunc"  # in the title of a process that trains trials
SPACE = Space(
    "small",
    "",
    Config(model=ModelConfig(hops=2, dropout=0.2), train=TrainConfig(epochs=3, patience=60, batch_size=7, folds=4)),
    {"model.hidden": one_of(3, 4, 6), "train.learning_rate": Dimension("loguniform", (1e-3, 3e-2))},
)


def settings_of(store: str, space: Space = SPACE, **options: Any) -> Settings:
    values = json.loads(json.dumps(space.to_dict()))
    return Settings(store, values, **{"epochs": space.base.train.epochs, "asha": False, **options})


def sweep_json(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return found


def models(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("trials/*/model/model.safetensors"))]


@contextlib.contextmanager
def a_lost_process_that_ray_tune_gives_up(ray_cluster: str) -> Iterator[None]:
    """The next process that begins with a trial is killed, and Ray Tune takes the trial for failed at once."""
    with pytest.MonkeyPatch.context() as patch, one_killed(ray_cluster, TRIAL):
        patch.setattr("jobs.tune.tune.FailureConfig", lambda max_failures: FailureConfig(max_failures=0))
        yield


def test_trials_are_runs_and_more_can_be_added(tmp_path: Path, ray_cluster: str) -> None:
    store = make_store(tmp_path / "store")
    settings, out = settings_of(store.url), tmp_path / "sweep"
    two = run_sweep(settings, TuneJob(str(out), 2, at_a_time=1))
    first, before = sweep_json(out), models(out)
    tested = [t.number for t in two if t.summary is not None and t.summary["test"] is not None]
    assert [o["trial"] for o in first["openings"]] == tested == [int(first["winner"])]
    assert len(list(out.glob("tensorboard/*/events.out.tfevents.*"))) == 2
    assert not list(out.glob("trials/*/checkpoint.zip"))
    with pytest.raises(ValueError, match="its test set is closed"):
        ablate_run(str(out / f"trials/{1 - tested[0]:04d}"), (0.0,), 1, None)

    sweep, alone = Sweep(str(out)), tmp_path / "alone"  # the same training, without Ray
    assert two[1].choices is not None
    config, options = sweep.config(settings, two[1].choices), {"workers": Workers(), "report": lambda *_: None}
    train(config, store, read_clips(store), str(alone), scratch=tmp_path, checkpoint_seconds=1e9, test=False, **options)  # type: ignore[arg-type]
    losses = [
        [json.loads(x)["valid_loss"] for x in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (alone, out / "trials/0001")
    ]
    assert losses[0] == losses[1]

    with a_lost_process_that_ray_tune_gives_up(ray_cluster):
        four = run_sweep(settings, TuneJob(str(out), 4, at_a_time=1))
    assert [t.choices for t in four[:2]] == [t.choices for t in two]
    assert models(out)[:2] == before
    assert [t.state for t in four] == ["done"] * 4
    best = winner(settings, four)
    assert best is not None
    last = sweep_json(out)
    expected = first["openings"] if best.number == tested[0] else [*first["openings"], last["openings"][-1]]
    assert last["openings"] == expected
    assert last["openings"][-1]["trial"] == best.number

    assert CliRunner().invoke(cli, ["--page", str(out), "--dry-run"], catch_exceptions=False).exit_code == 0
    assert not (out / "sweep.html").exists()
    page = CliRunner().invoke(cli, ["--page", str(out)], catch_exceptions=False)
    assert page.exit_code == 0, page.output
    assert f"Trial {best.name} has the best validation loss of 4 trials" in (out / "sweep.html").read_text()


def test_optuna_with_a_space_that_ends(tmp_path: Path, ray_cluster: None) -> None:
    store = make_store(tmp_path / "store").url
    few = Space("few", "", SPACE.base, {"model.hidden": one_of(3, 4)})
    few = replace(few, base=replace(few.base, modalities=("audio",)))
    job = TuneJob(str(tmp_path / "a"), 5, at_a_time=1, test=False)
    trials = run_sweep(settings_of(store, few, search="optuna", metric="uar"), job)
    config = json.loads((tmp_path / "a/trials/0000/config.json").read_text())
    assert [stream["name"] for stream in config["streams"]] == ["a"]
    assert {(t.choices or {}).get("model.hidden") for t in trials if t.over} == {3, 4}
    assert sweep_json(tmp_path / "a")["openings"] == []
    assert all(t.summary is None or t.summary["test"] is None for t in trials)


@pytest.mark.slow
def test_a_sweep_that_was_killed_is_the_sweep_that_was_not(tmp_path: Path, ray_cluster: str) -> None:
    index = make_store(tmp_path / "store")
    store, space = index.url, SPACE.fixed({"train": {"epochs": 20}})
    (tmp_path / "small.json").write_text(json.dumps({k: v for k, v in space.to_dict().items() if k != "name"}))
    out = tmp_path / "killed"
    arguments = [store, "--space", str(tmp_path / "small.json"), "--out", str(out), "--trials", "4", "--no-asha"]
    arguments += ["--checkpoint-seconds", "0"]
    killed = Job(["jobs.tune", *arguments], tmp_path / "log")
    killed.until(lambda: len(list(out.glob("trials/*/summary.json"))) >= 2 and any(out.glob("trials/*/checkpoint.zip")))
    killed.kill()
    over = {p.parent: p.stat().st_mtime_ns for p in out.glob("trials/*/summary.json")}
    assert 2 <= len(over) < 4
    assert sweep_json(out)["openings"] == []
    said = CliRunner().invoke(cli, arguments, catch_exceptions=False).output

    sweep_by_one(Sweep(str(out)).settings(), 4, index, tmp_path / "whole")
    assert f"{len(over)} are over, {4 - len(over)} to train" in said
    for folder, then in over.items():
        if folder.name != sweep_json(out)["winner"]:  # which was tested since
            assert (folder / "summary.json").stat().st_mtime_ns == then
    assert models(out) == models(tmp_path / "whole")
    whole, found = sweep_json(tmp_path / "whole"), sweep_json(out)
    assert [(t["choices"], t["valid"]) for t in found["trials"]] == [(t["choices"], t["valid"]) for t in whole["trials"]]
    assert found["winner"] == whole["winner"]
    assert [(o["trial"], o["test"]) for o in found["openings"]] == [(o["trial"], o["test"]) for o in whole["openings"]]


@pytest.mark.slow
def test_a_trial_of_two_processes(tmp_path: Path, ray_cluster: None) -> None:
    store = make_store(tmp_path / "store").url
    (trial,) = run_sweep(settings_of(store), TuneJob(str(tmp_path / "a"), 1, workers=2))
    assert trial.state == "done"
    assert [line["epoch"] for line in trial.history] == [1, 2, 3]
    assert trial.summary is not None
    assert trial.summary["test"]


@pytest.mark.slow
def test_the_sweep_finds_what_a_made_task_needs(tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text says which of two keys in the audio to go by. Last states can't combine them; with a memory that starts from zero
    one hop is an average that knows no text, and a second hop can look."""
    lengths = {"audio": (8, 12), "vision": (2, 3), "text": (2, 4)}
    monkeypatch.setitem(made_task.TASKS, "easy", made_task.Pointer(6.0, lengths, n_keys=2))
    made_job.make_store(made_job.MadeTask("easy", 1200), str(tmp_path / "store"))
    space = open_space("made").fixed(
        {"model": {"memory": "zero", "gate": "none", "tied": False}, "train": {"epochs": 6, "batch_size": 32}}
    )
    settings = settings_of(str(tmp_path / "store"), space, metric="accuracy")
    trials = run_sweep(settings, TuneJob(str(tmp_path / "sweep"), 9, at_a_time=1))
    found = {(t.choices or {}).get("model.hops", 0): settings.figure(t.history) for t in trials if t.over}
    assert found.keys() == {0, 1, 2, 3}  # late fusion has none; the space has no more than these
    best = winner(settings, trials)
    assert best is not None
    assert best.choices is not None
    assert best.choices["model.hops"] in (2, 3)
    assert min(found[2], found[3]) > 0.9 > 0.8 > max(found[0], found[1])  # type: ignore[type-var, operator]
    assert best.summary is not None
    assert best.summary["test"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["STORE", "--space", "fusoin", "--out", "o"], "unknown space 'fusoin'"),
        (["STORE", "--space", "made"], "expected STORE, --space NAME and --out FOLDER"),
        (["STORE", "--space", "made", "--out", "o", "--search", "grid"], "unknown search 'grid': expected optuna or random"),
        (["STORE", "--space", "made", "--out", "o", "--metric", "f1"], "unknown metric 'f1': expected one of loss"),
        (["STORE", "--space", "made", "--out", "o", "model.hops=0"], "model.hops=0"),
        (["--page", "nowhere"], "nowhere holds no sweep"),
    ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path: Path, arguments: list[str], why: str) -> None:
    result = CliRunner().invoke(cli, [str(tmp_path) if a == "STORE" else a for a in arguments])
    assert result.exit_code == 2
    assert why in result.output
    assert "Traceback" not in result.output


def test_spaces_are_listed_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    listed = CliRunner().invoke(cli, ["--list"], catch_exceptions=False).output
    assert "model.hops             1 to 5 (when model.architecture is rrnn or early)" in listed
    shown = CliRunner().invoke(cli, ["store", "--space", "made", "--out", str(tmp_path / "o"), "--dry-run", "model.hops=2"])
    assert json.loads(shown.output)["space"]["dimensions"]["model.hops"]["choice"] == [2]
    assert not list(tmp_path.iterdir())
