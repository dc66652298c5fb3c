"""A sweep's ledger, without Ray: draws, early stopping, the winner, and a test set that stays closed until it is opened."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from stores import make_store, read_clips
from trained import train_trial

from rrnn.config import Config, ModelConfig, TrainConfig
from rrnn.data import ClipSet, StoreIndex
from rrnn.report import write_report
from rrnn.spaces import Dimension, Space, one_of
from rrnn.sweep import Opening, Settings, Sweep, about_the_test, drawn_at_random, drawn_by_optuna, goes_on, winner
from rrnn.sweep_page import write_page
from rrnn.train import Workers, divide, open_test, train

BASE = Config(train=TrainConfig(epochs=4, batch_size=7, learning_rate=0.02, folds=4))
SMALL = {"model.hidden": 4, "model.hops": 1, "model.dropout": 0.0}
SPACE = Space(
    "small",
    "",
    BASE,
    {"model.architecture": one_of("rrnn", "naive"), **{k: one_of(v, architecture=("rrnn",)) for k, v in SMALL.items()}},
)
RRNN, NAIVE = {"model.architecture": "rrnn", **SMALL}, {"model.architecture": "naive"}
LINE = Space("line", "", BASE, {"train.mixup": Dimension("uniform", (0.0, 1.0))})


def settings_of(space: Space, store: StoreIndex, **options: Any) -> Settings:
    return Settings(store.url, json.loads(json.dumps(space.to_dict())), **{"epochs": 4, "asha": False, **options})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreIndex:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def sweep(store: StoreIndex, tmp_path: Path) -> tuple[Sweep, Settings, ClipSet]:
    """Of two trials that are trained: naive, and a model."""
    clips = read_clips(store)
    found, settings = Sweep(str(tmp_path / "sweep")), settings_of(SPACE, store)
    found.begin(settings, 2, clips.digest())
    for i in range(2):
        train_trial(found, settings, i, store, clips)
    found.record(2)
    return found, settings, clips


# --- draws -----------------------------------------------------------------------------------------------------------


def test_random_draws_differ_and_depend_on_seed_and_number_alone() -> None:
    found: list[Any] = []
    for i in range(2):
        found.append(drawn_at_random(SPACE, 3, i, found))
    assert found in ([RRNN, NAIVE], [NAIVE, RRNN])
    assert drawn_at_random(SPACE, 3, 2, found) is None  # there are no more
    line = [drawn_at_random(LINE, 0, i, []) for i in range(5)]
    assert [drawn_at_random(LINE, 0, i, line[:i]) for i in range(5)] == line  # type: ignore[arg-type]
    assert drawn_at_random(LINE, 1, 0, []) != line[0]


def test_optuna_draws_where_figures_were_good_and_the_same_for_the_same() -> None:
    told = [({"train.mixup": x}, (x - 0.3) ** 2) for x in np.linspace(0, 1, 15).tolist()]
    drawn = [drawn_by_optuna(LINE, 0, i, [], told, True) for i in range(15, 35)]
    assert [drawn_by_optuna(LINE, 0, i, [], told, True) for i in range(15, 35)] == drawn
    distance = [abs(float(c["train.mixup"]) - 0.3) for c in drawn if c is not None]  # type: ignore[arg-type]
    assert np.median(distance) < 0.15  # of random draws, 0.28
    away = [drawn_by_optuna(LINE, 0, i, [], told, False) for i in range(15, 35)]
    assert np.median([float(c["train.mixup"]) for c in away if c is not None]) > 0.8  # type: ignore[arg-type]


def test_optuna_waits_for_the_trials_it_goes_by_and_for_no_others(store: StoreIndex, tmp_path: Path) -> None:
    settings = settings_of(LINE, store, search="optuna", lag=2)
    sweep = Sweep(str(tmp_path))
    assert isinstance(sweep.draw(settings, 0), dict)
    assert isinstance(sweep.draw(settings, 1), dict)
    assert sweep.draw(settings, 2) == "later"  # needs trial 0, which is not over
    sweep.fail(0, "of memory")
    assert isinstance(third := sweep.draw(settings, 2), dict)
    assert sweep.draw(settings, 2) == third
    assert Sweep(str(tmp_path)).trial(2).choices == third  # it is on record before it is trained


# --- early stopping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "others", "goes"),
    [
        (0.5, [], True),  # nobody to compare with
        (0.5, [0.4], False),  # one of two: the better goes on
        (0.3, [0.4], True),
        (0.5, [0.4, 0.6, 0.7], True),  # two of four: one is better
        (0.5, [0.4, 0.45, 0.7], False),
        (0.5, [0.5], True),  # equals are no better
        (None, [], False),  # diverged
    ],
)
def test_who_goes_on(mine: float | None, others: list[float], goes: bool) -> None:
    assert goes_on(mine, others, 3, lambda a, b: a < b) == goes


def test_a_trial_that_is_worse_than_others_were_is_stopped(store: StoreIndex, tmp_path: Path) -> None:
    clips = read_clips(store)
    settings = settings_of(SPACE, store, asha=True, grace=1, reduction=2, epochs=6)
    assert settings.rungs == [1, 2, 4]
    sweep = Sweep(str(tmp_path))
    sweep.begin(settings, 2, clips.digest())
    for i, choices in enumerate((RRNN, NAIVE)):
        sweep.run_folder(i).write_json("trial.json", {"choices": choices})
        train_trial(sweep, settings, i, store, clips, 2)
    good, bad = sweep.trials(2)
    assert (good.state, bad.state) == ("done", "stopped")
    assert len(bad.history) < len(good.history)
    assert sweep.run_folder(1).exists("model/model.safetensors")


# --- the winner, and the test set ------------------------------------------------------------------------------------


def test_the_winner_is_the_best_on_validation_clips_even_where_a_test_would_choose_another(tmp_path: Path) -> None:
    """Test speakers whose labels are the others', turned round by one: who learned to tell classes apart is wrong on them."""
    index = make_store(tmp_path / "store", folds=("train", "train", "valid", "test"))
    clips = read_clips(index)
    turned = {"angry": "calm", "calm": "sad", "sad": "angry"}
    clips.emotions = [turned[e] if fold == "test" else e for e, fold in zip(clips.emotions, clips.folds, strict=True)]
    settings = settings_of(SPACE, index, epochs=30)
    sweep = Sweep(str(tmp_path / "sweep"))
    sweep.begin(settings, 2, clips.digest())
    for i in range(2):
        train_trial(sweep, settings, i, index, clips)
    best = winner(settings, sweep.trials(2))
    assert best is not None
    assert best.choices == RRNN
    opened = sweep.test(2, index, clips)
    assert opened is not None
    assert opened.test is not None
    other = open_test(sweep.run_folder(1 - best.number).url, index, clips)
    assert other["test"]["cross_entropy"] < opened.test["cross_entropy"]
    assert other["valid"]["cross_entropy"] > best.summary["valid"]["cross_entropy"]  # type: ignore[index]


def test_nothing_of_the_test_set_is_in_a_trial(sweep: tuple[Sweep, Settings, ClipSet], store: StoreIndex) -> None:
    found, settings, clips = sweep
    _, split = divide(clips, BASE)
    folder = Path(found.run_folder(0).url)
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert {r["clip_id"] for r in rows} == {clips.ids[i] for i in split.valid}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test"] is None
    assert not summary.keys() & {"naive", "statistics", "human"}
    assert not (folder / "examples.parquet").exists()
    with pytest.raises(ValueError, match="its test set is closed"):
        write_report([folder], folder / "report")
    assert "The test set is closed: no trial was tested." in about_the_test(settings, found.openings(), found.trials(2))


def test_a_run_that_is_tested_later_is_the_run_that_was_tested_at_once(store: StoreIndex, tmp_path: Path) -> None:
    config = replace(BASE, model=ModelConfig(hidden=4), train=replace(BASE.train, normalise="speaker", pool={"a": 2}))
    for name, test in (("once", True), ("later", False)):
        clips = read_clips(store)
        options: dict[str, Any] = {"workers": Workers(), "report": lambda *_: None, "scratch": tmp_path}
        train(config, store, clips, str(tmp_path / name), **options, checkpoint_seconds=1e9, test=test)
    open_test(str(tmp_path / "later"), store, read_clips(store))
    for name in ("predictions", "examples", "streams", "unusable"):
        tables = [pq.read_table(tmp_path / run / f"{name}.parquet") for run in ("once", "later")]
        assert tables[0].equals(tables[1]), name
    once, later = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("once", "later"))
    assert list(once) == list(later)
    assert {k: v for k, v in once.items() if k != "seconds"} == {k: v for k, v in later.items() if k != "seconds"}
    with pytest.raises(ValueError, match="was tested already"):
        open_test(str(tmp_path / "later"), store, read_clips(store))


def test_the_test_set_is_opened_once_and_again_only_for_another_winner(
    sweep: tuple[Sweep, Settings, ClipSet], store: StoreIndex, tmp_path: Path
) -> None:
    found, settings, clips = sweep
    first = found.test(2, store, clips)
    assert first is not None
    assert found.test(2, store, clips) is None
    assert found.openings() == [first]
    assert "opened once" in about_the_test(settings, found.openings(), found.trials(2))

    better = found.run_folder(2)  # a trial is added, a copy of the winner that says it did better
    for path in Path(found.run_folder(first.trial).url).rglob("*"):
        if path.is_file():
            better.write(str(path.relative_to(found.run_folder(first.trial).url)), path.read_bytes())
    better.write_json("summary.json", {**better.read_json("summary.json"), "test": None})
    lines = [{**line, "valid_loss": line["valid_loss"] / 2} for line in found.history(2)]
    better.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    assert "The winner has changed since, and was not tested." in about_the_test(settings, found.openings(), found.trials(3))
    second = found.test(3, store, clips)
    assert found.openings() == [first, second]
    assert [(o.trial, o.trials) for o in found.openings()] == [(first.trial, 2), (2, 3)]
    assert "opened 2 times" in about_the_test(settings, found.openings(), found.trials(3))
    assert "opened 2 times" in write_page(found.url).read_text()


def test_a_test_that_was_killed_is_on_record_and_is_no_second_one(
    sweep: tuple[Sweep, Settings, ClipSet], store: StoreIndex
) -> None:
    found, settings, clips = sweep
    best = winner(settings, found.trials(2))
    assert best is not None
    assert best.summary is not None
    begun = Opening(best.number, 2, "2026-01-01T00:00:00+00:00", best.summary["model_id"])
    found._write(settings, clips.digest(), found.trials(2), [begun])
    done = found.test(2, store, clips)
    assert done is not None
    assert done.test is not None
    assert found.openings() == [replace(begun, test=done.test)]


def test_a_sweep_of_a_version_with_fewer_options_goes_on(sweep: tuple[Sweep, Settings, ClipSet]) -> None:
    found, settings, clips = sweep
    path = Path(found.url) / "sweep.json"
    about = json.loads(path.read_text())
    del about["settings"]["space"]["base"]["train"]["average"]
    path.write_text(json.dumps(about))
    found.begin(settings, 2, clips.digest())


def test_another_sweep_is_left_alone(sweep: tuple[Sweep, Settings, ClipSet]) -> None:
    found, settings, clips = sweep
    for other, n, digest, why in (
        (replace(settings, seed=1), 2, clips.digest(), "seed was 0, now 1"),
        (replace(settings, metric="uar"), 2, clips.digest(), "metric was 'loss', now 'uar'"),
        (settings, 2, "0", "the store holds other data now"),
        (settings, 1, clips.digest(), "has 2 trials: expected as many or more, found 1"),
    ):
        with pytest.raises(ValueError, match=why):
            found.begin(other, n, digest)
    with pytest.raises(ValueError, match="losses of two kinds can't be compared"):
        settings_of(Space("s", "", BASE, {"train.loss": one_of("l2", "cross_entropy")}), StoreIndex("", "", (), {}))


def test_the_page_says_what_was_chosen_and_needs_no_other_file(sweep: tuple[Sweep, Settings, ClipSet]) -> None:
    found, settings, _ = sweep
    page = write_page(found.url).read_text()
    best = winner(settings, found.trials(2))
    assert best is not None
    assert f"Trial {best.name} has the best validation loss of 2 trials. The test set is closed" in page
    assert "http" not in page.replace("http-equiv", "")
    rows = (Path(found.url) / "tables/trials.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["Trial", best.name, f"{1 - best.number:04d}"]
    with pytest.raises(ValueError, match="holds no sweep"):
        write_page(found.url + "/trials")
