"""The linear model of averages: what it is given, and that it is a fair opponent."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from stores import make_store, read_clips

from rrnn.baseline import clip_statistics, statistics_baseline
from rrnn.config import Config, TrainConfig
from rrnn.data import ClipSet
from rrnn.splits import Split
from rrnn.targets import Objective
from rrnn.train import divide


def test_statistics_by_hand(tmp_path: Path) -> None:
    clips = read_clips(make_store(tmp_path))
    whole, lacking = 0, 2  # the second has no stream `w`
    got = clip_statistics(clips, np.array([whole, lacking]))
    assert got.shape == (2, 2 * (3 + 2))
    a, w = clips.values("a", whole).astype(np.float64), clips.values("w", whole).astype(np.float64)
    np.testing.assert_allclose(got[0], [*a.mean(0), *a.std(0), *w.mean(0), *w.std(0)])
    assert np.isnan(got[1, 6:]).all()
    assert np.isfinite(got[1, :6]).all()


def figures(clips: ClipSet, objective: Objective, split: Split) -> dict[str, float]:
    """What is scored is what is kept of each clip."""
    found = statistics_baseline(clips, objective, split)
    assert found is not None
    for key, value in objective.score(split.test, found.values).items():
        np.testing.assert_equal(found.figures[key], value)
    return found.figures


def test_what_averages_tell_it_learns_without_the_test_clips(tmp_path: Path) -> None:
    clips = read_clips(make_store(tmp_path))  # the class is what stream `a` holds on average
    config = Config(train=TrainConfig(folds=4))
    objective, split = divide(clips, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = figures(clips, objective, split)
    assert found["accuracy"] == 1
    assert found["strength"] in (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    test_set = set(split.test.tolist())
    for i in test_set:  # other answers on the test clips change what is scored, and nothing of what was learned
        objective.targets.values[i] = (objective.targets.values[i] + 1) % 3
    assert figures(clips, objective, split)["accuracy"] == 0


def test_intensities_and_single_classes(tmp_path: Path) -> None:
    clips = read_clips(make_store(tmp_path / "r", regression=True))
    objective, split = divide(clips, Config(train=TrainConfig(folds=4)))
    found = figures(clips, objective, split)
    naive = objective.score(split.test, np.tile(objective.constant(split.train), (len(split.test), 1)))
    assert found["mse"] < 0.5 * naive["mse"]
    clips = read_clips(make_store(tmp_path / "c"))
    objective, split = divide(clips, Config(train=TrainConfig(folds=4)))
    objective.targets.values[split.train] = 1
    assert statistics_baseline(clips, objective, split) is None


def test_columns_that_are_never_observed_do_no_harm(tmp_path: Path) -> None:
    clips = read_clips(make_store(tmp_path))
    objective, split = divide(clips, Config(train=TrainConfig(folds=4)))
    extracted = clips.extracted

    def with_hole(stream: str, i: int) -> np.ndarray:
        x = extracted(stream, i).copy()
        if stream == "a" and len(x):
            x[:, 1] = np.nan
        return x

    clips.extracted = with_hole  # type: ignore[method-assign]
    assert figures(clips, objective, split)["accuracy"] == 1


def test_a_class_that_only_the_test_clips_have_costs_as_much_as_the_naive_answer_of_it(tmp_path: Path) -> None:
    clips = read_clips(make_store(tmp_path))
    config = Config(train=TrainConfig(folds=4))
    _, split = divide(clips, config)
    for i in split.test:
        clips.emotions[i] = "unheard"
    objective, split = divide(clips, config)
    naive = np.exp(np.tile(objective.constant(split.train), (len(split.test), 1)))
    found, expected = figures(clips, objective, split), objective.score(split.test, naive)
    assert found["accuracy"] == 0
    np.testing.assert_allclose(found["cross_entropy"], expected["cross_entropy"])
