"""Figures over runs, against numbers worked out by hand, other libraries, and what must hold for any predictions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from rrnn import metrics
from rrnn.predict import apply_link
from rrnn.statistics import (
    Part,
    Pooled,
    apply_temperature,
    brier_score,
    compare,
    complete_seeds,
    concordance,
    estimate,
    expected_calibration_error,
    fit_temperature,
    fold_scores,
    holm,
    pool,
    reliability,
    seed_scores,
    sign_flip_test,
)

NAMES = ["happy", "sad", "fear"]
SURE = {0: (0.9, 0.1), 1: (0.2, 0.8)}  # what a model that answers 0, or 1, says


def part(seed: int, fold: int, clips: Sequence[tuple[str, str, int, int]]) -> Part:
    """clips: (id, speaker, true class, answer)."""
    return Part(
        seed,
        fold,
        [c[0] for c in clips],
        [c[1] for c in clips],
        np.array([c[2] for c in clips]),
        np.array([SURE[c[3]] for c in clips]),
        run=f"run-{seed}-{fold}",
    )


# Speaker a: two clips in fold 0; b and c: one clip each in fold 1. Seed 0 is right on a1, b1, c1; seed 1 on a1, a2, b1, c1.
FOLD_0 = [("a1", "a", 0, 0), ("a2", "a", 1, 0)]
FOLD_1 = [("b1", "b", 0, 0), ("c1", "c", 0, 0)]
BETTER_0 = [("a2", "a", 1, 1), ("a1", "a", 0, 0)]
HAND = [part(0, 1, FOLD_1), part(0, 0, FOLD_0), part(1, 0, BETTER_0), part(1, 1, FOLD_1)]


def test_pooled_scores_by_hand() -> None:
    pooled = pool(HAND)
    assert (pooled.ids, pooled.seeds) == (["a1", "a2", "b1", "c1"], [0, 1])
    np.testing.assert_allclose(seed_scores(pooled, "accuracy"), [3 / 4, 1])
    # class 0: 3 of 3 with both seeds; class 1: 0 of 1, 1 of 1
    np.testing.assert_allclose(seed_scores(pooled, "uar"), [1 / 2, 1])
    np.testing.assert_allclose(fold_scores(pooled, "accuracy"), [(1 / 2 + 1) / 2, 1])
    found = estimate(pooled, "accuracy")
    assert found.value == pytest.approx(7 / 8)
    assert found.sd_seeds == pytest.approx(math.sqrt(2) / 8), "(3/4, 1), divided by n - 1"
    assert found.sd_folds == pytest.approx(math.sqrt(2) / 8)
    # if only a is drawn: the mean over seeds of 1/2 and 1; if only others are, 1
    assert (found.low, found.high) == (pytest.approx(3 / 4), 1)


def test_ensemble_averages_probabilities() -> None:
    ensemble = pool(HAND).ensemble
    # of clip a2, (0.9, 0.1) and (0.2, 0.8): 0.55 for class 0, which is wrong
    np.testing.assert_allclose(ensemble.values[0, 1], [0.55, 0.45])
    assert estimate(ensemble, "accuracy").value == 3 / 4
    assert math.isnan(estimate(ensemble, "accuracy").sd_seeds)


def test_a_clip_that_is_tested_twice_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"clip 'b1' was tested twice with seed 0, in fold 1 \(run-0-1\) and in fold 2 \(run-0-2\)"
    ):
        pool([*HAND, part(0, 2, [("b1", "b", 0, 0)])])
    with pytest.raises(ValueError, match="clip 'a1' was tested twice with seed 0"):
        pool([part(0, 0, FOLD_0), part(0, 0, FOLD_0)])


def test_seeds_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds 0 and 1 tested different clips"):
        pool([part(0, 0, FOLD_0), part(1, 1, FOLD_1)])
    with pytest.raises(ValueError, match="clip 'a1' has another truth with seed 1"):
        pool([part(0, 0, [("a1", "a", 0, 0)]), part(1, 0, [("a1", "a", 1, 0)])])
    with pytest.raises(ValueError, match="another speaker"):
        pool([part(0, 0, [("a1", "a", 0, 0)]), part(1, 0, [("a1", "b", 0, 0)])])
    with pytest.raises(ValueError, match="another fold"):
        pool([part(0, 0, [("a1", "a", 0, 0)]), part(1, 1, [("a1", "a", 0, 0)])])
    with pytest.raises(ValueError, match="at least one run"):
        pool([])


def test_a_seed_that_lacks_a_fold_is_left_out() -> None:
    kept, left_out = complete_seeds([*HAND, part(7, 1, FOLD_1)])
    assert (kept, left_out) == (HAND, [7])
    assert complete_seeds(HAND) == (HAND, [])


def random_pooled(seed: int, *, regression: bool = False, seeds: int = 3, n: int = 40, speakers: int = 6) -> Pooled:
    rng = np.random.default_rng(seed)
    truth: Any = rng.integers(0, 3, n)
    values = rng.dirichlet(np.ones(3), (seeds, n))
    if regression:
        truth = rng.uniform(0, 2, (n, 3)) * (rng.random((n, 3)) < 0.5)
        values = rng.normal(0.2, 0.5, (seeds, n, 3))
    ids = [f"c{i:03d}" for i in range(n)]
    return Pooled(ids, [f"s{i}" for i in rng.integers(0, speakers, n)], np.arange(n) % 4, truth, list(range(seeds)), values)


def mean_over_seeds(pooled: Pooled, key: str, clips: np.ndarray) -> float:
    score = (
        (lambda truth, values: metrics.regression_metrics(truth, values, NAMES))
        if pooled.regression
        else metrics.classification_metrics
    )
    return float(np.mean([score(pooled.truth[clips], values[clips])[key] for values in pooled.values]))


@pytest.mark.parametrize("key", ["accuracy", "uar", "cross_entropy", "mae", "mse", "weighted_accuracy"])
@pytest.mark.parametrize("speakers", [6, 1])
def test_estimates_are_those_of_the_metrics(key: str, speakers: int) -> None:
    """The value and the interval, draw for draw, are what scoring every resample's clips gives."""
    pooled = random_pooled(5, regression=key in ("mae", "mse", "weighted_accuracy"), speakers=speakers)
    found = estimate(pooled, key)
    assert found.value == pytest.approx(mean_over_seeds(pooled, key, np.arange(40)))
    expected = metrics.bootstrap_interval(lambda clips: mean_over_seeds(pooled, key, clips), pooled.speakers)
    assert (found.low, found.high) == pytest.approx(expected)


def test_undefined_emotions_are_left_out_of_weighted_accuracy() -> None:
    pooled = random_pooled(0, regression=True)
    pooled.truth[:, 1] = 0  # nobody is sad
    assert estimate(pooled, "weighted_accuracy").value == pytest.approx(
        mean_over_seeds(pooled, "weighted_accuracy", np.arange(40))
    )
    pooled.truth[:] = 0
    assert math.isnan(estimate(pooled, "weighted_accuracy").value)


def test_more_of_the_same_seed_is_no_more_certain() -> None:
    one = random_pooled(1, seeds=1)
    again = Pooled(one.ids, one.speakers, one.folds, one.truth, [0, 1, 2], np.repeat(one.values, 3, 0))
    assert estimate(again, "accuracy")[:3] == pytest.approx(estimate(one, "accuracy")[:3])
    assert estimate(again, "accuracy").sd_seeds == 0


# --- differences ---


def test_comparison_by_hand() -> None:
    """Three speakers of two clips each. a is right on all; b, with its one seed, on 1 of 2, 1 of 2 and 2 of 2."""
    clips = [(f"{s}{i}", s, 0) for s in "xyz" for i in range(2)]
    wrong = ("x1", "y0")
    a = pool([part(seed, 0, [(*c, 0) for c in clips]) for seed in (0, 1)])
    b = pool([part(0, 0, [(*c, int(c[0] in wrong)) for c in clips])])
    found = compare(a, b, "accuracy")
    assert found.difference == pytest.approx(2 / 6)
    assert (found.clips, found.speakers) == (6, 3)
    # differences 1/2, 1/2, 0: of the 8 ways of giving signs, 4 have a sum as far from 0 as 1
    assert found.p == pytest.approx(4 / 8)
    assert (found.low, found.high) == (0, 1 / 2)
    assert math.isnan(found.error_of_seeds), "b has one seed"
    back = compare(b, a, "accuracy")
    assert (back.difference, back.low, back.high, back.p) == pytest.approx(
        (-found.difference, -found.high, -found.low, found.p)
    )


def test_error_of_seeds_by_hand() -> None:
    """Seeds score 3/4 and 1, a deviation of sqrt(2)/8, in both experiments: the squares of both errors of the mean add up."""
    assert compare(pool(HAND), pool(HAND), "accuracy").error_of_seeds == pytest.approx(
        math.sqrt(2 * (math.sqrt(2) / 8) ** 2 / 2)
    )


def test_comparison_is_on_common_clips() -> None:
    a = pool(HAND)
    b = pool([part(0, 0, FOLD_0), part(0, 3, [("z9", "z", 1, 1)])])
    found = compare(a, b, "accuracy")
    assert (found.clips, found.speakers) == (2, 1)
    assert found.difference == pytest.approx((1 / 2 + 1) / 2 - 1 / 2)
    assert found.p == 1, "one speaker is no evidence"
    with pytest.raises(ValueError, match="no clip in common"):
        compare(a, pool([part(0, 3, [("z9", "z", 1, 1)])]), "accuracy")
    with pytest.raises(ValueError, match="disagree"):
        compare(a, pool([part(0, 0, [("a1", "a", 1, 1)])]), "accuracy")


@pytest.mark.parametrize("key", ["uar", "cross_entropy", "mae", "weighted_accuracy"])
def test_comparison_agrees_with_scoring_each_resample(key: str) -> None:
    regression = key in ("mae", "weighted_accuracy")
    a, b = random_pooled(1, regression=regression), random_pooled(2, regression=regression, seeds=2)
    b = Pooled(a.ids, a.speakers, a.folds, a.truth, b.seeds, b.values)

    def difference(clips: np.ndarray) -> float:
        return mean_over_seeds(a, key, clips) - mean_over_seeds(b, key, clips)

    found = compare(a, b, key)
    assert found.difference == pytest.approx(difference(np.arange(40)))
    assert (found.low, found.high) == pytest.approx(metrics.bootstrap_interval(difference, a.speakers))
    who = np.array(a.speakers)
    assert found.p == pytest.approx(brute_force(np.array([difference(np.flatnonzero(who == s)) for s in np.unique(who)])))


def brute_force(differences: np.ndarray) -> float:
    """Share of all ways of giving signs whose sum is as far from 0 as the found one."""
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=len(differences))]
    return float(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12))


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=8))
@settings(max_examples=50, deadline=None)
def test_sign_flips_are_all_gone_through(differences: list[int]) -> None:
    found = sign_flip_test(np.array(differences, np.float64))
    assert found == pytest.approx(brute_force(np.array(differences)))
    assert found >= 2 / 2 ** len(differences) - 1e-12


def test_sign_flips_of_many_speakers_are_drawn() -> None:
    rng = np.random.default_rng(0)
    assert sign_flip_test(rng.normal(1, 1, 60)) < 0.001
    p = [sign_flip_test(rng.normal(0, 1, 12)) for _ in range(60)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01, "p is even where there is no difference"
    almost = rng.normal(0.4, 1, 15)
    assert sign_flip_test(almost) == pytest.approx(scipy.stats.ttest_1samp(almost, 0).pvalue, abs=0.02)
    assert math.isnan(sign_flip_test(np.array([np.nan])))
    assert sign_flip_test(np.array([0.0, 0, 0])) == 1


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04 times 3, 2, 1; the last is raised to the one before
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.01, math.nan]) == pytest.approx([0.01, math.nan], nan_ok=True)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni(p: list[float]) -> None:
    found = holm(p)
    for raw, corrected in zip(p, found, strict=True):
        assert raw <= corrected <= min(1, len(p) * raw)
    ranked = sorted(zip(p, found, strict=True))
    assert [c for _, c in ranked] == sorted(found), "the order is kept"
    assert found[int(np.argmin(p))] == pytest.approx(min(1, len(p) * min(p)))


# --- intensities ---


def test_concordance_by_hand() -> None:
    # means 1 and 2, variances 2/3 and 2/3, covariance 2/3: (4/3) / (4/3 + 1)
    target = np.array([0.0, 1, 2])
    assert concordance(target, target + 1) == pytest.approx(4 / 7)
    assert concordance(target, -target) == pytest.approx(2 * (-2 / 3) / (4 / 3 + 4))
    assert concordance(target, np.ones(3)) == 0
    assert math.isnan(concordance(np.ones(3), np.ones(3)))


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=3, max_size=20))
def test_concordance_never_exceeds_correlation(pairs: list[tuple[float, float]]) -> None:
    target, prediction = np.array(pairs).T
    if min(target.std(), prediction.std()) < 1e-3:
        return
    found = concordance(target, prediction)
    assert found == pytest.approx(concordance(prediction, target))
    assert abs(found) <= abs(np.corrcoef(target, prediction)[0, 1]) + 1e-9
    assert concordance(target, target) == pytest.approx(1)


# --- calibration ---


def test_calibration_by_hand() -> None:
    """Four clips, two bins. Sure: confidences 0.9 and 0.8, one right. Unsure: 0.6 and 0.6, both right."""
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    target = np.array([0, 0, 1, 0])
    curve = reliability(target, probabilities, bins=2)
    np.testing.assert_allclose(curve.confidence, [0.6, 0.85])
    np.testing.assert_allclose(curve.accuracy, [1, 1 / 2])
    np.testing.assert_array_equal(curve.clips, [2, 2])
    assert expected_calibration_error(target, probabilities, bins=2) == pytest.approx((2 * 0.4 + 2 * 0.35) / 4)
    assert brier_score(target, probabilities) == pytest.approx((2 * 0.16 + 2 * 0.01 + 2 * 0.16 + 2 * 0.64) / 4)


def test_brier_score_is_that_of_scikit_learn() -> None:
    pooled = random_pooled(3)
    expected = sklearn.metrics.brier_score_loss(pooled.truth, pooled.values[0], labels=[0, 1, 2], scale_by_half=False)
    assert brier_score(pooled.truth, pooled.values[0]) == pytest.approx(expected)


def test_reliability_is_that_of_scikit_learn() -> None:
    """Of two classes; scikit-learn's bins are quantiles too. Its probability is of class 1, ours of the answer."""
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0.5, 1, 101), rng.random(101) < 0.7
    curve = reliability(np.where(right, 0, 1), np.stack([confidence, 1 - confidence], 1))
    accuracy, mean = sklearn.calibration.calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(curve.accuracy, accuracy)
    np.testing.assert_allclose(curve.confidence, mean)


@given(st.integers(0, 10_000), st.integers(1, 60), st.booleans())
@settings(deadline=None)
def test_reliability_counts_each_clip_once_in_any_order(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), n)
    if ties:
        probabilities = probabilities[rng.integers(0, max(1, n // 3), n)]
    target = rng.integers(0, 3, n)
    curve = reliability(target, probabilities)
    assert curve.clips.sum() == n
    assert np.average(curve.accuracy, weights=curve.clips) == pytest.approx((probabilities.argmax(1) == target).mean())
    assert (np.diff(curve.confidence) > 0).all()
    if not ties and n >= 10:
        assert curve.clips.max() - curve.clips.min() <= 1, "equal mass"
    order = rng.permutation(n)
    again = reliability(target[order], probabilities[order])
    for a, b in zip(curve, again, strict=True):
        np.testing.assert_allclose(a, b)


def test_temperature_of_log_probabilities_is_that_of_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (20, 5))
    for temperature in (0.3, 1.0, 2.5):
        np.testing.assert_allclose(
            apply_temperature(apply_link("softmax", logits), temperature), apply_link("softmax", logits / temperature)
        )


def test_temperature_mends_what_is_too_sure() -> None:
    """Answers are drawn from the softmax of logits, and the model says the softmax of three times them: temperature 3."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (20_000, 4))
    said, true = apply_link("softmax", 3 * logits), apply_link("softmax", logits)
    target = np.array([rng.choice(4, p=p) for p in true])
    temperature = fit_temperature(target[:10_000], said[:10_000])
    assert temperature == pytest.approx(3, rel=0.05)
    mended = apply_temperature(said[10_000:], temperature)
    assert expected_calibration_error(target[10_000:], said[10_000:]) > 0.15
    assert expected_calibration_error(target[10_000:], mended) < 0.02
    np.testing.assert_array_equal(mended.argmax(1), said[10_000:].argmax(1))
    best = metrics.classification_metrics(target[:10_000], apply_temperature(said[:10_000], temperature))["cross_entropy"]
    for other in (0.9 * temperature, 1.1 * temperature):
        moved = metrics.classification_metrics(target[:10_000], apply_temperature(said[:10_000], other))["cross_entropy"]
        assert moved > best
