"""Scores against numbers that can be worked out by hand."""

from __future__ import annotations

import math
import time
from typing import Literal

import numpy as np
import pytest
import sklearn.metrics

from rrnn.metrics import (
    binomial_interval,
    bootstrap_interval,
    bootstrap_intervals,
    classification_metrics,
    confusion,
    human_accuracy,
    naive_classification,
    naive_regression,
    regression_metrics,
    unweighted_average_recall,
    weighted_accuracy,
)

TARGET = np.array([0, 0, 0, 1])
PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.25, 0.5, 0.25], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])  # answers 0, 1, 0, 2


def test_classification_by_hand() -> None:
    metrics = classification_metrics(TARGET, PROBABILITIES)
    assert metrics["accuracy"] == pytest.approx(2 / 4)
    # class 0: 2 of 3; class 1: 0 of 1; class 2 was predicted but never occurs, so it has no say
    assert metrics["uar"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["cross_entropy"] == pytest.approx(-math.log(0.5 * 0.25 * 0.8 * 0.1) / 4)


def test_certain_and_wrong_is_costly_but_finite() -> None:
    assert 700 < classification_metrics(np.array([1]), np.array([[1.0, 0.0]]))["cross_entropy"] < 710


def test_confusion_has_true_classes_in_rows() -> None:
    matrix = confusion(TARGET, PROBABILITIES.argmax(1), 3)
    np.testing.assert_array_equal(matrix, [[2, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_weighted_accuracy_by_hand() -> None:
    truth, prediction = np.array([1.0, 1, 0, 0, 0]), np.array([0.5, 0.05, 0.2, 0, -1])
    # TP 1 of P 2, TN 2 of N 3: (1 * 3 / 2 + 2) / (2 * 3)
    assert weighted_accuracy(truth, prediction) == pytest.approx(3.5 / 6)
    assert weighted_accuracy(truth, prediction) == pytest.approx(0.583333, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 2.0])
def test_weighted_accuracy_of_one_sided_truth_is_undefined(value: float) -> None:
    assert math.isnan(weighted_accuracy(np.full(4, value), np.array([0.0, 1, 0, 1])))


def test_regression_by_hand() -> None:
    target = np.array([[1.0, 0.0], [1, 0], [0, 0], [0, 0], [0, 0]])
    prediction = np.array([[0.5, 1.0], [0.05, 0], [0.2, 0], [0, 0], [-1, 0]])
    metrics = regression_metrics(target, prediction, ["happy", "sad"])
    assert metrics["mae_happy"] == pytest.approx((0.5 + 0.95 + 0.2 + 0 + 1) / 5)
    assert metrics["mse_happy"] == pytest.approx((0.25 + 0.9025 + 0.04 + 0 + 1) / 5)
    assert metrics["mae_sad"] == metrics["mse_sad"] == pytest.approx(0.2)
    assert metrics["mse"] == pytest.approx(metrics["mse_happy"] + metrics["mse_sad"])
    assert metrics["mae"] == pytest.approx(metrics["mae_happy"] + metrics["mae_sad"])
    assert metrics["weighted_accuracy"] == pytest.approx(3.5 / 6), "the mean is over the defined emotion alone"
    assert math.isnan(metrics["weighted_accuracy_sad"])
    assert metrics["weighted_accuracy_undefined"] == 1
    one = regression_metrics(target[:, :1], prediction[:, :1], ["happy"])
    assert (one["mse"], one["mae"]) == (metrics["mse_happy"], metrics["mae_happy"])


def test_human_accuracy_by_hand() -> None:
    votes = [{"sad": 3, "calm": 1}, {"sad": 2, "calm": 2}, {"calm": 1}, {}, {"sad": 0}]
    found = human_accuracy(votes, ["sad", "sad", "sad", "sad", "sad"])
    # 3 of 4, 2 of 4 and 0 of 1 votes are right; of the three clips with votes the first is right, the tie wrong
    assert found == {"accuracy": 5 / 9, "majority_accuracy": 1 / 3, "responses": 9, "clips": 3}
    assert math.isnan(human_accuracy([{}], ["sad"])["accuracy"])


def test_naive_answers() -> None:
    np.testing.assert_allclose(naive_classification(TARGET, 3), [0.75, 0.25, 0])
    np.testing.assert_allclose(naive_regression(np.array([[1.0, 0], [0, 0], [2, 3]]), "mean"), [1, 1])
    np.testing.assert_allclose(naive_regression(np.array([[1.0, 0], [0, 0], [2, 3]]), "median"), [1, 0])


@pytest.mark.parametrize(("best", "error"), [("mean", "mse"), ("median", "mae")])
def test_naive_regression_has_the_least_error_on_its_own_clips(best: Literal["mean", "median"], error: str) -> None:
    rng = np.random.default_rng(0)
    target = rng.gamma(1.0, size=(51, 2))
    naive = np.tile(naive_regression(target, best), (51, 1))
    least = regression_metrics(target, naive, ["a", "b"])[error]
    for step in (-0.01, 0.01):
        assert regression_metrics(target, naive + step, ["a", "b"])[error] > least


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1, found 0 to 2"):
        confusion(np.array([0, 2]), np.array([0, 0]), 2)
    with pytest.raises(ValueError, match=r"\(0,\)"):
        classification_metrics(np.zeros(0, int), np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        regression_metrics(np.zeros((2, 3)), np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(ValueError, match="at least one clip"):
        bootstrap_interval(lambda i: 0.0, [])


def test_bootstrap_of_independent_clips_matches_the_normal_interval() -> None:
    correct = np.arange(400) % 4 == 0  # 25 % right
    low, high = bootstrap_interval(lambda i: float(correct[i].mean()), [str(i) for i in range(400)])
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.01)
    assert high == pytest.approx(0.25 + half, abs=0.01)


def test_bootstrap_draws_speakers_whole() -> None:
    speakers = ["b", "a", "b", "a", "b", "a"]
    right = np.array([s == "a" for s in speakers])
    drawn: list[float] = []

    def accuracy(indices: np.ndarray) -> float:
        drawn.append(float(right[indices].mean()))
        return drawn[-1]

    # two speakers, one all right and one all wrong: a draw is one of aa, ab, ba, bb
    assert bootstrap_interval(accuracy, speakers) == (0.0, 1.0)
    assert set(drawn) == {0.0, 0.5, 1.0}


def test_bootstrap_of_one_speaker_draws_clips_and_of_one_clip_is_undefined() -> None:
    right = np.arange(100) % 2 == 0
    low, high = bootstrap_interval(lambda i: float(right[i].mean()), ["a"] * 100)
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65
    assert all(math.isnan(x) for x in bootstrap_interval(lambda i: float(right[i].mean()), ["a"]))


def test_bootstrap_of_what_never_varies_says_nothing() -> None:
    for value in (1.0, 0.0, math.nan):
        assert all(math.isnan(x) for x in bootstrap_interval(lambda i, value=value: value, list("abcd")))


def test_intervals_from_the_same_draws_are_those_of_each_alone() -> None:
    right = np.arange(90) % 3 == 0
    groups = [f"speaker {i // 15}" for i in range(90)]
    each = [lambda i: float(right[i].mean()), lambda i: math.nan, lambda i: float((i % 7).mean()), lambda i: 1.0]
    together = bootstrap_intervals(lambda i: [f(i) for f in each], groups)
    np.testing.assert_array_equal(together, [bootstrap_interval(f, groups) for f in each])
    assert together[2][0] < 3 < together[2][1]
    np.testing.assert_array_equal(bootstrap_intervals(lambda i: [f(i) for f in each], ["a"]), [(math.nan, math.nan)] * 4)


def test_bootstrap_is_repeatable() -> None:
    right = np.arange(90) % 3 == 0
    groups = [f"speaker {i // 9}-{i % 2}" for i in range(90)]
    first, second = (bootstrap_interval(lambda i: float(right[i].mean()), groups) for _ in range(2))
    assert first == second


def test_binomial_interval() -> None:
    low, high = binomial_interval(24, 24)
    assert (low**24, high) == (pytest.approx(0.025), 1.0), "24 of 24 are right with a chance of 2.5 % at the lower end"
    assert binomial_interval(0, 24) == (0.0, pytest.approx(1 - low))
    # At the ends of the interval of 7 in 10, what was seen or more (or less) has a chance of 2.5 %.
    low, high = binomial_interval(7, 10)
    chance = [math.comb(10, k) * low**k * (1 - low) ** (10 - k) for k in range(7, 11)]
    assert sum(chance) == pytest.approx(0.025)
    chance = [math.comb(10, k) * high**k * (1 - high) ** (10 - k) for k in range(8)]
    assert sum(chance) == pytest.approx(0.025)


def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(5, size=(2, 300))
    np.testing.assert_array_equal(confusion(target, prediction, 5), sklearn.metrics.confusion_matrix(target, prediction))
    recall = sklearn.metrics.recall_score(target, prediction, average="macro")
    assert unweighted_average_recall(target, prediction, 5) == pytest.approx(recall)
    truth, said = rng.random((2, 300)) * 0.3
    balanced = sklearn.metrics.balanced_accuracy_score(truth > 0.1, said > 0.1)
    assert weighted_accuracy(truth, said) == pytest.approx(balanced)


def test_bootstrap_of_a_whole_corpus_is_quick() -> None:
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(6, size=(2, 7442))
    groups = [str(1001 + i % 91) for i in range(7442)]
    start = time.process_time()
    low, high = bootstrap_interval(lambda i: float((target[i] == prediction[i]).mean()), groups)
    assert time.process_time() - start < 2
    assert low < (target == prediction).mean() < high
    start = time.process_time()
    low, high = bootstrap_interval(lambda i: unweighted_average_recall(target[i], prediction[i], 6), groups)
    assert time.process_time() - start < 4
    assert low < 1 / 6 < high
