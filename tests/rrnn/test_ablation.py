from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from stores import make_store, read_clips
from test_train import run_train

from rrnn.ablation import _varies, ablate, read_ablation, with_noise, write_ablation
from rrnn.config import Config, ModelConfig, TrainConfig
from rrnn.data import ClipSet, open_store
from rrnn.model import Model
from rrnn.run import ModelCard, RunFolder, load_model
from rrnn.targets import Objective
from rrnn.train import divide


def test_noise_has_the_level_that_was_asked_for_in_each_columns_own_unit() -> None:
    x = {"a": np.zeros((20_000, 2), np.float32), "b": np.ones((3, 1), np.float32)}
    noisy = with_noise(x, {"a": np.array([1.0, 10.0], np.float32), "c": np.ones(1, np.float32)}, 0.5, (1, 2))
    np.testing.assert_allclose(noisy["a"].std(0), [0.5, 5.0], rtol=0.02)
    np.testing.assert_allclose(noisy["a"].mean(0) / [0.5, 5], 0, atol=0.03)
    assert abs(np.corrcoef(noisy["a"].T)[0, 1]) < 0.03
    assert noisy["b"] is x["b"]
    assert (with_noise(x, {"a": np.ones(2, np.float32)}, 0.5, (1, 2))["a"][:, 0] == noisy["a"][:, 0]).all()
    assert (with_noise(x, {"a": np.ones(2, np.float32)}, 0.5, (1, 3))["a"][:, 0] != noisy["a"][:, 0]).any()


def test_what_was_not_observed_stays_so() -> None:
    x = {"a": np.array([[1.0, np.nan]], np.float32)}
    noisy = with_noise(x, {"a": np.ones(2, np.float32)}, 1.0, (0,))["a"]
    assert np.isnan(noisy[0, 1])
    assert not np.isnan(noisy[0, 0])


Run = tuple[Model, ModelCard, Objective, ClipSet, np.ndarray]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model of stream `a` alone (audio), which tells the class."""
    folder = tmp_path_factory.mktemp("ablation")
    store = open_store(make_store(folder / "store").url, ["a"])
    config = Config(model=ModelConfig(hidden=8, hops=2, dropout=0.1), train=TrainConfig(epochs=30, learning_rate=0.02, folds=4))
    assert run_train(config, store, folder / "run")["test"]["accuracy"] == 1.0
    clips = read_clips(store)
    objective, split = divide(clips, config)
    model, card, _ = load_model(str(folder / "run"))
    return model, card, objective, clips, split.test


def test_scores_fall_to_chance_as_noise_grows_and_are_those_of_a_constant_without_the_modality(run: Run) -> None:
    rows = ablate(*run, levels=(0.0, 1.0, 100.0), repeats=3)
    noise = {level: [r["accuracy"] for r in rows if r["level"] == level] for level in (0.0, 1.0, 100.0)}
    assert noise[0.0] == [1.0]
    assert 1.0 >= np.mean(noise[1.0]) > np.mean(noise[100.0])
    assert np.mean(noise[100.0]) == pytest.approx(1 / 3, abs=0.2)
    (absent,) = (r for r in rows if r["kind"] == "absent")
    assert math.isnan(absent["level"])
    assert absent["uar"] == pytest.approx(1 / 3)
    assert {r["modality"] for r in rows} == {"audio"}


def test_the_same_noise_every_time(run: Run) -> None:
    assert ablate(*run, levels=(1.0,), repeats=1)[0] == ablate(*run, levels=(0.5, 1.0), repeats=1)[1]


def test_a_column_that_never_changes_gets_no_noise() -> None:
    assert _varies([{"a": np.array([[1.0, 2.0], [1.0, 3.0]])}, {"b": np.zeros((1, 1))}], "a").tolist() == [False, True]
    assert _varies([{"a": np.array([[np.nan, 2.0], [1.0, np.nan]])}], "a").tolist() == [False, False]


def test_curves_are_kept_with_what_made_them(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert read_ablation(folder) == ([], {})
    rows = [{"kind": "noise", "level": 1.0, "accuracy": 0.5}]
    write_ablation(folder, rows, {"model_id": "m", "levels": [1.0]})
    assert read_ablation(folder) == (rows, {"model_id": "m", "levels": [1.0]})
    (tmp_path / "ablation.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"ablation\.parquet can't be read.*run jobs\.ablate again"):
        read_ablation(folder)
