"""Makes RUN folders as training leaves them, with chosen answers, so that what a report says of them can be checked by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rrnn.metrics import classification_metrics, regression_metrics

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
TARGETS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
STREAMS = {"acoustic": ("audio", 0.01, 34), "face": ("vision", None, 59), "words": ("text", None, 50)}
WORDS = ("I", "would", "like", "a", "new", "alarm", "clock", "very", "much", "today")


def make_run(
    folder: Path,
    *,
    experiment: str | None = "crema-d-rrnn",
    corpus: str = "crema-d",
    task: str = "classification",
    classes: Sequence[str] = CLASSES,
    modalities: Sequence[str] = ("audio", "vision", "text"),
    clips: int = 24,
    speakers: int = 4,
    skill: float = 0.6,
    seed: int = 0,
    fold: int = 0,
    model: Mapping[str, Any] | None = None,
    answers: Sequence[Mapping[str, Any]] | None = None,
    unusable: Sequence[tuple[str, str, str, str | None]] = (),
    examples: int = 0,
    words: int = len(WORDS),
) -> Path:
    """Write a finished run and return its folder.

    answers: rows of predictions.parquet as they are; else made at random, right with a chance that grows with `skill`. Each
    fold has clips and speakers of its own, whose truth is the same for all seeds. model: changes to the configuration.
    unusable: (clip_id, stream, status, reason). examples: how many clips have attention, each with so many words.
    """
    rng = np.random.default_rng([seed, fold])
    folder.mkdir(parents=True)
    streams = {name: about for name, about in STREAMS.items() if about[0] in modalities}
    regression = task == "regression"
    rows = list(answers) if answers is not None else _answers(rng, fold, classes, clips, speakers, skill, regression)
    sides = {side: [r for r in rows if r["split"] == side] for side in ("valid", "test")}
    config = {
        "experiment": experiment,
        "task": task,
        "classes": list(classes),
        "model": {"hidden": 128, "hops": 3, "tied": False, "memory": "mean", "dropout": 0.3, **(model or {})},
        "train": {
            "seed": seed,
            "test_fold": fold,
            "epochs": 30,
            "batch_size": 32,
            "learning_rate": 0.001,
            "weight_decay": 0.0001,
            "patience": 8,
        },
        "streams": [
            {"name": n, "modality": m, "version": "1", "columns": [f"{n}_{i}" for i in range(d)], "frame_shift": shift}
            for n, (m, shift, d) in streams.items()
        ],
        "corpus": corpus,
        "store": "s3://features/crema-d",
        "data_digest": "9f2c41d07ab35e68",
        "code_version": "0.1.0+g6172966",
        "packages": {"torch": "2.13.0", "ray": "2.60.0", "numpy": "2.4.6"},
        "split": "speakers dealt into 5 parts; test: part 0",
        "splits": {
            "train": {"clips": 5 * len(rows), "speakers": [f"{2000 + i}" for i in range(6 * speakers)]},
            **{side: {"clips": len(of), "speakers": sorted({str(r["speaker"]) for r in of})} for side, of in sides.items()},
        },
        "parameters": 1_284_614,
        "clips": {"all": 6 * len(rows) + 3, "unlabelled": 2, "unusable": 1},
    }
    write_json(folder / "config.json", config)
    best = _write_epochs(folder / "metrics.jsonl", rng, regression, skill)
    summary = {
        "best_epoch": best,
        "epochs": 20,
        "model_id": "rrnn-4be1f07c",
        "seconds": 1874.2,
        "test": _score(sides["test"], classes, regression),
        "valid": {"mse": 1.2, "mae": 1.8} if regression else {"accuracy": skill, "uar": skill},
        "naive": {"mse": 1.9, "mae": 2.4, "weighted_accuracy": 0.5}
        if regression
        else {"accuracy": 1 / len(classes), "uar": 1 / len(classes), "cross_entropy": math.log(len(classes))},
    }
    write_json(folder / "summary.json", summary)
    _write_rows(folder / "predictions.parquet", rows)
    bad = [
        {"clip_id": clip_id, "stream": s, "modality": streams[s][0], "status": status, "reason": reason}
        for clip_id, s, status, reason in unusable
    ]
    schema = pa.schema([(c, pa.string()) for c in ("clip_id", "stream", "modality", "status", "reason")])
    pq.write_table(pa.Table.from_pylist(bad, schema), folder / "unusable.parquet")
    counts = []
    for name, (modality, _, _) in streams.items():
        of = {status: sum(b["stream"] == name and b["status"] == status for b in bad) for status in ("absent", "error")}
        of["ok"] = 6 * len(rows) - sum(of.values())
        counts += [{"stream": name, "modality": modality, "status": k, "clips": n} for k, n in of.items() if n]
    _write_rows(folder / "streams.parquet", counts)
    shown = [row for clip in sides["test"][:examples] for row in _attention(rng, clip, streams, classes, regression, words)]
    _write_rows(folder / "examples.parquet", shown)
    return folder


def answer(
    clip_id: str, speaker: str | None, target: str, probabilities: Mapping[str, float], split: str = "test"
) -> dict[str, Any]:
    """One row of predictions.parquet, for a classifier."""
    head = {
        "clip_id": clip_id,
        "uri": f"s3://clips/{clip_id}.flv",
        "start": None,
        "end": None,
        "speaker": speaker,
        "split": split,
    }
    prediction = max(probabilities, key=lambda c: probabilities[c])
    return {**head, "target": target, "prediction": prediction, **{f"p_{c}": p for c, p in probabilities.items()}}


def intensities(
    clip_id: str, speaker: str, classes: Sequence[str], truth: Sequence[float], said: Sequence[float], split: str = "test"
) -> dict[str, Any]:
    """One row of predictions.parquet, for a regression."""
    head = {
        "clip_id": clip_id,
        "uri": f"s3://clips/{clip_id}.flv",
        "start": 0.0,
        "end": 6.5,
        "speaker": speaker,
        "split": split,
    }
    values = {f"t_{c}": float(t) for c, t in zip(classes, truth, strict=True)}
    return {**head, **values, **{f"y_{c}": float(y) for c, y in zip(classes, said, strict=True)}}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def _answers(
    rng: np.random.Generator, fold: int, classes: Sequence[str], clips: int, speakers: int, skill: float, regression: bool
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    truths = np.random.default_rng(fold)
    for split, n in (("valid", clips // 2), ("test", clips)):
        ease = rng.normal(0, 0.5, speakers)
        for i in range(n):
            speaker = i % speakers
            clip_id = f"{split[0]}{fold * n + i:04d}_{WORDS[i % len(WORDS)]}"
            name = f"{1001 + fold * speakers + speaker + 500 * (split == 'valid')}"
            if regression:
                truth = np.where(truths.random(len(classes)) < 0.4, truths.integers(1, 10, len(classes)) / 3, 0.0)
                said = skill * truth + (1 - skill) * 0.4 + rng.normal(0, 0.25, len(classes))
                rows.append(intensities(clip_id, name, classes, truth.tolist(), said.tolist(), split))
                continue
            true = int(truths.integers(len(classes)))
            logits = rng.normal(0, 1, len(classes))
            logits[true] += 3.2 * skill + ease[speaker]
            logits[(true + 2) % len(classes)] += 0.8
            p = np.exp(logits) / np.exp(logits).sum()
            rows.append(answer(clip_id, name, classes[true], dict(zip(classes, p.tolist(), strict=True)), split))
    return rows


def _score(rows: Sequence[Mapping[str, Any]], classes: Sequence[str], regression: bool) -> dict[str, float]:
    def columns(prefix: str) -> np.ndarray:
        return np.array([[r[prefix + c] for c in classes] for r in rows])

    if regression:
        return regression_metrics(columns("t_"), columns("y_"), classes)
    return classification_metrics(np.array([classes.index(r["target"]) for r in rows]), columns("p_"))


def _write_epochs(path: Path, rng: np.random.Generator, regression: bool, skill: float) -> int:
    lines, losses = [], []
    for epoch in range(1, 21):
        fall = math.exp(-epoch / 5)
        losses.append(0.9 + 0.9 * fall + 0.0015 * max(0, epoch - 10) ** 2 + float(rng.normal(0, 0.02)))
        metric = skill * (1 - fall) + 0.17 * fall + float(rng.normal(0, 0.01))
        scores = {"mse": 1.9 - metric, "mae": 2.4 - metric} if regression else {"accuracy": metric, "uar": metric}
        line = {"epoch": epoch, "train_loss": 0.5 + 1.3 * fall, "valid_loss": losses[-1]}
        lines.append({**line, **{f"valid_{k}": v for k, v in scores.items()}, "best": losses[-1] == min(losses)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return losses.index(min(losses)) + 1


def _attention(
    rng: np.random.Generator,
    clip: Mapping[str, Any],
    streams: Mapping[str, tuple[str, float | None, int]],
    classes: Sequence[str],
    regression: bool,
    words: int,
) -> list[dict[str, Any]]:
    """One clip's rows of examples.parquet: 3.2 seconds, three hops that narrow on one moment."""
    values = [float(clip[f"{'y' if regression else 'p'}_{c}"]) for c in classes]
    about = {k: clip[k] for k in ("clip_id", "uri", "start", "end", "speaker")} | {
        "target": clip.get("target"),
        "prediction": classes[int(np.argmax(values))],
        "probabilities": values,
    }
    rows = []
    for name, (modality, _, _) in streams.items():
        frames = {"audio": 320, "vision": 96, "text": words}[modality]
        times = (np.arange(frames) + 0.5) * 3.2 / frames
        centre = rng.uniform(0.8, 2.4)
        for hop in (1, 2, 3):
            weights = np.exp(-(((times - centre) * hop / 1.2) ** 2) + rng.normal(0, 0.05, frames))
            row = {"stream": name, "modality": modality, "hop": hop, "times": times.tolist()}
            row |= {"weights": (weights / weights.sum()).tolist(), "gate": float(rng.uniform(0.2, 0.9))}
            row["tokens"] = [WORDS[i % len(WORDS)] for i in range(frames)] if modality == "text" else None
            rows.append({**about, **row})
    return rows


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
