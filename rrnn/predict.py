"""From a trained model to answers: values of each class, and what the model attended to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rrnn.data import Sequences, Times, collate, evaluation_batches
from rrnn.model import Model
from rrnn.run import ModelCard

BATCH = 16


def apply_link(link: str, outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values (n, C) of a model's outputs (n, C).

    softmax: logits become probabilities. clip: a classifier that was trained with L2 on one-hot targets estimates the
    probabilities themselves; they are clipped at 0 and made to sum to 1. identity: intensities.
    """
    if link == "softmax":
        exponents = np.exp(outputs - outputs.max(-1, keepdims=True))
        values: npt.NDArray[np.float64] = exponents / exponents.sum(-1, keepdims=True)
        return values
    if link == "clip":
        clipped = np.clip(outputs, 1e-6, None)
        values = clipped / clipped.sum(-1, keepdims=True)
        return values
    if link == "identity":
        return outputs
    raise ValueError(f"unknown link {link!r}: expected softmax, clip or identity")


def predict(model: Model, card: ModelCard, clips: Sequence[Sequences]) -> npt.NDArray[np.float64]:
    """Values (n, C) of clips, in order; clips of similar length are computed side by side. One without any stream gets
    what the model says of nothing."""
    outputs = np.zeros((len(clips), len(card.classes)))
    cost = np.array([sum(len(x) for x in clip.values()) for clip in clips], np.int64)
    with torch.inference_mode():
        for rows in evaluation_batches(cost, BATCH):
            outputs[rows] = model(collate([clips[i] for i in rows], card.columns)).prediction.double().numpy()
    return apply_link(card.link, outputs)


def explain(model: Model, card: ModelCard, clip: Sequences, times: dict[str, Times]) -> list[dict[str, Any]]:
    """What the model attended to in one clip: a row for each stream that the clip has and each hop, with times (seconds),
    weights (sum 1, mean of the heads), tokens, the gate's mean openness for the stream, the share of the memory that the hop
    rewrote (the mean of its update gate), and the clip's prediction and values. No row for an architecture that has no hops.
    """
    model.eval()
    with torch.inference_mode():
        out = model(collate([clip], card.columns), explain=True)
    values = apply_link(card.link, out.prediction.double().numpy())[0]
    rows = []
    for number, hop in enumerate(out.hops, 1):
        for s in model.streams:
            if s in clip and len(clip[s]):
                rows.append(
                    {
                        "prediction": card.classes[int(values.argmax())],
                        "stream": s,
                        "modality": card.streams[s]["modality"],
                        "hop": number,
                        "times": times[s].seconds,
                        "weights": hop.attention[s][0].mean(0)[: len(clip[s])].tolist(),
                        "tokens": times[s].tokens,
                        "gate": float(hop.gates[s][0]),
                        "update": float(hop.update[0]),
                        "probabilities": values.tolist(),
                    }
                )
    return rows
