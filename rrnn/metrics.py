"""Scores of a model, the constant predictor that stands beside them, and how sure one can be of either.

NumPy arrays in, plain floats out. All are quick, for intervals ask for them a thousand times. scipy.stats is imported by the
intervals alone: it takes as long as torch, and every training process imports this module.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

WEIGHTED_ACCURACY_THRESHOLD = 0.1  # an emotion is there when its intensity is above this, in truth and in prediction
LEVEL = 0.95  # of all intervals

SMALLEST_PROBABILITY = float(np.finfo(np.float64).tiny)


def classification_metrics(
    target: npt.NDArray[np.integer[Any]], probabilities: npt.NDArray[np.floating[Any]]
) -> dict[str, float]:
    """Accuracy, unweighted average recall ("uar") and cross-entropy (in nats) of probabilities (n, C) for classes (n,).

    The prediction is the most probable class. A true class that was given probability 0 counts as the smallest positive
    double, so that cross-entropy stays finite. Raises ValueError for shapes that don't fit, no clips, or a class
    outside 0..C-1.
    """
    if probabilities.ndim != 2 or target.shape != probabilities.shape[:1]:
        raise ValueError(f"expected target (n,) and probabilities (n, C), found {target.shape} and {probabilities.shape}")
    n_classes = probabilities.shape[1]
    _check_classes(target, n_classes)
    prediction = probabilities.argmax(axis=1)
    of_true_class = probabilities[np.arange(len(target)), target].astype(np.float64)
    return {
        "accuracy": float((prediction == target).mean()),
        "uar": unweighted_average_recall(target, prediction, n_classes),
        "cross_entropy": float(-np.log(np.maximum(of_true_class, SMALLEST_PROBABILITY)).mean()),
    }


def unweighted_average_recall(
    target: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]], n_classes: int
) -> float:
    """Mean of the recalls of the classes that occur in target (n,). A class that is only ever predicted has no recall."""
    return float(np.nanmean(recalls(confusion(target, prediction, n_classes))))


def confusion(
    target: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]], n_classes: int
) -> npt.NDArray[np.int64]:
    """How many clips of each true class (row) were given each class (column): (C, C).

    Raises ValueError for shapes that don't fit, no clips, or a class outside 0..n_classes-1.
    """
    if target.shape != prediction.shape:
        raise ValueError(f"expected as many predictions as targets, found {prediction.shape} and {target.shape}")
    _check_classes(target, n_classes)
    _check_classes(prediction, n_classes)
    return np.bincount(target * n_classes + prediction, minlength=n_classes**2).reshape(n_classes, n_classes)


def recalls(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Recall of each class (C,) from a confusion matrix (C, C); NaN for a class with no clip."""
    clips = matrix.sum(axis=1)
    return np.where(clips > 0, matrix.diagonal() / np.maximum(clips, 1), np.nan)


def regression_metrics(
    target: npt.NDArray[np.floating[Any]], prediction: npt.NDArray[np.floating[Any]], names: Sequence[str]
) -> dict[str, float]:
    """Errors and weighted accuracy of predicted intensities, both arrays (n, C), with a name for each column.

    "mse" and "mae" are means over clips of the error SUMMED over the columns, the scale in which results on CMU-MOSEI are
    published; "mse_<name>" and "mae_<name>" are one column's. "weighted_accuracy_<name>" takes one column as a binary
    problem (intensity above 0.1 or not) and is (TP * N / P + TN) / (2 N), after Tong et al. 2017: the mean of recall and
    specificity. It is undefined where all clips are on one side: NaN, left out of the mean "weighted_accuracy", and counted
    in "weighted_accuracy_undefined". Raises ValueError for shapes that don't fit, or no clips.
    """
    if target.ndim != 2 or target.shape != prediction.shape or target.shape[1] != len(names) or not target.size:
        raise ValueError(
            f"expected target and prediction (n, {len(names)}) with n > 0, found {target.shape} and {prediction.shape}"
        )
    error = prediction.astype(np.float64) - target
    mse, mae = np.square(error).mean(axis=0), np.abs(error).mean(axis=0)
    weighted = [weighted_accuracy(target[:, c], prediction[:, c]) for c in range(len(names))]
    defined = [x for x in weighted if not np.isnan(x)]
    metrics = {
        "mse": float(mse.sum()),
        "mae": float(mae.sum()),
        "weighted_accuracy": float(np.mean(defined)) if defined else float("nan"),
        "weighted_accuracy_undefined": float(len(weighted) - len(defined)),
    }
    for c, name in enumerate(names):
        metrics |= {f"mse_{name}": float(mse[c]), f"mae_{name}": float(mae[c]), f"weighted_accuracy_{name}": weighted[c]}
    return metrics


def weighted_accuracy(target: npt.NDArray[np.floating[Any]], prediction: npt.NDArray[np.floating[Any]]) -> float:
    """Weighted accuracy of one emotion's intensities (n,) at threshold 0.1; NaN where truth is all above or all below it."""
    truth = target > WEIGHTED_ACCURACY_THRESHOLD
    if truth.all() or not truth.any():
        return float("nan")
    answer = prediction > WEIGHTED_ACCURACY_THRESHOLD
    recall, specificity = answer[truth].mean(), 1 - answer[~truth].mean()
    return float(recall + specificity) / 2


def human_accuracy(votes: Sequence[Mapping[str, float]], truth: Sequence[str]) -> dict[str, float]:
    """How well raters named the emotions of some clips. votes: of each clip, how many chose which; truth: its emotion.

    "accuracy" is per response, the share of all votes that name the true emotion; "majority_accuracy" the share of clips whose
    true emotion has more votes than any other (a tie is wrong). "responses" and "clips" count what they are shares of; clips
    without a vote are left out. Both are NaN where there is none.
    """
    rated = [(of, name) for of, name in zip(votes, truth, strict=True) if sum(of.values()) > 0]
    right = [of.get(name, 0) for of, name in rated]
    total = float(sum(sum(of.values()) for of, _ in rated))
    first = [of.get(name, 0) > max([n for other, n in of.items() if other != name], default=0) for of, name in rated]
    return {
        "accuracy": float(sum(right)) / total if total else float("nan"),
        "majority_accuracy": float(np.mean(first)) if rated else float("nan"),
        "responses": total,
        "clips": float(len(rated)),
    }


def naive_classification(train_target: npt.NDArray[np.integer[Any]], n_classes: int) -> npt.NDArray[np.float64]:
    """What a constant predictor answers to every clip: the frequency of each class (C,) in the TRAINING targets (n,)."""
    _check_classes(train_target, n_classes)
    return np.bincount(train_target, minlength=n_classes) / len(train_target)


def naive_regression(train_target: npt.NDArray[np.floating[Any]], best: Literal["mean", "median"]) -> npt.NDArray[np.float64]:
    """What a constant predictor answers to every clip, from the TRAINING targets (n, C): (C,), their mean, which is best by
    squared error, or their median, which is best by absolute error."""
    if train_target.ndim != 2 or not train_target.size:
        raise ValueError(f"expected training targets (n, C) with n > 0, found {train_target.shape}")
    values = train_target.astype(np.float64)
    constant: npt.NDArray[np.float64] = values.mean(axis=0) if best == "mean" else np.median(values, axis=0)
    return constant


def bootstrap_interval(statistic: Callable[[npt.NDArray[np.int64]], float], groups: Sequence[str]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of statistic(indices of clips), as bootstrap_intervals gives it: (low, high)."""
    return bootstrap_intervals(lambda clips: [statistic(clips)], groups)[0]


def bootstrap_intervals(
    statistics: Callable[[npt.NDArray[np.int64]], Sequence[float]], groups: Sequence[str]
) -> list[tuple[float, float]]:
    """95 % percentile bootstrap intervals, (low, high) of each of the K values of statistics(indices of clips), for clips that
    come in groups: one speaker each (n,). All are taken from the same draws, and each is what it would be alone.

    Clips of one speaker are alike, so it is speakers that are drawn with replacement, and all clips of a drawn speaker come
    along. Where there is only one speaker, clips are drawn instead: such an interval says nothing about other speakers, and
    is too narrow for them. (nan, nan) for a single clip, where the statistic is NaN in any repeat, and where it is the same in
    all: equal speakers (such as all perfect ones) show no spread, which is no evidence that there is none.
    Raises ValueError where there are no clips.
    """
    import scipy.stats

    if not len(groups):
        raise ValueError("expected at least one clip, found none")
    _, group_of_clip = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    order = np.argsort(group_of_clip, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group_of_clip[order])) + 1)
    if len(members) == 1:
        members = [np.array([i]) for i in range(len(groups))]
    if len(members) == 1:
        return [(math.nan, math.nan) for _ in statistics(members[0])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # of NaN, which is answered with NaN
        result = scipy.stats.bootstrap(
            (np.arange(len(members)),),
            lambda drawn: np.array(statistics(np.concatenate([members[i] for i in drawn]))),
            vectorized=False,
            n_resamples=1000,
            batch=100,  # bounds memory: by default all repeats are drawn at once
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return [
        (math.nan, math.nan) if math.isclose(low, high) else (float(low), float(high))
        for low, high in zip(*result.confidence_interval, strict=True)
    ]


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """Exact (Clopper-Pearson) 95 % interval of a share of independent trials; no point even where all or none succeed."""
    import scipy.stats

    interval = scipy.stats.binomtest(successes, trials).proportion_ci(LEVEL, method="exact")
    return float(interval.low), float(interval.high)


def _check_classes(classes: npt.NDArray[np.integer[Any]], n_classes: int) -> None:
    if classes.ndim != 1 or not len(classes):
        raise ValueError(f"expected classes (n,) with n > 0, found {classes.shape}")
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(f"expected classes from 0 to {n_classes - 1}, found {classes.min()} to {classes.max()}")
