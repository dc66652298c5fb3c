"""What is to be predicted, what a wrong answer costs, and what the best constant answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rrnn import metrics
from rrnn.data import ClipSet

IntArray = npt.NDArray[np.int64]
LOSSES = {"classification": ("cross_entropy", "l2"), "regression": ("l2", "l1")}  # of each task; the first is the default


@dataclass(frozen=True)
class Targets:
    """What is to be predicted. values: (n,) int64 classes, or (n, C) float32 intensities. labelled: (n,) bool."""

    task: str
    names: tuple[str, ...]
    values: npt.NDArray[Any]
    labelled: npt.NDArray[np.bool_]


def make_targets(clips: ClipSet) -> Targets:
    """Classes where clips have an emotion, otherwise intensities. Raises ValueError where they have neither."""
    if any(e is not None for e in clips.emotions):
        names = tuple(sorted({e for e in clips.emotions if e is not None}))
        number = {name: i for i, name in enumerate(names)}
        values = np.array([-1 if e is None else number[e] for e in clips.emotions], np.int64)
        if len(names) < 2:
            raise ValueError(f"all clips have the emotion {names[0]!r}: expected two or more classes")
        return Targets("classification", names, values, values >= 0)
    if any(clips.intensities):
        names = tuple(sorted({k for v in clips.intensities for k in v or ()}))
        table = np.array([[(v or {}).get(k, np.nan) for k in names] for v in clips.intensities], np.float32)
        return Targets("regression", names, table, np.asarray(~np.isnan(table).any(1)))
    raise ValueError("no clip has a label: training needs an emotion, or intensities, in the manifest")


@dataclass(frozen=True)
class Objective:
    """What training minimises. loss: cross_entropy, l2 or l1. link: what makes values of outputs (rrnn.predict.apply_link)."""

    targets: Targets
    loss: str
    link: str

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(n,) loss of each clip's outputs (n, C). L1 and L2 are summed over the outputs, as the paper's errors are."""
        if self.loss == "cross_entropy":
            return F.cross_entropy(prediction, target, reduction="none")
        if self.targets.task == "classification":
            target = F.one_hot(target, prediction.shape[-1])
        error = prediction - target.to(prediction.dtype)
        return (error.square() if self.loss == "l2" else error.abs()).sum(-1)

    def mean_loss(self, indices: IntArray, outputs: npt.NDArray[np.float64]) -> float:
        return float(self.losses(torch.from_numpy(outputs), torch.from_numpy(self.targets.values[indices])).mean())

    def constant(self, train: IntArray) -> npt.NDArray[np.float64]:
        """The outputs (C,) that do best for all clips alike, from the training targets alone."""
        values = self.targets.values[train]
        if self.targets.task == "regression":
            return metrics.naive_regression(values, "median" if self.loss == "l1" else "mean")
        shares = metrics.naive_classification(values, len(self.targets.names))
        return np.log(np.maximum(shares, 1e-12)) if self.link == "softmax" else shares

    def score(self, indices: IntArray, values: npt.NDArray[np.float64]) -> dict[str, float]:
        """The figures of some clips' values (n, C), such as rrnn.predict.predict gives."""
        truth = self.targets.values[indices]
        if self.targets.task == "regression":
            return metrics.regression_metrics(truth, values, self.targets.names)
        return metrics.classification_metrics(truth, values)


def make_objective(targets: Targets, loss: str | None) -> Objective:
    """loss: None is the task's default. Raises ValueError for one that the task does not have."""
    chosen = loss or LOSSES[targets.task][0]
    if chosen not in LOSSES[targets.task]:
        raise ValueError(
            f"train.loss is {chosen}, but the clips make a {targets.task}: expected {' or '.join(LOSSES[targets.task])}"
        )
    link = "identity" if targets.task == "regression" else "clip" if chosen == "l2" else "softmax"
    return Objective(targets, chosen, link)
