"""One page that a reader can trust on one or more finished runs: scores beside a naive baseline, figures, and what made them.

write_report reads RUN folders, scores their predictions on the test clips, and writes a self-contained HTML page, its
figures as PNG and its tables as CSV. All that a run says (class names, clip ids, reasons) is untrusted text: the template
escapes it, figures take it as plain text, and the page's own policy forbids scripts and every outside address.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import jinja2
import matplotlib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fontTools import subset  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from rrnn.metrics import (
    bootstrap_interval,
    classification_metrics,
    confusion,
    recalls,
    regression_metrics,
    unweighted_average_recall,
    weighted_accuracy,
)

Thumbnails = Callable[[dict[str, Any], Sequence[float]], "list[npt.NDArray[np.uint8] | None]"]

DPI = 150
MAX_ATTENTION_FIGURES = 12  # over all runs: keeps the page below 6 MB, also with frames
FRAMES_PER_CLIP = 8
SHOWN_REASONS = 10
SHOWN_CLIPS = 20
FEW_SPEAKERS = 10  # below this, resampling speakers gives a rough interval, and the page says so
MODALITY_ORDER = ("audio", "vision", "text")


# --- what a run says -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One RUN folder. test holds the rows of predictions.parquet whose split is "test".

    unusable, streams and examples are None where the run has no such file. slug is unique among the runs of one report and
    safe in file names; label is for people.
    """

    label: str
    slug: str
    folder: str
    config: dict[str, Any]
    epochs: list[dict[str, Any]]
    summary: dict[str, Any]
    test: pa.Table
    unusable: list[dict[str, Any]] | None
    streams: list[dict[str, Any]] | None
    examples: list[dict[str, Any]] | None

    @property
    def regression(self) -> bool:
        return bool(self.config["task"] == "regression")

    @property
    def classes(self) -> list[str]:
        return [str(c) for c in self.config["classes"]]

    @property
    def naive(self) -> dict[str, float]:
        naive: dict[str, float] = self.summary["naive"]
        return naive

    @property
    def modalities(self) -> list[str]:
        return in_modality_order(s["modality"] for s in self.config["streams"])

    @property
    def speakers(self) -> list[str]:
        """The speaker of each test clip; a clip of an unknown speaker counts as a speaker of its own."""
        pairs = zip(self.test["speaker"].to_pylist(), self.test["clip_id"].to_pylist(), strict=True)
        return [str(speaker) if speaker is not None else f"(unknown: {clip_id})" for speaker, clip_id in pairs]

    def matrix(self, prefix: str) -> npt.NDArray[np.float64]:
        """Columns `<prefix><class>` of the test clips, (n, C)."""
        return np.stack([self.test[prefix + c].to_numpy().astype(np.float64) for c in self.classes], axis=1)

    def targets(self) -> npt.NDArray[np.int64]:
        """Index of each test clip's true class, (n,)."""
        index = {c: i for i, c in enumerate(self.classes)}
        return np.array([index[t] for t in self.test["target"].to_pylist()], dtype=np.int64)


CONFIG_KEYS = (
    *("task", "classes", "model", "train", "streams", "corpus", "store", "data_digest", "code_version", "packages", "splits"),
    "parameters",
)
SUMMARY_KEYS = ("best_epoch", "epochs", "model_id", "seconds", "test", "valid", "naive")


def read_run(folder: str | Path) -> Run:
    """Read a finished run from a path or fsspec URL. Raises ValueError that names the folder and what is missing or wrong."""
    where = f"run {folder}"
    try:
        fs, root = fsspec.core.url_to_fs(str(folder))
        root = root.rstrip("/")
        found = {f for f in _RUN_FILES if fs.exists(f"{root}/{f}")}
        if missing := [f for f in _RUN_FILES[:4] if f not in found]:
            raise ValueError(f"{where}: unfinished or not a run: {', '.join(missing)} is missing")
        content = {f: fs.cat_file(f"{root}/{f}") for f in found}
    except (OSError, ImportError) as e:
        raise ValueError(f"{where}: can't be read: {e}") from e

    config = _parse_json(content["config.json"], f"{where}: config.json", CONFIG_KEYS)
    summary = _parse_json(content["summary.json"], f"{where}: summary.json", ())
    if summary.get("finished") is not True:
        raise ValueError(f"{where}: unfinished: summary.json has finished = {summary.get('finished')!r}, expected true")
    _require(summary, SUMMARY_KEYS, f"{where}: summary.json")
    if config["task"] not in ("classification", "regression"):
        raise ValueError(f"{where}: config.json: expected task classification or regression, found {config['task']!r}")
    _require(config["splits"], ("train", "valid", "test"), f"{where}: config.json: splits")
    epochs: dict[int, dict[str, Any]] = {}
    for i, line in enumerate(content["metrics.jsonl"].splitlines(), 1):
        epoch = _parse_json(line, f"{where}: metrics.jsonl line {i}", ("epoch",))
        epochs[int(epoch["epoch"])] = epoch  # after a resume an epoch may come twice: the last line counts
    tables = {f: _parse_parquet(content[f], f"{where}: {f}") for f in found if f.endswith(".parquet")}
    rows = {f: table.to_pylist() for f, table in tables.items() if f != "predictions.parquet"}
    name = root.rsplit("/", 1)[-1]
    return Run(
        label=str(config.get("experiment") or name),
        slug=_slug(name),
        folder=str(folder),
        config=config,
        epochs=[epochs[e] for e in sorted(epochs)],
        summary=summary,
        test=_test_rows(tables["predictions.parquet"], config, f"{where}: predictions.parquet"),
        unusable=rows.get("unusable.parquet"),
        streams=rows.get("streams.parquet"),
        examples=rows.get("examples.parquet"),
    )


# The first four must be there.
_RUN_FILES = (
    *("config.json", "metrics.jsonl", "summary.json", "predictions.parquet"),
    *("unusable.parquet", "streams.parquet", "examples.parquet"),
)


def _parse_json(content: bytes, where: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as e:
        raise ValueError(f"{where}: not JSON: {e}") from e
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {type(value).__name__}")
    _require(value, keys, where)
    return value


def _require(value: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    if missing := [k for k in keys if k not in value]:
        raise ValueError(f"{where}: {', '.join(missing)} is missing")


def _parse_parquet(content: bytes, where: str) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as e:
        raise ValueError(f"{where}: not Parquet: {e}") from e


def _test_rows(table: pa.Table, config: dict[str, Any], where: str) -> pa.Table:
    classes = [str(c) for c in config["classes"]]
    prefixes = ("t_", "y_") if config["task"] == "regression" else ("p_",)
    values = [p + c for p in prefixes for c in classes]
    labels = [] if config["task"] == "regression" else ["target"]
    if missing := [c for c in ("clip_id", "speaker", "split", *labels, *values) if c not in table.column_names]:
        raise ValueError(f"{where}: column {', '.join(missing)} is missing")
    test = table.filter(pc.equal(table["split"], "test"))
    if not test.num_rows:
        raise ValueError(f"{where}: expected rows with split test, found none")
    for column in values:
        finite = np.isfinite(test[column].to_numpy().astype(np.float64))
        if not finite.all():
            raise ValueError(f"{where}: {column} of clip {test['clip_id'][int(np.argmin(finite))]} is not a finite number")
    if labels and (unknown := set(test["target"].to_pylist()) - set(classes)):
        raise ValueError(f"{where}: target {sorted(map(str, unknown))[0]!r} is not one of the run's classes")
    return test


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "run"


def _tell_apart(runs: Sequence[Run]) -> list[Run]:
    """The same runs with labels and slugs that differ: runs of one experiment also show their folder's name."""
    if len(runs) == 1:
        return list(runs)
    labels = Counter(r.label for r in runs)
    renamed = []
    for i, run in enumerate(runs, 1):
        label = run.label if labels[run.label] == 1 else f"{run.label} · {i}"
        renamed.append(replace(run, label=label, slug=f"{i}-{run.slug}"))
    return renamed


def in_modality_order(modalities: Iterable[str]) -> list[str]:
    """Each modality once: audio, vision, text, then any others."""
    return sorted(set(modalities), key=lambda m: (MODALITY_ORDER.index(m) if m in MODALITY_ORDER else len(MODALITY_ORDER), m))


# --- scores ----------------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    """A score on the test clips with its 95 % interval; low and high are NaN where there is none."""

    value: float
    low: float
    high: float


def score_run(run: Run) -> dict[str, Score]:
    """The run's scores on its test clips, from its predictions. The first is the one that leads."""
    speakers = run.speakers

    def with_interval(value: float, statistic: Callable[[npt.NDArray[np.int64]], float]) -> Score:
        return Score(value, *bootstrap_interval(statistic, speakers))

    if run.regression:
        target, said = run.matrix("t_"), run.matrix("y_")
        metrics = regression_metrics(target, said, run.classes)
        absolute, squared = np.abs(said - target).sum(axis=1), ((said - target) ** 2).sum(axis=1)

        def mean_weighted_accuracy(i: npt.NDArray[np.int64]) -> float:
            each = np.array([weighted_accuracy(target[i, c], said[i, c]) for c in range(len(run.classes))])
            return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")

        return {
            "mae": with_interval(metrics["mae"], lambda i: float(absolute[i].mean())),
            "mse": with_interval(metrics["mse"], lambda i: float(squared[i].mean())),
            "weighted_accuracy": with_interval(metrics["weighted_accuracy"], mean_weighted_accuracy),
        }
    labels, probabilities = run.targets(), run.matrix("p_")
    metrics = classification_metrics(labels, probabilities)
    answers = probabilities.argmax(axis=1)
    n_classes = len(run.classes)
    return {
        "accuracy": with_interval(metrics["accuracy"], lambda i: float((labels[i] == answers[i]).mean())),
        "uar": with_interval(metrics["uar"], lambda i: unweighted_average_recall(labels[i], answers[i], n_classes)),
        "cross_entropy": Score(metrics["cross_entropy"], float("nan"), float("nan")),
    }


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; the same as the page's. Series and modalities stay apart for colour-blind readers (Okabe-Ito)."""

    ink: str
    muted: str
    hairline: str
    surface: str
    series: tuple[str, ...]

    @property
    def accent(self) -> str:
        return self.series[0]

    def modality(self, name: str) -> str:
        return self.series[MODALITY_ORDER.index(name)] if name in MODALITY_ORDER else self.series[3]

    def rc(self) -> dict[Any, Any]:
        """Matplotlib settings. Text is never parsed as mathematics: class names and words may hold dollar signs."""
        return {
            "text.parse_math": False,
            "font.family": ["DejaVu Sans"],
            "font.size": 9,
            "axes.labelsize": 9,
            "axes.labelcolor": self.muted,
            "axes.edgecolor": self.hairline,
            "axes.facecolor": self.surface,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": self.surface,
            "savefig.facecolor": self.surface,
            "text.color": self.ink,
            "xtick.color": self.hairline,
            "ytick.color": self.hairline,
            "xtick.labelcolor": self.muted,
            "ytick.labelcolor": self.muted,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "lines.solid_capstyle": "round",
        }


LIGHT = Theme("#1b1f24", "#59626d", "#d3d8de", "#ffffff", ("#0068a8", "#c44f0a", "#00795a", "#9c4a83", "#9a6a00", "#3d7f9f"))
DARK = Theme("#e7e9ec", "#a2abb5", "#3d444d", "#1b1f25", ("#5fb2ec", "#f28f50", "#45c69f", "#dc9bc6", "#e6b64c", "#9bd2ee"))


@dataclass(frozen=True)
class Picture:
    """A figure in the page, drawn once for light and once for dark. width and height in CSS pixels; file is its PNG."""

    alt: str
    light: str
    dark: str
    width: int
    height: int
    file: str


class Output:
    """Where a report is written: figures/ and tables/ below one folder, as they are made."""

    def __init__(self, folder: Path) -> None:
        self.figures, self.tables = folder / "figures", folder / "tables"
        for each in (self.figures, self.tables):
            each.mkdir(parents=True, exist_ok=True)

    def table(self, table: Table) -> Table:
        table.write_csv(self.tables)
        return table

    def picture(self, name: str, alt: str, draw: Callable[[Theme], Figure], *, photographs: bool = False) -> Picture:
        """Draw for light and for dark pages; the PNG file is the light one."""
        light, size = self._render(draw, LIGHT, photographs, self.figures / f"{name}.png")
        dark, _ = self._render(draw, DARK, photographs, None)
        return Picture(alt, light, dark, *size, file=f"figures/{name}.png")

    def _render(
        self, draw: Callable[[Theme], Figure], theme: Theme, photographs: bool, file: Path | None
    ) -> tuple[str, tuple[int, int]]:
        """The figure as a data URI, and its size in CSS pixels."""
        with matplotlib.rc_context(theme.rc()):
            figure = draw(theme)
            canvas = FigureCanvasAgg(figure)
            figure.set_dpi(DPI)
            canvas.draw()  # type: ignore[no-untyped-call]
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
        if file is not None:
            image.save(file, "PNG", dpi=(DPI, DPI))
        buffer = io.BytesIO()
        kind = "webp" if photographs else "png"  # a third of the size, where there are frames of the clip
        image.save(buffer, kind, **({"quality": 88} if photographs else {}))
        width, height = figure.get_size_inches()
        uri = f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        return uri, (round(96 * width), round(96 * height))


def plain(text: object, length: int) -> str:
    """Text for a figure: on one line, without control characters, at most `length` characters."""
    line = "".join(" " if unicodedata.category(c).startswith("C") else c for c in " ".join(str(text).split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def draw_confusion(matrix: npt.NDArray[np.int64], classes: Sequence[str], theme: Theme) -> Figure:
    """Counts of true (rows) against predicted classes, shaded by the share of each row."""
    n = len(classes)
    side = min(max(0.52 * n, 2.2), 7.0)
    names = [plain(c, 14) for c in classes]
    left = 0.62 + 0.072 * max(map(len, names))
    figure = Figure(figsize=(left + side + 0.12, side + 0.5 + 0.055 * max(map(len, names))))
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 1 - (side + 0.06) / height, side / width, side / height))
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("share", [theme.surface, theme.accent])
    axes.imshow(share, cmap=shades, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(n), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.tick_params(length=0, labelcolor=theme.ink)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=theme.surface, linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    if n <= 20:
        for i, j in np.ndindex(n, n):
            lightness = _lightness(shades(share[i, j]))
            colour = max((theme.ink, theme.surface), key=lambda c: abs(_lightness(to_rgb(c)) - lightness))
            size = 9 if n <= 10 else 6.5
            axes.text(
                j,
                i,
                str(matrix[i, j]),
                ha="center",
                va="center",
                color=colour,
                fontsize=size,
                weight="bold" if i == j else None,
            )
    return figure


def _lightness(rgb: Sequence[float]) -> float:
    """Perceived lightness from 0 to 1, near enough to choose readable text: the square root of relative luminance."""
    return float(np.sqrt(np.dot([0.2126, 0.7152, 0.0722], np.square(rgb[:3]))))


def draw_speakers(
    names: Sequence[str],
    values: Sequence[float],
    clips: Sequence[int],
    overall: float,
    naive: float | None,
    measure: str,
    percent: bool,
    theme: Theme,
) -> Figure:
    """One dot a speaker, best first; its area grows with the speaker's clips. Lines: all clips, and the naive baseline."""
    named = len(names) <= 40
    row = 0.23 if named else 0.09
    labels = [plain(s, 16) for s in names]
    left = 0.25 + (0.075 * max(map(len, labels)) if named else 0.2)
    figure = Figure(figsize=(4.6, 0.95 + row * max(len(names), 4)))
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 0.5 / height, 1 - (left + 0.2) / width, 1 - 0.85 / height))
    scale = 100 if percent else 1
    y = np.arange(len(names))
    if named:
        axes.hlines(y, 0, 1, transform=axes.get_yaxis_transform(), color=theme.hairline, linewidth=0.5, zorder=1)
    sizes = 18 + 60 * np.asarray(clips) / max(clips) if named else 12
    axes.scatter(scale * np.asarray(values), y, s=sizes, color=theme.accent, edgecolor=theme.surface, linewidth=0.8, zorder=3)
    _labelled_line(axes, scale * overall, "all clips", theme.ink, "-", overall >= (naive if naive is not None else -np.inf))
    if naive is not None:
        _labelled_line(axes, scale * naive, "naive", theme.muted, (0, (2, 2)), naive > overall)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(y if named else [], labels if named else [])
    axes.tick_params(axis="y", length=0)
    if percent:
        axes.set_xlim(-2, 102)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{measure}, %" if percent else measure)
    if not named:
        axes.set_ylabel(f"{len(names)} speakers")
    return figure


def _note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], *, coords: Any = "axes fraction", **style: Any
) -> None:
    """Text at `offset` points from a place given in `coords`."""
    axes.annotate(text, at, xycoords=coords, xytext=offset, textcoords="offset points", **style)


def _labelled_line(axes: Axes, x: float, text: str, colour: str, style: Any, rightwards: bool) -> None:
    axes.axvline(x, color=colour, linewidth=1, linestyle=style, zorder=2)
    _note(
        axes,
        text,
        (x, 1),
        (3 if rightwards else -3, 4),
        coords=("data", "axes fraction"),
        ha="left" if rightwards else "right",
        color=colour,
        fontsize=8.5,
    )


def draw_training(run: Run, theme: Theme) -> Figure:
    """Loss and validation scores by epoch, with the chosen epoch marked."""
    shown = (
        [("valid_mae", "MAE"), ("valid_mse", "MSE")]
        if run.regression
        else [("valid_accuracy", "accuracy"), ("valid_uar", "UAR")]
    )
    panels = {
        "loss": [("train_loss", "train", theme.muted), ("valid_loss", "valid", theme.accent)],
        "valid": [(key, name, theme.series[(0, 2)[i]]) for i, (key, name) in enumerate(shown)],
    }
    epochs = [e["epoch"] for e in run.epochs]
    figure = Figure(figsize=(4.6, 4.4))
    chosen = run.summary["best_epoch"]
    for i, (title, lines) in enumerate(panels.items()):
        axes = figure.add_axes((0.125, 0.56 - 0.455 * i, 0.70, 0.36))
        percent = title == "valid" and not run.regression
        last: list[tuple[float, str, str]] = []
        for key, name, colour in lines:
            values = np.array([e[key] if e.get(key) is not None else np.nan for e in run.epochs], dtype=float)
            values = values * (100 if percent else 1)
            if np.isfinite(values).any():
                axes.plot(epochs, values, color=colour, linewidth=1.8, marker="o" if len(epochs) < 3 else None, markersize=3)
                last.append((float(values[np.isfinite(values)][-1]), name, colour))
        axes.axvline(chosen, color=theme.ink, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.margins(y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.grid(axis="y", color=theme.hairline, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelbottom=i == 1)
        axes.spines["left"].set_visible(False)
        _label_line_ends(axes, last)
        heading = {"loss": "loss", "valid": "validation, %" if percent else "validation error"}[title]
        _note(axes, heading, (0, 1), (-28, 7), color=theme.muted)
        if i == 0:
            _note(
                axes, f"epoch {chosen}, kept", (chosen, 1), (0, 7), coords=("data", "axes fraction"), ha="center", fontsize=8.5
            )
        else:
            axes.set_xlabel("epoch")
    return figure


def _label_line_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names lines at their right ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, floor = 0.11 * (high - low), -np.inf
    for value, name, colour in sorted(ends):
        floor = max(value, floor + gap)
        _note(
            axes,
            name,
            (1, floor),
            (2, 0),
            coords=("axes fraction", "data"),
            va="center",
            color=colour,
            weight="bold",
            annotation_clip=False,
        )


def draw_scatter(target: npt.NDArray[np.float64], said: npt.NDArray[np.float64], names: Sequence[str], theme: Theme) -> Figure:
    """Predicted against true intensity, a panel an emotion; the line is where they agree."""
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(0.5 + 2.1 * columns, 0.5 + 2.1 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    width, height = figure.get_size_inches()
    figure.subplots_adjust(0.55 / width, 0.5 / height, 1 - 0.1 / width, 1 - 0.3 / height, wspace=0.12, hspace=0.3)
    low, high = min(target.min(), said.min()), max(target.max(), said.max())
    for c, axes in enumerate(grid.flat):
        if c >= len(names):
            axes.set_visible(False)
            continue
        axes.plot([low, high], [low, high], color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.scatter(target[:, c], said[:, c], s=9, color=theme.accent, alpha=0.45 if len(target) < 500 else 0.15, linewidth=0)
        axes.set_title(plain(names[c], 22), fontsize=9, loc="left", pad=4)
        axes.tick_params(length=0)
    figure.supxlabel("true intensity", fontsize=9, color=theme.muted, y=0.08 / height)
    figure.supylabel("predicted intensity", fontsize=9, color=theme.muted, x=0.06 / width)
    return figure


def draw_comparison(
    labels: Sequence[str], scores: Sequence[Score], naive: Sequence[float | None], measure: str, percent: bool, theme: Theme
) -> Figure:
    """One row a run: its score with 95 % interval, and the naive baseline as an upright stroke."""
    names = [plain(label, 34) for label in labels]
    left = 0.3 + 0.078 * max(map(len, names))
    figure = Figure(figsize=(left + 4.6, 0.75 + 0.34 * len(names)))
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 0.5 / height, 1 - (left + 0.25) / width, 1 - 0.6 / height))
    scale = 100 if percent else 1
    for y, (score, baseline) in enumerate(zip(scores, naive, strict=True)):
        axes.plot([scale * score.low, scale * score.high], [y, y], color=theme.accent, linewidth=2.4, alpha=0.45)
        axes.plot(scale * score.value, y, "o", color=theme.accent, markersize=7, markeredgecolor=theme.surface)
        if baseline is not None:
            axes.plot([scale * baseline] * 2, [y - 0.28, y + 0.28], color=theme.muted, linewidth=1.6)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=theme.ink)
    axes.grid(axis="x", color=theme.hairline, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{measure}, %" if percent else measure)
    return figure


# --- attention over time ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamAttention:
    """One stream's attention over one clip. weights: (hops, frames), each hop's sum is 1. gates: openness, one a hop."""

    stream: str
    modality: str
    times: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    tokens: list[str] | None
    gates: list[float] | None

    @property
    def relative(self) -> npt.NDArray[np.float64]:
        """Weights in multiples of an even spread, so that streams of different rates can be compared."""
        relative: npt.NDArray[np.float64] = self.weights * self.weights.shape[1]
        return relative


@dataclass(frozen=True)
class Example:
    """One clip's attention. answers: (name, predicted value, true value or None); probabilities have no true value."""

    row: dict[str, Any]
    streams: list[StreamAttention]
    answers: list[tuple[str, float, float | None]]

    @property
    def end(self) -> float:
        """Seconds from the clip's start to the end of the time axis."""
        return max(float(s.times[-1]) for s in self.streams) * 1.01 or 1.0


def read_examples(run: Run) -> list[Example]:
    """The clips of examples.parquet, in its order. Raises ValueError where times, weights and tokens don't fit together."""
    clips: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in run.examples or []:
        clips.setdefault(row["clip_id"], {}).setdefault(row["stream"], []).append(row)
    in_test = {clip_id: i for i, clip_id in enumerate(run.test["clip_id"].to_pylist())}
    target, said = (run.matrix("t_"), run.matrix("y_")) if run.regression else (None, None)
    examples = []
    for clip_id, by_stream in clips.items():
        streams = [_stream_attention(rows, f"run {run.folder}: examples.parquet: {clip_id}") for rows in by_stream.values()]
        order = in_modality_order(s.modality for s in streams)
        first = next(iter(by_stream.values()))[0]
        answers: list[tuple[str, float, float | None]] = []
        if target is not None and said is not None:
            i = in_test.get(clip_id)
            answers = [] if i is None else list(zip(run.classes, said[i].tolist(), target[i].tolist(), strict=True))
        elif first["probabilities"] is not None:
            answers = [(c, p, None) for c, p in zip(run.classes, first["probabilities"], strict=True)]
        examples.append(Example(first, sorted(streams, key=lambda s: order.index(s.modality)), answers))
    return examples


def _stream_attention(rows: list[dict[str, Any]], where: str) -> StreamAttention:
    rows = sorted(rows, key=lambda r: r["hop"])
    first = rows[0]
    frames = len(first["times"])
    lengths = {len(r["weights"]) for r in rows} | ({len(first["tokens"])} if first["tokens"] is not None else set())
    if lengths != {frames} or not frames:
        raise ValueError(f"{where}: stream {first['stream']}: expected {frames} weights and tokens, found {sorted(lengths)}")
    gates = [r["gate"] for r in rows]
    return StreamAttention(
        stream=first["stream"],
        modality=first["modality"],
        times=np.array(first["times"], dtype=np.float64),
        weights=np.array([r["weights"] for r in rows], dtype=np.float64),
        tokens=first["tokens"],
        gates=None if any(g is None for g in gates) else gates,
    )


# Of an attention figure, in inches.
_LEFT, _PLOT, _GATE_GAP, _GATE, _RIGHT = 1.25, 7.1, 0.42, 1.0, 0.12
_PANEL, _GAP, _STRIP, _WORD_LINE = 0.95, 0.24, 0.72, 0.17


def draw_attention(example: Example, frames: Sequence[npt.NDArray[np.uint8] | None], theme: Theme) -> Figure:
    """The paper's figure 4 for one clip: a panel a stream on one time axis, words and face frames at their times.

    frames: pictures at evenly spread times, shown above the first vision stream; empty for none.
    """
    end = example.end
    gated = any(s.gates is not None for s in example.streams)
    words = {s.stream: _place_words(s, end) for s in example.streams if s.tokens is not None}
    strip_of = next((s.stream for s in example.streams if s.modality == "vision"), None) if len(frames) else None

    def above(s: StreamAttention) -> float:
        if s.stream == strip_of:
            return _STRIP + 0.05
        return _WORD_LINE * (1 + max((line for _, line in words[s.stream]), default=0)) + 0.04 if s.stream in words else 0.0

    answers_height = 0.5 + 0.19 * len(example.answers) if example.answers else 0.0
    width = _LEFT + _PLOT + (_GATE_GAP + _GATE if gated else 0.0) + _RIGHT
    height = 0.34 + sum(_PANEL + _GAP + above(s) for s in example.streams) + 0.24 + answers_height
    figure = Figure(figsize=(width, height))

    def box(x: float, y: float, w: float, h: float) -> Axes:
        """Axes at inches from the left and from the top."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    hops = max(len(s.weights) for s in example.streams)
    _hop_legend(figure, hops, width, height, theme)
    if gated:
        x = (_LEFT + _PLOT + _GATE_GAP) / width
        figure.text(x, 1 - 0.1 / height, "gate openness", fontsize=8.5, color=theme.muted, va="top")
    y = 0.34
    for s in example.streams:
        if s.stream == strip_of:
            _draw_frames(box(_LEFT, y, _PLOT, _STRIP), frames, theme)
        if s.stream in words:
            _draw_words(box(_LEFT, y, _PLOT, above(s) - 0.04), s, words[s.stream], end, theme)
        y += above(s)
        is_last = s is example.streams[-1]
        _draw_stream(box(_LEFT, y, _PLOT, _PANEL), s, end, is_last, theme)
        figure.text(
            0.05 / width,
            1 - (y + 0.04) / height,
            plain(s.stream, 13),
            weight="bold",
            va="top",
            color=theme.modality(s.modality),
        )
        if s.modality != s.stream:
            figure.text(0.05 / width, 1 - (y + 0.21) / height, plain(s.modality, 13), va="top", fontsize=8.5, color=theme.muted)
        if s.gates is not None:
            _draw_gates(box(_LEFT + _PLOT + _GATE_GAP, y, _GATE, _PANEL), s, is_last, theme)
        y += _PANEL + _GAP
    if example.answers:
        _draw_answers(box(_LEFT, y + 0.5, _PLOT, answers_height - 0.5), example, theme)
    return figure


def _hop_style(hop: int, hops: int) -> dict[str, Any]:
    """Earlier hops are thin and pale; the last, from which the answer is read, is heavy."""
    last = hop == hops - 1
    return {"linewidth": 2.0 if last else 1.0, "alpha": 1.0 if last else 0.35 + 0.3 * hop / max(hops - 1, 1)}


def _hop_legend(figure: Figure, hops: int, width: float, height: float, theme: Theme) -> None:
    handles = [Line2D([], [], color=theme.ink, **_hop_style(h, hops)) for h in range(hops)]
    names = [f"hop {h + 1}" for h in range(hops)]
    handles.append(Line2D([], [], color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2))))
    legend = figure.legend(
        handles,
        [*names, "even spread"],
        loc="upper left",
        bbox_to_anchor=(_LEFT / width, 1 - 0.02 / height),
        ncols=min(hops + 1, 8),
        frameon=False,
        fontsize=8.5,
        handlelength=1.6,
        columnspacing=1.4,
        borderaxespad=0,
    )
    for text in legend.get_texts():
        text.set_color(theme.muted)


def _draw_stream(axes: Axes, s: StreamAttention, end: float, is_last: bool, theme: Theme) -> None:
    colour, hops = theme.modality(s.modality), len(s.weights)
    axes.axhline(1, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    for hop, weights in enumerate(s.relative):
        style = _hop_style(hop, hops)
        axes.plot(
            s.times,
            weights,
            color=colour,
            marker="o" if s.tokens is not None else None,
            markersize=style["linewidth"] + 1.5,
            markeredgewidth=0,
            **style,
        )
    axes.fill_between(s.times, s.relative[-1], color=colour, alpha=0.12, linewidth=0)
    axes.set_xlim(0, end)
    axes.set_ylim(0, max(2.0, 1.08 * float(s.relative.max())))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}×")
    axes.tick_params(length=0, labelbottom=is_last)
    axes.spines["left"].set_visible(False)
    if is_last:
        _note(axes, "seconds", (1, 0), (0, -22), ha="right", color=theme.muted, fontsize=8.5)


def _place_words(s: StreamAttention, end: float) -> list[tuple[int, int]]:
    """(word, line) of the words that find room on up to four lines, the most attended first."""
    assert s.tokens is not None
    free: list[list[tuple[float, float]]] = [[] for _ in range(4)]
    placed = []
    for i in np.argsort(-s.relative[-1], kind="stable"):
        half = (0.085 * len(plain(s.tokens[i], 18)) + 0.1) / _PLOT * end / 2
        centre = min(max(float(s.times[i]), half), end - half)
        for line, taken in enumerate(free):
            if all(centre + half <= a or centre - half >= b for a, b in taken):
                taken.append((centre - half, centre + half))
                placed.append((int(i), line))
                break
    return placed


def _draw_words(axes: Axes, s: StreamAttention, placed: list[tuple[int, int]], end: float, theme: Theme) -> None:
    assert s.tokens is not None
    axes.set_xlim(0, end)
    lines = 1 + max((line for _, line in placed), default=0)
    axes.set_ylim(0, lines)
    axes.axis("off")
    for i, line in placed:
        word = plain(s.tokens[i], 18)
        half = 0.0425 * len(word) / _PLOT * end
        attended = s.relative[-1, i] > 1
        axes.text(
            min(max(float(s.times[i]), half), end - half),
            line + 0.45,
            word,
            ha="center",
            va="center",
            fontsize=8.5,
            color=theme.modality(s.modality) if attended else theme.muted,
            weight="bold" if attended else None,
        )


def _draw_frames(axes: Axes, frames: Sequence[npt.NDArray[np.uint8] | None], theme: Theme) -> None:
    """Frames side by side at their times, each as large as its share of the strip allows."""
    axes.set_xlim(0, _PLOT)
    axes.set_ylim(0, _STRIP)
    axes.axis("off")
    slot = _PLOT / len(frames)
    for i, frame in enumerate(frames):
        centre = (i + 0.5) * slot
        if frame is None:
            axes.text(centre, _STRIP / 2, "no frame", ha="center", va="center", fontsize=8, color=theme.muted)
            continue
        scale = min((slot - 0.04) / frame.shape[1], _STRIP / frame.shape[0])
        half_width, frame_height = frame.shape[1] * scale / 2, frame.shape[0] * scale
        axes.imshow(
            frame,
            extent=(centre - half_width, centre + half_width, 0, frame_height),
            aspect="auto",
            interpolation="antialiased",
        )
    axes.set_xlim(0, _PLOT)
    axes.set_ylim(0, _STRIP)


def _draw_gates(axes: Axes, s: StreamAttention, is_last: bool, theme: Theme) -> None:
    assert s.gates is not None
    hops = np.arange(1, len(s.gates) + 1)
    axes.bar(hops, np.ones(len(hops)), width=0.62, color=theme.hairline, alpha=0.45)
    axes.bar(hops, s.gates, width=0.62, color=theme.modality(s.modality))
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1])
    axes.set_xticks(hops, [str(h) for h in hops])
    axes.tick_params(length=0, labelbottom=is_last)
    axes.spines[["left", "bottom"]].set_visible(False)
    if is_last:
        _note(axes, "hop", (1, 0), (0, -22), ha="right", color=theme.muted, fontsize=8.5)


def _draw_answers(axes: Axes, example: Example, theme: Theme) -> None:
    """Bars of what the model answered. A classifier's true class is named in bold; a regression's truth is a ring."""
    y = np.arange(len(example.answers))
    values = np.array([value for _, value, _ in example.answers])
    truths = [truth for _, _, truth in example.answers]
    regression = truths[0] is not None
    best = -1 if regression else int(values.argmax())
    colours = [theme.accent if regression or i == best else theme.muted for i in y]
    axes.barh(y, values, height=0.62, color=colours, alpha=0.9)
    for i, (name, value, truth) in enumerate(example.answers):
        if truth is None:
            notes = [f"{100 * value:.0f}\u202f%"]
            notes += ["predicted"] if i == best else []
            notes += ["true"] if name == example.row["target"] else []
            _note(
                axes,
                " · ".join(notes),
                (value, i),
                (4, 0),
                coords="data",
                va="center",
                fontsize=8.5,
                color=theme.ink if len(notes) > 1 else theme.muted,
            )
        else:
            axes.plot(truth, i, "o", markerfacecolor=theme.surface, markeredgecolor=theme.ink, markersize=6, clip_on=False)
    axes.set_ylim(len(y) - 0.5, -0.5)
    axes.set_yticks(y, [plain(name, 14) for name, _, _ in example.answers])
    for label, (name, _, _) in zip(axes.get_yticklabels(), example.answers, strict=True):
        if not regression and name == example.row["target"]:
            label.set(weight="bold", color=theme.ink)
    axes.tick_params(length=0)
    if regression:
        axes.axvline(0, color=theme.hairline, linewidth=0.8)
        axes.tick_params(axis="y", pad=8)  # room for a ring at 0
    else:
        axes.set_xlim(0, 1.25)
        axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    heading = "predicted intensity, and the true one as a ring" if regression else "probability of each class"
    _note(axes, heading, (0, 1), (0, 6), color=theme.muted, fontsize=8.5)


# --- tables ----------------------------------------------------------------------------------------------------------

Cell = str | int | float | Score | None


@dataclass(frozen=True)
class Column:
    """kind: "text", "count", "percent" (a share, shown times 100), "bar" (likewise, with a bar), or "number"."""

    name: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """A table of the page and, in full, a CSV file. The page shows the first `shown` rows."""

    name: str
    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    shown: int | None = None

    def write_csv(self, folder: Path) -> None:
        """Write `folder`/<name>.csv with unrounded values; a score becomes three columns: value, _low, _high."""
        with_interval = [any(isinstance(row[c], Score) for row in self.rows) for c in range(len(self.columns))]
        header = []
        for column, interval in zip(self.columns, with_interval, strict=True):
            header += [column.name, f"{column.name}_low", f"{column.name}_high"] if interval else [column.name]
        with (folder / f"{self.name}.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in self.rows:
                writer.writerow([value for cell in row for value in (cell if isinstance(cell, Score) else (cell,))])


def show(value: Cell, kind: str = "text") -> str:
    """A value as the page prints it: shares as percent with one decimal, numbers with three, NaN as "undefined"."""
    if isinstance(value, Score):
        value = value.value
    if value is None:
        return "–"
    if kind == "count":
        return f"{int(value):,}"
    if kind in ("percent", "bar", "number"):
        if math.isnan(float(value)):
            return "undefined"
        return f"{float(value):.3f}" if kind == "number" else f"{100 * float(value):.1f}\u202f%"
    return str(value)


def show_interval(score: Score, kind: str) -> str:
    """A score's interval, as "57.0 to 65.3"; empty where it has none."""
    if math.isnan(score.low) or math.isnan(score.high):
        return ""
    scale, digits = (1, 3) if kind == "number" else (100, 1)
    return f"{scale * score.low:.{digits}f} to {scale * score.high:.{digits}f}"


@dataclass(frozen=True)
class Measure:
    """How a score is named and shown; key is its name in summary.json."""

    key: str
    name: str
    kind: str
    meaning: str


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


# --- the page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionView:
    example: Example
    picture: Picture
    note: str


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run. by_class: recalls, or errors of each emotion; fit: confusion matrix, or scatter."""

    run: Run
    scores: dict[str, Score]
    fit: Picture
    by_class: Table
    speakers: Picture
    training: Picture
    attention: list[AttentionView] | None
    n_examples: int

    @property
    def n_speakers(self) -> int:
        return len(set(self.run.speakers))


@dataclass(frozen=True)
class UnusableView:
    """What could not be used, and why; runs on the same features share it. None where the run has no such file."""

    labels: list[str]
    counts: Table | None
    reasons: Table | None
    clips: Table | None


def write_report(runs: Sequence[str | Path], out: str | Path, *, thumbnails: Thumbnails | None = None) -> Path:
    """Write `out`/report.html on finished runs, with figures/*.png and tables/*.csv beside it; returns the page's path.

    runs: RUN folders, as paths or fsspec URLs, all of one task. Scores are worked out here from each run's predictions on its
    test clips, with 95 % intervals over speakers; the naive baseline is the one in its summary. The page needs no other file.

    thumbnails(row of examples.parquet, times in seconds from the clip's start) returns an RGB frame (h, w, 3) uint8 near each
    time, or None where there is none; without it the page shows no frames.

    Raises ValueError, naming the folder, for a run that is unfinished or can't be read; also for no runs, or mixed tasks.
    """
    if not runs:
        raise ValueError("expected at least one run, found none")
    read = _tell_apart([read_run(folder) for folder in runs])
    if len(tasks := {r.config["task"] for r in read}) > 1:
        described = ", ".join(f"{r.folder} is a {r.config['task']}" for r in read)
        raise ValueError(f"expected runs of one task, found {len(tasks)}: {described}")
    folder = Path(out)
    output = Output(folder)
    views = [_view(run, output, thumbnails, max(1, MAX_ATTENTION_FIGURES // len(read))) for run in read]
    measures = REGRESSION if read[0].regression else CLASSIFICATION
    lead = views[_best_on_validation(read, measures[0])]
    page = {
        "lead": lead,
        "views": views,
        "measures": measures,
        "modalities": in_modality_order(m for r in read for m in r.modalities),
        "corpora": sorted({str(r.config["corpus"]) for r in read}),
        "made": any(r.config["corpus"] == "made" for r in read),
        "notes": _notes(views, measures[0]),
        "headline": output.table(_headline(views, measures)),
        "comparison": _comparison(views, measures[0], output) if len(views) > 1 else None,
        "unusable": _unusable(read, output),
        "settings": [output.table(t) for t in _settings(read)],
        "themes": (LIGHT, DARK),
        "gated": any(s.gates is not None for v in views for a in v.attention or () for s in a.example.streams),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"show": show, "interval": show_interval, "sentence_list": _sentence_list}
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    # Rendered twice: the fonts that go into the page hold the characters that are in it, and no others.
    fonts = _fonts(set(template.render(page, fonts={})))
    path = folder / "report.html"
    path.write_text(template.render(page, fonts=fonts), encoding="utf-8", errors="replace")
    return path


def _best_on_validation(runs: Sequence[Run], measure: Measure) -> int:
    """Index of the run that did best on its validation clips; never picked by test scores."""
    sign = -1 if runs[0].regression else 1
    return max(range(len(runs)), key=lambda i: sign * runs[i].summary["valid"].get(measure.key, -sign * math.inf))


def _sentence_list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _view(run: Run, output: Output, thumbnails: Thumbnails | None, max_attention: int) -> RunView:
    scores = score_run(run)
    speakers = np.array(run.speakers)
    if run.regression:
        target, said = run.matrix("t_"), run.matrix("y_")
        correct = np.abs(said - target).sum(axis=1)
        by_class = _emotions_table(run, target, said)
        fit = output.picture(
            f"scatter-{run.slug}",
            f"{run.label}: predicted against true intensity of each emotion",
            lambda theme: draw_scatter(target, said, run.classes, theme),
        )
    else:
        labels, answers = run.targets(), run.matrix("p_").argmax(axis=1)
        correct = (labels == answers).astype(np.float64)
        counts = confusion(labels, answers, len(run.classes))
        by_class = _recall_table(run, counts)
        fit = output.picture(
            f"confusion-{run.slug}",
            f"{run.label}: confusion matrix of {len(labels)} test clips",
            lambda theme: draw_confusion(counts, run.classes, theme),
        )
    each = [(str(s), float(correct[speakers == s].mean()), int((speakers == s).sum())) for s in np.unique(speakers)]
    each.sort(key=lambda s: s[1], reverse=not run.regression)
    names, values, clips = zip(*each, strict=True)
    measure = REGRESSION[0] if run.regression else CLASSIFICATION[0]
    kind = "number" if run.regression else "percent"
    rows: list[list[Cell]] = [list(row) for row in each]
    output.table(
        Table(f"speakers-{run.slug}", "", [Column("speaker"), Column(measure.key, kind), Column("clips", "count")], rows)
    )
    attention, n_examples = _attention(run, output, thumbnails, max_attention)
    return RunView(
        run=run,
        scores=scores,
        fit=fit,
        by_class=output.table(by_class),
        speakers=output.picture(
            f"speakers-{run.slug}",
            f"{run.label}: {measure.name} of each of {len(names)} test speakers",
            lambda theme: draw_speakers(
                names,
                values,
                clips,
                scores[measure.key].value,
                run.naive.get(measure.key),
                measure.name,
                not run.regression,
                theme,
            ),
        ),
        training=output.picture(
            f"training-{run.slug}", f"{run.label}: loss and validation scores by epoch", lambda theme: draw_training(run, theme)
        ),
        attention=attention,
        n_examples=n_examples,
    )


def _recall_table(run: Run, counts: npt.NDArray[np.int64]) -> Table:
    rows: list[list[Cell]] = []
    for i, (name, recall) in enumerate(zip(run.classes, recalls(counts), strict=True)):
        wrong = counts[i].copy()
        wrong[i] = 0
        mistaken = f"{run.classes[int(wrong.argmax())]} ({wrong.max()})" if wrong.any() else None
        rows.append([name, int(counts[i].sum()), float(recall), mistaken])
    columns = [Column("Emotion"), Column("Clips", "count"), Column("Recall", "bar"), Column("Most often taken for")]
    return Table(f"recall-{run.slug}", "Recall of each emotion", columns, rows)


def _emotions_table(run: Run, target: npt.NDArray[np.float64], said: npt.NDArray[np.float64]) -> Table:
    metrics = regression_metrics(target, said, run.classes)
    rows: list[list[Cell]] = [
        [name, int((target[:, i] > 0).sum()), *(metrics[f"{key}_{name}"] for key in ("mae", "mse", "weighted_accuracy"))]
        for i, name in enumerate(run.classes)
    ]
    columns = [Column("Emotion"), Column("Clips with it", "count"), Column("MAE", "number"), Column("MSE", "number")]
    return Table(f"emotions-{run.slug}", "Errors of each emotion", [*columns, Column("Weighted accuracy", "percent")], rows)


def _headline(views: Sequence[RunView], measures: Sequence[Measure]) -> Table:
    columns = [Column("Run"), Column("Modalities")]
    for measure in measures:
        name = measure.name if measure.name.isupper() else measure.name.lower()
        columns += [Column(measure.name, measure.kind), Column(f"Naive {name}", measure.kind)]
    columns += [Column("Test clips", "count"), Column("Speakers", "count")]
    rows: list[list[Cell]] = []
    for view in views:
        row: list[Cell] = [view.run.label, " + ".join(view.run.modalities)]
        for measure in measures:
            row += [view.scores[measure.key], view.run.naive.get(measure.key)]
        rows.append([*row, view.run.test.num_rows, view.n_speakers])
    return Table("scores", "Scores on the test clips", columns, rows)


def _comparison(views: Sequence[RunView], measure: Measure, output: Output) -> Picture:
    labels = [v.run.label for v in views]
    scores = [v.scores[measure.key] for v in views]
    naive = [v.run.naive.get(measure.key) for v in views]
    return output.picture(
        "comparison",
        f"{measure.name} of each run with 95 % intervals, beside the naive baseline",
        lambda theme: draw_comparison(labels, scores, naive, measure.name, measure.kind == "percent", theme),
    )


def _notes(views: Sequence[RunView], measure: Measure) -> list[str]:
    """What a reader must know before trusting the scores."""
    notes = []
    for view in views:
        run, splits = view.run, view.run.config["splits"]
        shared = set(splits["train"]["speakers"]) & (set(splits["test"]["speakers"]) | set(run.speakers))
        if shared:
            notes.append(
                f"{run.label}: {len(shared)} of the test speakers are also in training: its scores say little about new people."
            )
        if unknown := run.test["speaker"].null_count:
            notes.append(f"{run.label}: {unknown} test clips name no speaker; each counts as a speaker of its own.")
        elif view.n_speakers == 1:
            notes.append(f"{run.label}: only one test speaker. Its interval is over clips and says nothing about other people.")
        elif view.n_speakers < FEW_SPEAKERS:
            notes.append(f"{run.label}: with {view.n_speakers} test speakers, the intervals are themselves rough.")
        stated, found = run.summary["test"].get(measure.key), view.scores[measure.key].value
        if stated is not None and not math.isclose(stated, found, rel_tol=1e-3, abs_tol=1e-3):
            notes.append(
                f"{run.label}: its summary says {measure.name} {show(float(stated), measure.kind)}, its predictions give "
                f"{show(found, measure.kind)}. This page goes by the predictions."
            )
    if len({frozenset(v.run.test["clip_id"].to_pylist()) for v in views}) > 1:
        notes.append("The runs were tested on different clips: their scores can't be compared directly.")
    return notes


def _unusable(runs: Sequence[Run], output: Output) -> list[UnusableView]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.streams, run.unusable], sort_keys=True), []).append(run)
    views = []
    for same in groups.values():
        run, counts, reasons, clips = same[0], None, None, None
        if run.streams is not None:
            by_stream: dict[tuple[str, str], dict[str, int]] = {}
            for row in run.streams:
                of = by_stream.setdefault((row["stream"], row["modality"]), {})
                of[row["status"]] = of.get(row["status"], 0) + row["clips"]
            columns = [Column("Stream"), Column("Modality"), *(Column(c, "count") for c in ("Usable", "Absent", "Error"))]
            cells: list[list[Cell]] = [
                [*key, *(of.get(status, 0) for status in ("ok", "absent", "error")), of.get("ok", 0) / max(sum(of.values()), 1)]
                for key, of in by_stream.items()
            ]
            counts = output.table(
                Table(f"streams-{run.slug}", "Clips by stream", [*columns, Column("Usable share", "bar")], cells)
            )
        if run.unusable is not None:
            by_reason = Counter((row["stream"], row["status"], row["reason"]) for row in run.unusable)
            columns = [Column("Stream"), Column("Status"), Column("Reason")]
            reasons = output.table(
                Table(
                    f"reasons-{run.slug}",
                    "Why",
                    [*columns, Column("Clips", "count")],
                    [[stream, _status(status), reason, n] for (stream, status, reason), n in by_reason.most_common()],
                    shown=SHOWN_REASONS,
                )
            )
            clips = output.table(
                Table(
                    f"unusable-{run.slug}",
                    "Which clips",
                    [Column("Clip"), *columns],
                    [[row["clip_id"], row["stream"], _status(row["status"]), row["reason"]] for row in run.unusable],
                    shown=SHOWN_CLIPS,
                )
            )
        views.append(UnusableView([r.label for r in same], counts, reasons, clips))
    return views


def _status(status: str) -> str:
    return "usable, with a note" if status == "ok" else status


def _attention(run: Run, output: Output, thumbnails: Thumbnails | None, most: int) -> tuple[list[AttentionView] | None, int]:
    if run.examples is None:
        return None, 0
    examples = read_examples(run)
    views = []
    for i, example in enumerate(examples[:most], 1):
        times = ((np.arange(FRAMES_PER_CLIP) + 0.5) * example.end / FRAMES_PER_CLIP).tolist()
        frames: list[npt.NDArray[np.uint8] | None] = []
        note = ""
        if thumbnails is not None and any(s.modality == "vision" for s in example.streams):
            frames = thumbnails(example.row, times)
            if len(frames) != len(times):
                raise ValueError(f"thumbnails: expected {len(times)} frames or None, found {len(frames)}")
            if all(f is None for f in frames):
                frames, note = [], "No frame of this clip could be shown."
        picture = output.picture(
            f"attention-{run.slug}-{i}",
            f"Attention over time in clip {example.row['clip_id']}, by stream and hop",
            lambda theme, example=example, frames=frames: draw_attention(example, frames, theme),  # type: ignore[misc]
            photographs=bool(frames),
        )
        views.append(AttentionView(example, picture, note))
    return views, len(examples)


def _settings(runs: Sequence[Run]) -> list[Table]:
    """What made each run, a column a run."""
    facts: list[dict[str, Any]] = []
    for run in runs:
        config, summary = run.config, run.summary
        fact = {
            "Folder": run.folder,
            "Experiment": config.get("experiment"),
            "Command": config.get("command"),
            "Model id": summary["model_id"],
            "Code version": config["code_version"],
            "Data digest": config["data_digest"],
            "Seed": config["train"].get("seed"),
            "Corpus": config["corpus"],
            "Feature store": config["store"],
            "Parameters": f"{config['parameters']:,}",
            "Epochs": f"{summary['epochs']}, the best was {summary['best_epoch']}",
            "Training time": _duration(summary["seconds"]),
        }
        for split in ("train", "valid", "test"):
            of = config["splits"][split]
            fact[f"{split.capitalize()} split"] = f"{of['clips']:,} clips of {len(of['speakers'])} speakers"
        facts.append(fact)
    streams = [{s["name"]: _describe_stream(s) for s in r.config["streams"]} for r in runs]
    sections = {
        "run": ("Run", facts),
        "streams": ("Streams", streams),
        "model": ("Model", [r.config["model"] for r in runs]),
        "train": ("Training", [r.config["train"] for r in runs]),
        "packages": ("Packages", [r.config["packages"] for r in runs]),
    }
    columns = [Column("Setting"), *(Column(r.label) for r in runs)]
    return [
        Table(f"settings-{key}", title, columns, [[name, *(_setting(v.get(name)) for v in values)] for name in _keys(values)])
        for key, (title, values) in sections.items()
    ]


def _keys(values: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(k for v in values for k in v if any(w.get(k) is not None for w in values)))


def _setting(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _describe_stream(stream: Mapping[str, Any]) -> str:
    shift = stream["frame_shift"]
    rate = f"every {1000 * shift:g} ms" if shift else "at its own times"
    return f"{stream['modality']}, version {stream['version']}, {len(stream['columns'])} columns {rate}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _fonts(characters: set[str]) -> dict[int, str]:
    """The figures' typeface for the page, weight to data URI: page and figures look alike wherever they are read."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = {}
    for weight, name in ((400, "DejaVuSans.ttf"), (700, "DejaVuSans-Bold.ttf")):
        options = subset.Options(
            flavor="woff", hinting=False, layout_features=["kern"], recalc_timestamp=False, drop_tables=["FFTM", "GSUB"]
        )
        with subset.load_font(str(folder / name), options) as font:
            subsetter = subset.Subsetter(options)
            subsetter.populate(text="".join(characters))
            subsetter.subset(font)
            buffer = io.BytesIO()
            subset.save_font(font, buffer, options)
        fonts[weight] = "data:font/woff;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return fonts
