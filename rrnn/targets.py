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
UNSEEN = 1e-12  # what the baselines take for the probability of a class that no training clip has
LOSSES = {"classification": ("cross_entropy", "l2"), "regression": ("l2", "l1")}  # of each task; the first is the default


@dataclass(frozen=True)
class Targets:
    """What is to be predicted. values: (n,) int64 classes, -1 where a clip has none, or (n, C) float32 intensities. shares:
    (n, C) float32, of sum 1, where clips have soft labels, which training then learns. labelled: (n,) bool, what can be
    trained on; scored: (n,) bool, what can be tested on (raters who are divided name no class)."""

    task: str
    names: tuple[str, ...]
    values: npt.NDArray[Any]
    labelled: npt.NDArray[np.bool_]
    shares: npt.NDArray[np.float32] | None = None

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        return self.labelled if self.task == "regression" else np.asarray(self.values >= 0)

    @property
    def learned(self) -> npt.NDArray[Any]:
        """What the loss compares outputs with."""
        return self.values if self.shares is None else self.shares


def make_targets(clips: ClipSet) -> Targets:
    """Classes where clips have an emotion, otherwise intensities. Raises ValueError where they have neither."""
    if any(e is not None for e in clips.emotions):
        soft = {k for of in clips.shares for k in of or ()}
        names = tuple(sorted({e for e in clips.emotions if e is not None} | soft))
        number = {name: i for i, name in enumerate(names)}
        values = np.array([-1 if e is None else number[e] for e in clips.emotions], np.int64)
        if len(names) < 2:
            raise ValueError(f"all clips have the emotion {names[0]!r}: expected two or more classes")
        if not soft:
            return Targets("classification", names, values, values >= 0)
        shares = np.zeros((len(values), len(names)), np.float32)
        for i, of in enumerate(clips.shares):
            for name, share in (of or ({} if values[i] < 0 else {names[values[i]]: 1.0})).items():
                shares[i, number[name]] = share
        return Targets("classification", names, values, shares.sum(1) > 0, shares)
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

    def spread(self, target: Tensor) -> Tensor:
        """Targets (n, C), of what Targets.learned has of some clips: classes one-hot."""
        if target.ndim > 1:
            return target
        return F.one_hot(target, len(self.targets.names)).float()

    def losses(self, prediction: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """(n,) loss of each clip's outputs (n, C), against what Targets.learned has of them. L1 and L2 are summed over the
        outputs, as the paper's errors are."""
        if self.loss == "cross_entropy":
            return F.cross_entropy(prediction, target, reduction="none", label_smoothing=smoothing)
        if self.targets.task == "classification" and target.ndim == 1:
            target = F.one_hot(target, prediction.shape[-1])
        error = prediction - target.to(prediction.dtype)
        return (error.square() if self.loss == "l2" else error.abs()).sum(-1)

    def mean_loss(self, indices: IntArray, outputs: npt.NDArray[np.float64]) -> float:
        return float(self.losses(torch.from_numpy(outputs), torch.from_numpy(self.targets.learned[indices])).mean())

    def constant(self, train: IntArray) -> npt.NDArray[np.float64]:
        """The outputs (C,) that do best for all clips alike, from the training targets alone."""
        values = self.targets.values[train]
        if self.targets.task == "regression":
            return metrics.naive_regression(values, "median" if self.loss == "l1" else "mean")
        if self.targets.shares is not None:
            shares: npt.NDArray[np.float64] = self.targets.shares[train].mean(0, dtype=np.float64)
        else:
            shares = metrics.naive_classification(values, len(self.targets.names))
        return np.log(np.maximum(shares, UNSEEN)) if self.link == "softmax" else shares

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
