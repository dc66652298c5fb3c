"""What a trained model's test scores become with noise on a modality, or without it (the paper's table 3, as curves).

Noise is white and Gaussian, added to every observed value of every stream of the modality, in standard deviations of its column
over the training clips. The paper does not say how strong its noise was, so there is a level for each point of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rrnn.data import ClipSet, Sequences
from rrnn.model import Model, Standardise
from rrnn.predict import predict
from rrnn.run import ModelCard, RunFolder
from rrnn.targets import IntArray, Objective

LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
FILE = "ablation.parquet"


def with_noise(
    sequences: Sequences, deviations: dict[str, npt.NDArray[np.float32]], level: float, seed: tuple[int, ...]
) -> Sequences:
    """The clip's (K, F) arrays, with noise of level * deviation of each column on the streams that deviations (F,) names."""
    noisy = dict(sequences)
    for s in sorted(deviations.keys() & sequences.keys()):
        random = np.random.default_rng([*seed, *s.encode()])
        x = sequences[s]
        noisy[s] = x + np.float32(level) * deviations[s] * random.standard_normal(x.shape, np.float32)
    return noisy


def ablate(
    model: Model,
    card: ModelCard,
    objective: Objective,
    clips: ClipSet,
    indices: IntArray,
    *,
    levels: Sequence[float] = LEVELS,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """Scores of the given clips: for each modality, a row of kind "noise" for each level and repeat, and one of kind "absent"
    (level NaN), in which no clip has it. The noise of a clip is the same for every model."""
    whole = [{s: clips.values(s, i) for s in card.columns if clips.lengths[s][i]} for i in indices]
    modalities: dict[str, list[str]] = {}
    for s, about in card.streams.items():
        modalities.setdefault(about["modality"], []).append(s)

    def score(sequences: list[Sequences]) -> dict[str, float]:
        return objective.score(indices, predict(model, card, sequences))

    clean = score(whole)
    rows = []
    for modality, streams in modalities.items():
        deviations = {s: cast(Standardise, model.standardise[s]).std.numpy() for s in streams}
        for level in levels:
            for repeat in range(repeats if level else 1):
                seeds = [(repeat, *clips.ids[i].encode()) for i in indices]
                noisy = [with_noise(x, deviations, level, seed) for x, seed in zip(whole, seeds, strict=True)]
                rows.append(
                    {
                        "kind": "noise",
                        "modality": modality,
                        "level": level,
                        "repeat": repeat,
                        **(score(noisy) if level else clean),
                    }
                )
        without = [{s: x for s, x in sequences.items() if s not in streams} for sequences in whole]
        rows.append({"kind": "absent", "modality": modality, "level": float("nan"), "repeat": 0, **score(without)})
    return rows


def write_ablation(run: RunFolder, rows: list[dict[str, Any]]) -> None:
    run.write_table(FILE, pa.Table.from_pylist(rows))
