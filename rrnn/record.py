"""What training writes into a run beside the model: how it was made, what it answered, and what it was scored (rrnn.run)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rrnn import metrics
from rrnn.config import Config
from rrnn.data import ClipSet, StoreIndex, read_times
from rrnn.model import Model
from rrnn.predict import apply_link, explain
from rrnn.run import ModelCard, RunFolder, code_version, package_versions
from rrnn.splits import SIDES, Split
from rrnn.targets import IntArray, Objective, Targets

EXAMPLES = 6


def write_config(
    run: RunFolder,
    config: Config,
    store: StoreIndex,
    clips: ClipSet,
    targets: Targets,
    split: Split,
    model: Model,
    command: str | None,
) -> None:
    """config.json: everything that, with the data, makes the run; and who is on which side."""
    sides = {
        side: {
            "clips": len(split.side(side)),
            "speakers": sorted({s for i in split.side(side) if (s := clips.speakers[i]) is not None}),
        }
        for side in SIDES
    }
    run.write_json(
        "config.json",
        {
            **config.to_dict(),
            "command": command,
            "task": targets.task,
            "classes": list(targets.names),
            "streams": list(store.streams.values()),
            "alternatives": store.about_alternatives(),
            "corpus": store.corpus,
            "store": store.url,
            "data_digest": clips.digest(),
            "shards": len(store.shards),
            "code_version": code_version(),
            "packages": package_versions(),
            "split": split.how,
            "splits": sides,
            "parameters": sum(p.numel() for p in model.parameters()),
            "clips": {
                "all": len(clips),
                "unlabelled": int((~targets.labelled).sum()),
                "unusable": int((~clips.usable()).sum()),
            },
        },
    )


def write_results(
    run: RunFolder,
    card: ModelCard,
    store: StoreIndex,
    clips: ClipSet,
    objective: Objective,
    split: Split,
    model: Model,
    outputs: dict[str, npt.NDArray[np.float64]],
    about: dict[str, Any],
) -> None:
    """Predictions, what became of the clips, examples, and the summary, last. outputs: (n, C), of the validation clips,
    and of the test clips where these are open. about: the summary's first keys."""
    targets, baseline = objective.targets, None
    if "test" in outputs:
        from rrnn.baseline import statistics_baseline  # here: scikit-learn takes as long to import as torch

        baseline = statistics_baseline(clips, objective, split)
    rows = []
    for side, of in outputs.items():
        averages = baseline.values if baseline is not None and side == "test" else None
        rows += _prediction_rows(clips, targets, card, side, split.side(side), of, averages)
    run.write_table("predictions.parquet", pa.Table.from_pylist(rows))
    _write_outcomes(run, store, clips)
    scores = {side: objective.score(split.side(side), apply_link(card.link, of)) for side, of in outputs.items()}
    summary = {**about, "valid": scores["valid"], "test": scores.get("test")}
    if "test" in outputs:
        _write_examples(run, card, store, clips, targets, split, model)
        naive = np.tile(objective.constant(split.train), (len(split.test), 1))
        summary |= {
            "naive": objective.score(split.test, apply_link(card.link, naive)),
            "statistics": baseline.figures if baseline is not None else {},
            "human": human_figures(clips, targets, split.test),
        }
    run.write_json("summary.json", summary)


def human_figures(clips: ClipSet, targets: Targets, indices: IntArray) -> dict[str, dict[str, float]]:
    """How well raters did on the given clips, by what they were shown, where the corpus tells; see metrics.human_accuracy."""
    if targets.task != "classification":
        return {}
    truth = [targets.names[targets.values[i]] for i in indices]
    shown = sorted({shown for i in indices for shown in clips.votes[i]})
    return {s: metrics.human_accuracy([clips.votes[i].get(s, {}) for i in indices], truth) for s in shown}


def _prediction_rows(
    clips: ClipSet,
    targets: Targets,
    card: ModelCard,
    side: str,
    indices: IntArray,
    outputs: npt.NDArray[np.float64],
    averages: npt.NDArray[np.float64] | None,
) -> list[dict[str, Any]]:
    """averages: what the linear model of averages answered to the same clips, kept beside, so that the two can be compared clip
    by clip."""
    rows = []
    values = apply_link(card.link, outputs)
    for k, (i, value) in enumerate(zip(indices, values, strict=True)):
        row = {**_about(clips, i), "split": side}
        if targets.task == "classification":
            row |= {"target": clips.emotions[i], "prediction": targets.names[int(value.argmax())]}
            row |= {f"p_{name}": float(v) for name, v in zip(targets.names, value, strict=True)}
        else:
            row |= {f"t_{name}": float(v) for name, v in zip(targets.names, targets.values[i], strict=True)}
            row |= {f"y_{name}": float(v) for name, v in zip(targets.names, value, strict=True)}
        row |= {f"averages_{n}": None if averages is None else float(averages[k, c]) for c, n in enumerate(targets.names)}
        rows.append(row)
    return rows


def _about(clips: ClipSet, i: int) -> dict[str, Any]:
    return {
        "clip_id": clips.ids[i],
        "uri": clips.uris[i],
        "start": clips.starts[i],
        "end": clips.ends[i],
        "speaker": clips.speakers[i],
    }


def _write_outcomes(run: RunFolder, store: StoreIndex, clips: ClipSet) -> None:
    counts, bad = [], []
    for s, about in store.streams.items():
        stream = {"stream": s, "modality": about["modality"]}
        counts += [{**stream, "status": status, "clips": n} for status, n in sorted(Counter(clips.status[s]).items())]
        bad += [
            {"clip_id": clip_id, **stream, "status": status, "reason": reason}
            for clip_id, status, reason in zip(clips.ids, clips.status[s], clips.reasons[s], strict=True)
            if status != "ok" or reason
        ]
    run.write_table("streams.parquet", pa.Table.from_pylist(counts))
    schema = pa.schema([(name, pa.string()) for name in ("clip_id", "stream", "modality", "status", "reason")])
    run.write_table("unusable.parquet", pa.Table.from_pylist(bad, schema))


def _write_examples(
    run: RunFolder,
    card: ModelCard,
    store: StoreIndex,
    clips: ClipSet,
    targets: Targets,
    split: Split,
    model: Model,
) -> None:
    """Attention and gates of the first test clip of each class in turn: chosen by label and name, not by success."""
    by_class: dict[Any, list[int]] = {}
    for i in split.test:
        key = clips.emotions[i] if targets.task == "classification" else int(np.argmax(targets.values[i]))
        by_class.setdefault(key, []).append(int(i))
    turns = [group[k] for k in range(EXAMPLES) for group in by_class.values() if k < len(group)]
    rows = []
    for i in turns[:EXAMPLES]:
        sequence = {s: clips.values(s, i) for s in card.columns}
        found = read_times(store, clips.shards[i], clips.ids[i])
        times = {s: clips.preparation.times(s, of) for s, of in found.items()}
        target = targets.names[targets.values[i]] if targets.task == "classification" else None
        rows += [{**_about(clips, i), "target": target, **row} for row in explain(model, card, sequence, times)]
    run.write_table("examples.parquet", pa.Table.from_pylist(rows))
