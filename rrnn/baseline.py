"""The opponent that a model of sequences must beat: a linear model of each clip's averages.

A clip is described by the mean and the deviation over time of every column of its streams. Logistic regression (or, of
intensities, ridge regression) learns from those of the training clips; how strongly it is regularised is chosen on the
validation clips, and it is then fitted once more on both. So it sees what a run sees, and a little more: a run does not train
on its validation clips.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from rrnn.data import ClipSet
from rrnn.splits import SIDES, Split
from rrnn.targets import UNSEEN, IntArray, Objective

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
Doubles = npt.NDArray[np.float64]


def clip_statistics(clips: ClipSet, indices: IntArray) -> Doubles:
    """(n, 2 F) mean and deviation of each column over each clip's observed frames, streams side by side; NaN where a clip has
    none."""
    rows = []
    for i in indices:
        parts = []
        for s in clips.streams:
            x_KF = clips.frames(s, i)
            parts.append(_mean_and_deviation(x_KF) if len(x_KF) else np.full(2 * clips.columns(s), np.nan))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def _mean_and_deviation(x_KF: npt.NDArray[np.float32]) -> Doubles:
    x = x_KF.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column that was never observed: NaN is the answer
        return np.concatenate([np.nanmean(x, 0), np.nanstd(x, 0)])


class _Filled(StandardScaler):  # type: ignore[misc]
    """Standardised, and what is missing is the mean."""

    def transform(self, X: Doubles, copy: bool | None = None) -> Doubles:
        filled: Doubles = np.nan_to_num(super().transform(X, copy))
        return filled


class Baseline(NamedTuple):
    """figures: on the test clips, as Objective.score() has them, and "strength", the inverse of the chosen penalty. values:
    probabilities, or intensities, of the test clips, (n, C)."""

    figures: dict[str, float]
    values: Doubles


def statistics_baseline(clips: ClipSet, objective: Objective, split: Split) -> Baseline | None:
    """The linear model, fitted and tested. None where the training clips are all of one class, or have only soft labels."""
    sides = {name: split.side(name)[objective.targets.scored[split.side(name)]] for name in SIDES}
    target = {name: objective.targets.values[indices] for name, indices in sides.items()}
    if objective.targets.task == "classification" and len(np.unique(target["train"])) < 2:
        return None
    x = {name: clip_statistics(clips, indices) for name, indices in sides.items()}

    def values(fitted: Pipeline, name: str) -> Doubles:
        if objective.targets.task == "regression":
            return np.asarray(fitted.predict(x[name]), np.float64).reshape(len(x[name]), -1)
        found = np.full((len(x[name]), len(objective.targets.names)), UNSEEN)
        found[:, fitted[-1].classes_] = fitted.predict_proba(x[name])
        return found

    def error(strength: float) -> float:
        fitted = _fit(objective.targets.task, strength, x["train"], target["train"])
        score = objective.score(sides["valid"], values(fitted, "valid"))
        return score["mse"] if objective.targets.task == "regression" else score["cross_entropy"]

    best = min(STRENGTHS, key=error)
    both = np.concatenate([x["train"], x["valid"]]), np.concatenate([target["train"], target["valid"]])
    fitted = _fit(objective.targets.task, best, *both)
    answers = values(fitted, "test")
    return Baseline({**objective.score(sides["test"], answers), "strength": best}, answers)


def _fit(task: str, strength: float, x: Doubles, target: npt.NDArray[np.generic]) -> Pipeline:
    model = Ridge(alpha=1 / strength) if task == "regression" else LogisticRegression(C=strength, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column that no clip has
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties need more steps, and do not win
        fitted: Pipeline = make_pipeline(_Filled(), model).fit(x, target)
    return fitted
