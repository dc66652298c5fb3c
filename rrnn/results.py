"""What finished runs say: their folders read, their predictions on the test clips scored, their examples' attention."""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from rrnn import metrics
from rrnn.ablation import read_ablation
from rrnn.run import RunFolder

Array = npt.NDArray[np.float64]

MODALITY_ORDER = ("audio", "vision", "text")


def modality_rank(modality: str) -> tuple[int, str]:
    """Sorts audio, vision, text, then any others."""
    return (MODALITY_ORDER.index(modality) if modality in MODALITY_ORDER else len(MODALITY_ORDER), modality)


def in_modality_order(modalities: Iterable[str]) -> list[str]:
    """Each modality once."""
    return sorted(set(modalities), key=modality_rank)


@dataclass(frozen=True)
class Measure:
    """How a score is named and shown: key is its name in summary.json, kind is "percent" (a share) or "number"."""

    key: str
    name: str
    kind: str
    meaning: str

    @property
    def scale(self) -> float:
        return 100 if self.kind == "percent" else 1

    @property
    def axis(self) -> str:
        return f"{self.name}, %" if self.kind == "percent" else self.name


# Of each task; the first leads, and picks among runs on the validation clips.
CLASSIFICATION = (
    Measure("accuracy", "Accuracy", "percent", "share of clips whose emotion was named"),
    Measure("uar", "UAR", "percent", "unweighted average recall: each emotion counts the same"),
    Measure("cross_entropy", "Cross-entropy", "number", "in nats; lower is better"),
)
REGRESSION = (
    Measure("mae", "MAE", "number", "absolute error summed over the emotions; lower is better"),
    Measure("mse", "MSE", "number", "squared error summed over the emotions; lower is better"),
    Measure("weighted_accuracy", "Weighted accuracy", "percent", "emotion there or not, mean over the emotions"),
)


class Score(NamedTuple):
    """A score on the test clips with its 95 % interval. interval says what that is over; "" where there is none (NaN)."""

    value: float
    low: float
    high: float
    interval: str


RESAMPLED_SPEAKERS, RESAMPLED_CLIPS, EXACT = "resampled speakers", "resampled clips", "exact binomial over clips"


@dataclass(frozen=True)
class Run:
    """One RUN folder. clips, valid: the rows of predictions.parquet whose split is "test", and "valid"; those between: its
    other Parquet files' rows, and none of ablation.parquet, which jobs.ablate makes, where there is no such file.

    slug is unique among the runs of one report and safe in file names; label is for people.
    """

    label: str
    slug: str
    url: str
    config: dict[str, Any]
    summary: dict[str, Any]
    epochs: list[dict[str, Any]]
    clips: list[dict[str, Any]]
    streams: list[dict[str, Any]]
    unusable: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    ablation: list[dict[str, Any]]
    valid: list[dict[str, Any]]

    @property
    def regression(self) -> bool:
        return bool(self.config["task"] == "regression")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return REGRESSION if self.regression else CLASSIFICATION

    @property
    def classes(self) -> list[str]:
        return [str(c) for c in self.config["classes"]]

    @property
    def modalities(self) -> list[str]:
        return in_modality_order(s["modality"] for s in self.config["streams"])

    @cached_property
    def values(self) -> Array:
        """Probabilities, or predicted intensities, of the test clips, (n, C)."""
        return self._columns("y_" if self.regression else "p_")

    @cached_property
    def truth(self) -> npt.NDArray[Any]:
        """Index of each test clip's true class, (n,), or its true intensities, (n, C)."""
        if self.regression:
            return self._columns("t_")
        return np.array([self.classes.index(c["target"]) for c in self.clips])

    @cached_property
    def averages(self) -> Array | None:
        """What the linear model of averages answered to the test clips, (n, C); None where there was none."""
        if any(c.get(f"averages_{name}") is None for c in self.clips for name in self.classes):
            return None
        return self._columns("averages_")

    def _columns(self, prefix: str) -> Array:
        columns = np.array([[c[prefix + name] for name in self.classes] for c in self.clips], dtype=np.float64)
        for clip, row in zip(self.clips, columns, strict=True):
            if not np.isfinite(row).all():
                raise ValueError(f"run {self.url}: predictions.parquet: {prefix}* of clip {clip['clip_id']} are not all finite")
        return columns

    @cached_property
    def speakers(self) -> list[str]:
        """The speaker of each test clip; a clip of an unknown speaker counts as a speaker of its own."""
        return [f"(unknown: {c['clip_id']})" if c["speaker"] is None else str(c["speaker"]) for c in self.clips]

    @property
    def n_speakers(self) -> int:
        return len(set(self.speakers))

    @property
    def n_nameless(self) -> int:
        return sum(c["speaker"] is None for c in self.clips)

    @property
    def n_trained_on(self) -> int:
        """How many of the test speakers were also trained on."""
        return len(set(self.speakers) & set(self.config["splits"]["train"]["speakers"]))

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Worked out from the predictions. Intervals are over the test speakers, where resampling these shows any spread."""
        found = self._evaluate(np.arange(len(self.clips)))
        over = RESAMPLED_SPEAKERS if self.n_speakers > 1 else RESAMPLED_CLIPS
        keys = [m.key for m in self.measures]

        def measured(clips: npt.NDArray[np.int64]) -> list[float]:
            of = self._evaluate(clips)
            return [of[key] for key in keys]

        scores = {
            key: Score(found[key], low, high, "" if math.isnan(low) else over)
            for key, (low, high) in zip(keys, metrics.bootstrap_intervals(measured, self.speakers), strict=True)
        }
        if not self.regression and not scores["accuracy"].interval:
            right = int((self.values.argmax(axis=1) == self.truth).sum())
            scores["accuracy"] = Score(found["accuracy"], *metrics.binomial_interval(right, len(self.clips)), EXACT)
        return scores

    def _evaluate(self, clips: npt.NDArray[np.int64]) -> dict[str, float]:
        truth, values = self.truth[clips], self.values[clips]
        if self.regression:
            return metrics.regression_metrics(truth, values, self.classes)
        return metrics.classification_metrics(truth, values)


FILES = "summary.json config.json metrics.jsonl predictions.parquet streams.parquet unusable.parquet examples.parquet".split()
KEYS = {
    "config.json": "task classes model train streams corpus store data_digest code_version packages split splits clips "
    "parameters",
    "summary.json": "best_epoch epochs model_id seconds test valid naive",
}

CLOSED = (
    "its test set is closed. It is a trial of a sweep, which tests its winner alone; what all trials did on the validation "
    "clips is on the sweep's own page"
)


def find_runs(url: str) -> tuple[list[str], list[str]]:
    """The finished runs in a folder, at any depth below it, or the folder itself where it is a run; and the unfinished ones.
    A run is a folder with config.json, and finished with summary.json. Both sorted; both empty where there is none."""
    folder = RunFolder(url)
    folder.fs.invalidate_cache()
    found: dict[bool, list[str]] = {True: [], False: []}
    for path, folders, files in folder.fs.walk(folder.path):
        if "config.json" in files:
            below = str(path).rstrip("/")[len(folder.path) :]
            found["summary.json" in files].append(folder.url + below)
            folders.clear()  # no run lies in a run: its checkpoints need no listing
    return sorted(found[True]), sorted(found[False])


def slug_of(name: str) -> str:
    """The name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "run"


def read_run(url: str | Path) -> Run:
    """Read a finished run from a path or fsspec URL. Raises ValueError that names the folder and what is missing or wrong."""
    folder = RunFolder(str(url))
    summary = _read(folder, FILES[0])
    if summary.get("test", {}) is None:  # before its other files are asked for, of which it lacks some
        raise ValueError(f"run {folder.url}: {CLOSED}")
    config, epochs, predictions, streams, unusable, examples = (_read(folder, name) for name in FILES[1:])
    for (name, keys), content in zip(KEYS.items(), (config, summary), strict=True):
        if missing := [k for k in keys.split() if k not in content]:
            raise ValueError(f"run {folder.url}: {name}: {', '.join(missing)} is missing")
    name = folder.path.rsplit("/", 1)[-1]
    test, valid = ([row for row in predictions if row["split"] == side] for side in ("test", "valid"))
    ablation, made_by = read_ablation(folder)
    if made_by.get("model_id") != summary["model_id"]:
        ablation = []  # of another model than the one that is reported
    label = str(config.get("experiment") or name)
    return Run(label, slug_of(name), folder.url, config, summary, epochs, test, streams, unusable, examples, ablation, valid)


def _read(folder: RunFolder, name: str) -> Any:
    """A JSON file's value; the rows of a Parquet or JSONL file."""
    try:
        data = folder.read(name)
        if name.endswith(".parquet"):
            return pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
        return [json.loads(line) for line in data.splitlines()] if name.endswith(".jsonl") else json.loads(data)
    except FileNotFoundError:
        raise ValueError(f"run {folder.url}: unfinished or not a run: {name} is missing") from None
    except (OSError, ValueError) as e:
        raise ValueError(f"run {folder.url}: {name} can't be read: {e}") from e


def tell_apart(runs: Sequence[Run]) -> list[Run]:
    """The same runs with labels and slugs that differ: runs of one experiment are numbered."""
    labels = Counter(r.label for r in runs)
    return [
        replace(
            r, label=r.label if labels[r.label] == 1 else f"{r.label} · {i}", slug=f"{i}-{r.slug}" if len(runs) > 1 else r.slug
        )
        for i, r in enumerate(runs, 1)
    ]


# --- noise, and missing modalities ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A run's score as noise on one modality grows. levels, values: (L,), values being means over the draws of the noise.
    absent: the score without the modality."""

    label: str
    levels: Array
    values: Array
    absent: float


def curves_of(label: str, rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Curve]:
    """A run's curve of each modality, from the rows of its ablation."""
    curves = {}
    for modality in in_modality_order(r["modality"] for r in rows):
        noise = [r for r in rows if r["modality"] == modality and r["kind"] == "noise"]
        levels = sorted({r["level"] for r in noise})
        values = [np.mean([r[key] for r in noise if r["level"] == x]) for x in levels]
        absent = next(float(r[key]) for r in rows if r["modality"] == modality and r["kind"] == "absent")
        curves[modality] = Curve(label, np.array(levels), np.array(values), absent)
    return curves


def ablation_curves(runs: Sequence[Run], key: str) -> dict[str, list[Curve]]:
    """By modality, a curve of each run that has one."""
    each = [curves_of(run.label, run.ablation, key) for run in runs]
    return {m: [c[m] for c in each if m in c] for m in in_modality_order(m for c in each for m in c)}


# --- attention over time ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamAttention:
    """One stream's attention over one clip, of K frames in T hops.

    times: (K,), seconds. relative: (T, K), weights in multiples of an even spread, so that streams of different rates can be
    compared. gates: (T,), openness from 0 to 1. tokens: the word of each frame, or None.
    """

    stream: str
    modality: str
    times: Array
    relative: Array
    gates: Array
    tokens: list[str] | None


@dataclass(frozen=True)
class ClipAttention:
    """One clip: its first row in examples.parquet, its streams, and the values (C,) that the model gave to each name.

    truth: the true class's name, or the true intensities (C,). updates: (T,), what share of the memory each hop rewrote; None
    where the memory adds up without a gate, and for a run from before that was written.
    """

    about: dict[str, Any]
    streams: list[StreamAttention]
    names: list[str]
    values: Array
    truth: str | Array
    updates: list[float] | None

    @property
    def end(self) -> float:
        """Seconds from the clip's start to the end of the time axis."""
        return max(float(s.times[-1]) for s in self.streams) * 1.01 or 1.0


def read_examples(run: Run) -> list[ClipAttention]:
    """The clips of examples.parquet, in its order."""
    clips: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in run.examples:
        clips.setdefault(row["clip_id"], {}).setdefault(row["stream"], []).append(row)
    ids = [c["clip_id"] for c in run.clips]
    examples = []
    for clip_id, by_stream in clips.items():
        streams = [_stream_attention(sorted(rows, key=lambda r: r["hop"])) for rows in by_stream.values()]
        streams.sort(key=lambda s: modality_rank(s.modality))
        about = next(iter(by_stream.values()))[0]
        truth = run.truth[ids.index(clip_id)] if run.regression else about["target"]
        hops = sorted(next(iter(by_stream.values())), key=lambda r: r["hop"])
        gated = run.config["model"].get("gate") != "none"
        updates = [float(h["update"]) for h in hops] if gated and "update" in about else None
        examples.append(ClipAttention(about, streams, run.classes, np.array(about["probabilities"]), truth, updates))
    return examples


def _stream_attention(hops: Sequence[Mapping[str, Any]]) -> StreamAttention:
    first = hops[0]
    weights, gates = np.array([h["weights"] for h in hops]), np.array([h["gate"] for h in hops])
    relative = weights * weights.shape[1]
    return StreamAttention(first["stream"], first["modality"], np.array(first["times"]), relative, gates, first["tokens"])
