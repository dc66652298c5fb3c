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

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
TARGETS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
STREAMS = (("acoustic", "audio", 0.01, 34), ("face", "vision", None, 59), ("words", "text", None, 50))
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
    answers: Sequence[Mapping[str, Any]] | None = None,
    unusable: Sequence[tuple[str, str, str, str | None]] = (),
    examples: int = 0,
    example_frames: Mapping[str, int] | None = None,
    optional_files: bool = True,
    seed: int = 0,
) -> Path:
    """Write a finished run and return its folder.

    answers: rows of predictions.parquet as they are; else made at random, right with a chance that grows with `skill`.
    unusable: (clip_id, stream, status, reason). example_frames: frames a stream in the examples' attention.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    streams = [s for s in STREAMS if s[1] in modalities]
    regression = task == "regression"
    rows = list(answers) if answers is not None else _answers(rng, classes, clips, speakers, skill, regression)
    names = {split: sorted({str(r["speaker"]) for r in rows if r["split"] == split}) for split in ("valid", "test")}
    naive: dict[str, float]
    if regression:
        naive = {"mse": 1.9, "mae": 2.4, "weighted_accuracy": 0.5}
    else:
        naive = {"accuracy": 1 / len(classes), "uar": 1 / len(classes), "cross_entropy": math.log(len(classes))}
    config = {
        "experiment": experiment,
        "task": task,
        "classes": list(classes),
        "model": {"hidden": 128, "hops": 3, "attention": "multiplicative", "gate": "joint", "memory": "mean", "dropout": 0.3},
        "train": {"seed": seed, "epochs": 30, "batch_size": 32, "learning_rate": 0.001, "weight_decay": 0.0001, "patience": 8},
        "streams": [
            {"name": n, "modality": m, "version": "1", "columns": [f"{n}_{i}" for i in range(d)], "frame_shift": shift}
            for n, m, shift, d in streams
        ],
        "corpus": corpus,
        "store": "s3://features/crema-d",
        "data_digest": "9f2c41d07ab35e68",
        "code_version": "0.1.0+g6172966",
        "packages": {"torch": "2.13.0", "ray": "2.60.0", "numpy": "2.4.6"},
        "splits": {
            "train": {"clips": 5 * len(rows), "speakers": [f"{2000 + i}" for i in range(6 * speakers)]},
            "valid": {"clips": sum(r["split"] == "valid" for r in rows), "speakers": names["valid"]},
            "test": {"clips": sum(r["split"] == "test" for r in rows), "speakers": names["test"]},
        },
        "parameters": 1_284_614,
    }
    _json(folder / "config.json", config)
    best = _write_epochs(folder / "metrics.jsonl", rng, regression, skill)
    scores = {"mse": 1.2, "mae": 1.8} if regression else {"accuracy": skill, "uar": skill}
    _json(
        folder / "summary.json",
        {
            "best_epoch": best,
            "epochs": 20,
            "model_id": "rrnn-4be1f07c",
            "seconds": 1874.2,
            "test": {},
            "valid": scores,
            "naive": naive,
            "finished": True,
        },
    )
    _parquet(folder / "predictions.parquet", rows)
    if optional_files:
        modality_of = {n: m for n, m, _, _ in streams}
        schema = pa.schema([(c, pa.string()) for c in ("clip_id", "stream", "modality", "status", "reason")])
        bad = [
            {"clip_id": c, "stream": s, "modality": modality_of[s], "status": status, "reason": reason}
            for c, s, status, reason in unusable
        ]
        pq.write_table(pa.Table.from_pylist(bad, schema), folder / "unusable.parquet")
        total = 6 * len(rows)
        counts = []
        for n, m, _, _ in streams:
            of = {status: sum(b["stream"] == n and b["status"] == status for b in bad) for status in ("absent", "error")}
            counts.append({"stream": n, "modality": m, "status": "ok", "clips": total - sum(of.values())})
            counts += [{"stream": n, "modality": m, "status": k, "clips": v} for k, v in of.items() if v]
        _parquet(folder / "streams.parquet", counts)
        _parquet(
            folder / "examples.parquet", _examples(rng, rows, streams, classes, examples, regression, example_frames or {})
        )
    return folder


def answer(clip_id: str, speaker: str, target: str, probabilities: Mapping[str, float], split: str = "test") -> dict[str, Any]:
    """One row of predictions.parquet, for a classifier."""
    return {
        "clip_id": clip_id,
        "uri": f"s3://clips/{clip_id}.flv",
        "start": None,
        "end": None,
        "speaker": speaker,
        "split": split,
        "target": target,
        "prediction": max(probabilities, key=lambda c: probabilities[c]),
        **{f"p_{c}": p for c, p in probabilities.items()},
    }


def _answers(
    rng: np.random.Generator, classes: Sequence[str], clips: int, speakers: int, skill: float, regression: bool
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for split, n in (("valid", clips // 2), ("test", clips)):
        ease = rng.normal(0, 0.5, speakers)
        for i in range(n):
            speaker = i % speakers
            clip_id, name = f"{split[0]}{i:04d}_{WORDS[i % len(WORDS)]}", f"{1001 + speaker + 50 * (split == 'valid')}"
            if regression:
                truth = np.where(rng.random(len(classes)) < 0.4, rng.integers(1, 10, len(classes)) / 3, 0.0)
                said = skill * truth + (1 - skill) * 0.4 + rng.normal(0, 0.25, len(classes))
                values = {f"t_{c}": float(t) for c, t in zip(classes, truth, strict=True)}
                values |= {f"y_{c}": float(y) for c, y in zip(classes, said, strict=True)}
                head = {"clip_id": clip_id, "uri": f"s3://clips/{clip_id}.flv", "start": 0.0, "end": 6.5, "speaker": name}
                rows.append({**head, "split": split, **values})
                continue
            true = int(rng.integers(len(classes)))
            logits = rng.normal(0, 1, len(classes))
            logits[true] += 3.2 * skill + ease[speaker]
            logits[(true + 2) % len(classes)] += 0.8
            p = np.exp(logits) / np.exp(logits).sum()
            rows.append(answer(clip_id, name, classes[true], dict(zip(classes, p.tolist(), strict=True)), split))
    return rows


def _write_epochs(path: Path, rng: np.random.Generator, regression: bool, skill: float) -> int:
    lines, losses = [], []
    for epoch in range(1, 21):
        fall = math.exp(-epoch / 5)
        valid_loss = 0.9 + 0.9 * fall + 0.0015 * max(0, epoch - 10) ** 2 + float(rng.normal(0, 0.02))
        losses.append(valid_loss)
        line: dict[str, Any] = {"epoch": epoch, "train_loss": 0.5 + 1.3 * fall, "valid_loss": valid_loss}
        metric = skill * (1 - fall) + 0.17 * fall + float(rng.normal(0, 0.01))
        line |= (
            {"valid_mse": 1.9 - metric, "valid_mae": 2.4 - metric}
            if regression
            else {"valid_accuracy": metric, "valid_uar": metric}
        )
        line |= {"learning_rate": 1e-3, "seconds": 41.0, "clips_per_second": 182.0, "best": valid_loss == min(losses)}
        if epoch == 8:  # a run that was stopped in epoch 8 and resumed: its first line no longer counts
            lines.append({**line, "train_loss": 99.0, "valid_loss": 99.0, "best": False})
        lines.append(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return losses.index(min(losses)) + 1


def _examples(
    rng: np.random.Generator,
    rows: Sequence[Mapping[str, Any]],
    streams: Sequence[tuple[str, str, float | None, int]],
    classes: Sequence[str],
    n: int,
    regression: bool,
    example_frames: Mapping[str, int],
) -> list[dict[str, Any]]:
    out = []
    for row in [r for r in rows if r["split"] == "test"][:n]:
        seconds = 3.2
        for name, modality, _, _ in streams:
            frames = example_frames.get(name, {"audio": 320, "vision": 96, "text": len(WORDS)}[modality])
            times = (np.arange(frames) + 0.5) * seconds / frames
            centre = rng.uniform(0.8, 2.4)
            for hop in (1, 2, 3):
                spread = 1.2 / hop
                score = -(((times - centre) / spread) ** 2) + 0.3 * np.sin(times * (9 if modality == "audio" else 4))
                weights = np.exp(score + rng.normal(0, 0.05, frames))
                out.append(
                    {
                        **{k: row[k] for k in ("clip_id", "uri", "start", "end", "speaker")},
                        "target": None if regression else row["target"],
                        "prediction": None if regression else row["prediction"],
                        "stream": name,
                        "modality": modality,
                        "hop": hop,
                        "times": times.tolist(),
                        "weights": (weights / weights.sum()).astype(np.float32).tolist(),
                        "tokens": [WORDS[i % len(WORDS)] for i in range(frames)] if modality == "text" else None,
                        "gate": float(rng.uniform(0.2, 0.9)),
                        "probabilities": None if regression else [float(row[f"p_{c}"]) for c in classes],
                    }
                )
    return out


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
