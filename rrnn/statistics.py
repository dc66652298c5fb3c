"""What many runs say together: scores over folds and seeds, how sure they are, differences between experiments, calibration.

NumPy arrays in, plain values out; nothing is read or written. Axes: S seeds, n clips, C classes (or intensities), K sums.

An experiment is run with several seeds, and with each seed once a fold, so that one seed's folds together test each clip
once. A score is therefore worked out over all of a seed's test clips, and averaged over seeds; folds are not averaged, since
a measure such as the unweighted average recall means little on few clips. Two kinds of chance are kept apart: which speakers
were tested (the interval), and which seed was drawn (the deviation over seeds).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats

from rrnn import metrics

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BINS = 10  # of a reliability curve
EXACT_SIGNS = 1 << 14  # up to so many ways of flipping signs, a test goes through all of them; above, it draws so many
TEMPERATURES = (0.05, 20.0)


# --- folds and seeds --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What one run answered to its test clips. truth: classes (n,), or intensities (n, C). values: probabilities, or predicted
    intensities, (n, C). run: what it is called in an error."""

    seed: int
    fold: int
    ids: Sequence[str]
    speakers: Sequence[str]
    truth: npt.NDArray[Any]
    values: Array
    run: str = ""


@dataclass(frozen=True)
class Pooled:
    """One experiment's test clips, all folds together, in the order of their ids, each answered once by every seed.

    ids, speakers: (n,). folds: (n,). truth: classes (n,), or intensities (n, C). values: (S, n, C).
    """

    ids: list[str]
    speakers: list[str]
    folds: IntArray
    truth: npt.NDArray[Any]
    seeds: list[int]
    values: Array

    @property
    def regression(self) -> bool:
        return self.truth.ndim == 2

    @property
    def ensemble(self) -> Pooled:
        """The same clips, answered by the mean over seeds of the probabilities (or intensities)."""
        return Pooled(self.ids, self.speakers, self.folds, self.truth, [-1], self.values.mean(0, keepdims=True))

    def take(self, clips: npt.NDArray[Any]) -> Pooled:
        """Some of the clips, by index or mask."""
        where = np.arange(len(self.ids))[clips]
        chosen = [self.ids[i] for i in where], [self.speakers[i] for i in where]
        return Pooled(*chosen, self.folds[where], self.truth[where], self.seeds, self.values[:, where])


def complete_seeds(parts: Sequence[Part]) -> tuple[list[Part], list[int]]:
    """The parts of those seeds that tested the most clips, the same ones; and the seeds that are left out, such as one that
    some folds are still missing of."""
    tested: dict[int, set[str]] = defaultdict(set)
    for part in parts:
        tested[part.seed] |= set(part.ids)
    most = max((tested[seed] for seed in sorted(tested)), key=len)
    left_out = [seed for seed in sorted(tested) if tested[seed] != most]
    return [p for p in parts if p.seed not in left_out], left_out


def pool(parts: Sequence[Part]) -> Pooled:
    """Join an experiment's runs. Raises ValueError where a clip was tested twice with one seed (the folds overlap), where seeds
    tested different clips, or where they disagree on a clip's truth, speaker or fold."""
    if not parts:
        raise ValueError("expected at least one run, found none")
    by_seed: dict[int, dict[str, tuple[Part, int]]] = defaultdict(dict)
    for part in parts:
        for row, clip_id in enumerate(part.ids):
            if clip_id in by_seed[part.seed]:
                other, _ = by_seed[part.seed][clip_id]
                raise ValueError(
                    f"clip {clip_id!r} was tested twice with seed {part.seed}, in fold {other.fold}{_of(other)} and in fold "
                    f"{part.fold}{_of(part)}: expected folds without a clip in common, and one run of each"
                )
            by_seed[part.seed][clip_id] = (part, row)
    seeds = sorted(by_seed)
    ids = sorted(by_seed[seeds[0]])
    for seed in seeds[1:]:
        if different := by_seed[seed].keys() ^ set(ids):
            raise ValueError(
                f"seeds {seeds[0]} and {seed} tested different clips ({len(different)} are of one alone, such as "
                f"{min(different)!r}): expected every seed to test the same clips"
            )
    places = [[by_seed[seed][clip_id] for clip_id in ids] for seed in seeds]
    first = places[0]
    for seed, of_seed in zip(seeds, places, strict=True):
        for clip_id, (a, i), (b, j) in zip(ids, first, of_seed, strict=True):
            same_truth = np.array_equal(a.truth[i], b.truth[j])
            if not same_truth or (a.fold, a.speakers[i]) != (b.fold, b.speakers[j]):
                what = "truth" if not same_truth else "fold" if a.fold != b.fold else "speaker"
                raise ValueError(f"clip {clip_id!r} has another {what} with seed {seed} than with seed {seeds[0]}")
    return Pooled(
        ids,
        [part.speakers[row] for part, row in first],
        np.array([part.fold for part, _ in first], np.int64),
        np.stack([part.truth[row] for part, row in first]),
        seeds,
        np.stack([np.stack([part.values[row] for part, row in of_seed]) for of_seed in places]).astype(np.float64),
    )


def _of(part: Part) -> str:
    return f" ({part.run})" if part.run else ""


# --- scores -----------------------------------------------------------------------------------------------------------

# All measures are functions of sums over clips. So a resample of speakers only adds up a row a speaker, which is a hundred
# times as quick as scoring its clips, and thousands of resamples for tens of experiments take seconds.


def _sums(pooled: Pooled) -> Array:
    """(S, n, K) what each clip adds to the sums that _measure reads."""
    values, truth = pooled.values, pooled.truth
    ones = np.ones((*values.shape[:2], 1))
    if pooled.regression:
        error = values - truth
        there, said = truth > metrics.WEIGHTED_ACCURACY_THRESHOLD, values > metrics.WEIGHTED_ACCURACY_THRESHOLD
        there = np.broadcast_to(there, said.shape)
        totals = np.abs(error).sum(-1, keepdims=True), np.square(error).sum(-1, keepdims=True)
        return np.concatenate([ones, *totals, there, there & said, ~there, ~there & ~said], -1)
    right = (values.argmax(-1) == truth)[..., None]
    of_true_class = np.take_along_axis(values, truth[None, :, None], -1)
    one_hot = np.broadcast_to(np.eye(values.shape[-1])[truth], values.shape)
    return np.concatenate(
        [ones, right, -np.log(np.maximum(of_true_class, metrics.SMALLEST_PROBABILITY)), one_hot, one_hot * right], -1
    )


def _measure(key: str, sums: Array) -> Array:
    """The measure (...) of sums (..., K), as rrnn.metrics defines it; NaN where it is undefined."""
    n, counts = sums[..., 0], sums[..., 3:]
    with np.errstate(divide="ignore", invalid="ignore"):
        if key in ("accuracy", "mae"):
            return np.asarray(sums[..., 1] / n)
        if key in ("cross_entropy", "mse"):
            return np.asarray(sums[..., 2] / n)
        if key == "uar":
            clips, right = np.split(counts, 2, -1)
            shares = right / clips
        elif key == "weighted_accuracy":
            there, right_there, not_there, right_not = np.split(counts, 4, -1)
            shares = (right_there / there + right_not / not_there) / 2
        else:
            raise ValueError(
                f"unknown measure {key!r}: expected one of accuracy, uar, cross_entropy, mae, mse, weighted_accuracy"
            )
        defined = ~np.isnan(shares)
        return np.asarray(np.where(defined, shares, 0).sum(-1) / defined.sum(-1))


def _interval(statistic: Callable[[Array], float], sums: Array, speakers: Sequence[str]) -> tuple[float, float]:
    """metrics.bootstrap_interval of statistic(sums (..., K)), of sums (..., n, K) over drawn speakers, or over clips where
    there is only one speaker."""
    names, speaker = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    if len(names) == 1:
        return metrics.bootstrap_interval(lambda drawn: statistic(sums[..., drawn, :].sum(-2)), speakers)
    totals = _by_speaker(sums, speaker, len(names))
    return metrics.bootstrap_interval(lambda drawn: statistic(totals[..., drawn, :].sum(-2)), names.tolist())


def _by_speaker(sums: Array, speaker: IntArray, n: int) -> Array:
    """(..., G, K) totals of each speaker, of sums (..., n, K)."""
    moved = np.moveaxis(sums, -2, 0)
    totals = np.zeros((n, *moved.shape[1:]))
    np.add.at(totals, speaker, moved)
    return np.moveaxis(totals, 0, -2)


class Estimate(NamedTuple):
    """A score of one experiment: the mean over seeds, with its 95 % interval over speakers (NaN where there is none), the
    standard deviation over seeds, and over folds of their means over seeds (NaN where there is one)."""

    value: float
    low: float
    high: float
    sd_seeds: float
    sd_folds: float


def seed_scores(pooled: Pooled, key: str) -> Array:
    """(S,) the measure of each seed over all of its test clips."""
    return _measure(key, _sums(pooled).sum(1))


def fold_scores(pooled: Pooled, key: str) -> Array:
    """(F,) the mean over seeds of the measure on each fold, in the order of the folds' numbers."""
    return np.array([seed_scores(pooled.take(pooled.folds == fold), key).mean() for fold in np.unique(pooled.folds)])


def estimate(pooled: Pooled, key: str) -> Estimate:
    """The mean over seeds of a measure. In the interval, speakers are drawn jointly for all seeds: they answered to the same
    people, so that an unusual draw is unusual for all of them, and more seeds don't make it narrower than people differ."""
    sums = _sums(pooled)
    scores = _measure(key, sums.sum(1))
    low, high = _interval(lambda of: float(_measure(key, of).mean()), sums, pooled.speakers)
    return Estimate(float(scores.mean()), low, high, deviation(scores), deviation(fold_scores(pooled, key)))


def deviation(values: Array) -> float:
    """The sample standard deviation (n - 1); NaN of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


# --- differences between experiments ----------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Experiment a minus experiment b on the clips that both tested: difference of the means over seeds with its 95 % interval
    over speakers, p of the paired test, and on how many clips and speakers. Both take the seeds as given. error_of_seeds: the
    standard error that seeds add, NaN where one of the two has a single seed."""

    difference: float
    low: float
    high: float
    p: float
    error_of_seeds: float
    clips: int
    speakers: int


def compare(a: Pooled, b: Pooled, key: str) -> Comparison:
    """Compare two experiments, by speaker. The test is sign_flip_test on each speaker's difference, averaged over seeds: a
    speaker counts the same whatever the number of clips, and one for whom the measure is undefined is left out of the test.

    Raises ValueError where they have no clip in common, or disagree on a clip's truth or speaker.
    """
    common = set(a.ids) & set(b.ids)
    if not common:
        raise ValueError("the two experiments tested no clip in common")
    a, b = (x.take(np.array([clip_id in common for clip_id in x.ids])) for x in (a, b))
    if a.speakers != b.speakers or not np.array_equal(a.truth, b.truth):
        raise ValueError("the two experiments disagree on the truth or the speaker of a clip that both tested")
    sums = np.concatenate([_sums(a), _sums(b)])

    def difference(of: Array) -> Array:
        scores = _measure(key, of)
        return np.asarray(scores[: len(a.seeds)].mean(0) - scores[len(a.seeds) :].mean(0))

    names, speaker = np.unique(np.asarray(a.speakers, dtype=str), return_inverse=True)
    each = difference(_by_speaker(sums, speaker, len(names)))
    low, high = _interval(lambda of: float(difference(of)), sums, a.speakers)
    scores = _measure(key, sums.sum(1))
    error = math.hypot(*(deviation(s) / math.sqrt(len(s)) for s in (scores[: len(a.seeds)], scores[len(a.seeds) :])))
    return Comparison(float(difference(sums.sum(1))), low, high, sign_flip_test(each), error, len(a.ids), len(names))


def sign_flip_test(differences: Array) -> float:
    """Two-sided p of paired differences (G,), one a speaker, against their signs being a matter of chance; NaN are left out.

    Assumes that speakers are independent of each other and, under the hypothesis that the two experiments are equally good,
    that a speaker's difference is as likely to have the other sign: no shape of its distribution, no number of clips. Exact
    where all 2^G ways of giving signs can be gone through (G up to 14), and from as many random ways above. p can't be
    below 2 / 2^G: with 5 speakers, no difference reaches 5 %. NaN where there is no difference to test.
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return float("nan")
    if len(known) == 1 or not known.any():
        return 1.0
    result = scipy.stats.permutation_test(
        (known,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=EXACT_SIGNS,
        batch=1024,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p values of one family of comparisons, corrected (Holm 1979) so that the chance of even one false alarm among them stays
    below the level, whatever their dependence. NaN stay NaN and don't count."""
    values = np.array(p, np.float64)
    corrected = np.full(len(values), np.nan)
    order = [i for i in np.argsort(values, kind="stable") if not math.isnan(values[i])]
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * values[i]))
        corrected[i] = highest
    return [float(x) for x in corrected]


# --- intensities ------------------------------------------------------------------------------------------------------


def concordance(target: Array, prediction: Array) -> float:
    """Concordance correlation coefficient of one emotion's intensities (n,): 2 cov / (var + var + (difference of means)^2),
    with moments divided by n (Lin 1989). 1 where they agree; NaN where both are one constant."""
    if target.ndim != 1 or target.shape != prediction.shape or not len(target):
        raise ValueError(f"expected target and prediction (n,) with n > 0, found {target.shape} and {prediction.shape}")
    means = target.mean(), prediction.mean()
    covariance = ((target - means[0]) * (prediction - means[1])).mean()
    spread = target.var() + prediction.var() + (means[0] - means[1]) ** 2
    return float(2 * covariance / spread) if spread > 0 else float("nan")


# --- calibration ------------------------------------------------------------------------------------------------------


class Reliability(NamedTuple):
    """Of clips in bins of rising confidence: mean confidence, accuracy, and number of clips of each, (B,)."""

    confidence: Array
    accuracy: Array
    clips: IntArray


def reliability(target: IntArray, probabilities: Array, bins: int = BINS) -> Reliability:
    """How often the answer is right, by how probable the model called it. target: (n,); probabilities: (n, C).

    Bins have equal mass: their edges are quantiles of the confidence, which is the largest probability of a clip. Clips of
    the same confidence stay together, so that bins may be fewer, and the order of clips plays no part.
    """
    confidence = probabilities.max(1)
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    number = np.searchsorted(edges, confidence, side="left")
    _, number, clips = np.unique(number, return_inverse=True, return_counts=True)
    right = (probabilities.argmax(1) == target).astype(np.float64)
    return Reliability(np.bincount(number, confidence) / clips, np.bincount(number, right) / clips, clips)


def expected_calibration_error(target: IntArray, probabilities: Array, bins: int = BINS) -> float:
    """The mean over clips of |accuracy - confidence| of each clip's bin of reliability(). Above 0 by chance alone even for a
    calibrated model, and the more so the fewer clips there are."""
    curve = reliability(target, probabilities, bins)
    return float(np.average(np.abs(curve.accuracy - curve.confidence), weights=curve.clips))


def brier_score(target: IntArray, probabilities: Array) -> float:
    """Mean over clips of the squared error summed over classes, from 0 to 2 (Brier 1950)."""
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[target]).sum(1).mean())


def apply_temperature(probabilities: Array, temperature: float) -> Array:
    """Softmax of log-probabilities (..., C) over a temperature. Of a model that ends in a softmax this is the softmax of its
    logits over the temperature: log-probabilities are logits less a number that all classes of a clip share."""
    logits = np.log(np.maximum(probabilities, metrics.SMALLEST_PROBABILITY)) / temperature
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(-1, keepdims=True))


def fit_temperature(target: IntArray, probabilities: Array) -> float:
    """The temperature between 0.05 and 20 of least cross-entropy on clips that were NOT tested on. target: (n,) classes;
    probabilities: (n, C). Above 1, the model is surer than it should be."""

    def cross_entropy(log_temperature: float) -> float:
        found = apply_temperature(probabilities, math.exp(log_temperature))
        return metrics.classification_metrics(target, found)["cross_entropy"]

    low, high = map(math.log, TEMPERATURES)
    found = scipy.optimize.minimize_scalar(cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)
