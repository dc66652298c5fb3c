"""What a trained model's test scores become with noise on a modality, or without it (the paper's table 3, as curves).

Noise is white and Gaussian, added to every observed value of every stream of the modality, in standard deviations of its
column over the training clips; none where a column is the same in all the tested clips. The paper does not say how strong its
noise was, so there is a level for each point of a curve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

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


def _varies(clips: Sequence[Sequences], stream: str) -> npt.NDArray[np.bool_]:
    """(F,) whether a column of the stream has more than one value."""
    frames = [x[stream] for x in clips if stream in x]
    x_KF = np.concatenate(frames) if frames else np.zeros((1, 1), np.float32)
    return np.asarray(np.fmax.reduce(x_KF) > np.fmin.reduce(x_KF))


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
        deviations = {s: cast(Standardise, model.standardise[s]).std.numpy() * _varies(whole, s) for s in streams}
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


def write_ablation(run: RunFolder, rows: list[dict[str, Any]], made_by: dict[str, Any]) -> None:
    """made_by: what the rows depend on, such as {"model_id": ..., "levels": ...}; kept in the file's metadata."""
    run.write_table(FILE, pa.Table.from_pylist(rows).replace_schema_metadata({"rrnn": json.dumps(made_by)}))


def read_ablation(run: RunFolder) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The run's rows and what they were made by; none where there is no such file. Raises ValueError for one that can't be
    read."""
    if not run.exists(FILE):
        return [], {}
    try:
        table = pq.ParquetFile(pa.BufferReader(run.read(FILE))).read()
        return table.to_pylist(), json.loads((table.schema.metadata or {})[b"rrnn"])
    except (OSError, ValueError, KeyError) as e:
        raise ValueError(f"run {run.url}: {FILE} can't be read: {e}; delete it, and run jobs.ablate again") from e
