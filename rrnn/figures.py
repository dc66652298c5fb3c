"""The report's figures: data in, a matplotlib Figure out, in the colours of a light or of a dark page.

Axes fill their figure and labels hang over its edges: a figure is meant to be saved with its tight bounding box, which
holds all that is drawn. So no margin is guessed, and no label is cut off.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator

from rrnn.results import MODALITY_ORDER, Array, ClipAttention, Curve, Measure, StreamAttention
from rrnn.statistics import Reliability

Pixels = npt.NDArray[np.uint8]

DASHED = (0, (2, 2))


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; the same as the page's. Series and modalities stay apart for colour-blind readers (Okabe-Ito)."""

    ink: str
    muted: str
    hairline: str
    surface: str
    series: tuple[str, str, str, str]

    @property
    def accent(self) -> str:
        return self.series[0]

    def modality(self, name: str) -> str:
        return self.series[MODALITY_ORDER.index(name) if name in MODALITY_ORDER else -1]

    def rc(self) -> dict[Any, Any]:
        """Matplotlib settings. Text is never parsed as mathematics: class names and words may hold dollar signs."""
        return {
            "text.parse_math": False,
            "font.family": ["DejaVu Sans"],
            "font.size": 9,
            "figure.facecolor": self.surface,
            "axes.facecolor": self.surface,
            "axes.edgecolor": self.hairline,
            "axes.axisbelow": True,
            "axes.spines.left": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.labelcolor": self.muted,
            "axes.labelsize": 9,
            "axes.titlecolor": self.muted,
            "axes.titlelocation": "left",
            "axes.titlesize": 9,
            "grid.color": self.hairline,
            "grid.linewidth": 0.5,
            "legend.frameon": False,
            "legend.fontsize": 8.5,
            "legend.labelcolor": self.muted,
            "text.color": self.ink,
            "xtick.labelcolor": self.muted,
            "ytick.labelcolor": self.muted,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
        }


LIGHT = Theme("#1b1f24", "#59626d", "#d3d8de", "#ffffff", ("#0068a8", "#c44f0a", "#00795a", "#9c4a83"))
DARK = Theme("#e7e9ec", "#a2abb5", "#3d444d", "#1b1f25", ("#5fb2ec", "#f28f50", "#45c69f", "#dc9bc6"))


def plain(text: object, length: int) -> str:
    """Text for a figure: on one line, without control characters, at most `length` characters."""
    line = "".join(" " if unicodedata.category(c).startswith("C") else c for c in " ".join(str(text).split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, in inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes((0, 0, 1, 1))


def draw_confusion(matrix: npt.NDArray[np.int64], classes: Sequence[str], theme: Theme) -> Figure:
    """Counts (C, C) of true (rows) against predicted classes, shaded by the share of each row."""
    n = len(classes)
    side = min(max(0.52 * n, 2.2), 7.0)
    figure, axes = _axes(side, side)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("share", [theme.surface, theme.accent])
    axes.pcolormesh(share, cmap=shades, vmin=0, vmax=1, edgecolor=theme.surface, linewidth=2)
    axes.invert_yaxis()
    names, centres = [plain(c, 14) for c in classes], np.arange(n) + 0.5
    axes.set_xticks(centres, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(centres, names)
    axes.tick_params(labelcolor=theme.ink)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines["bottom"].set_visible(False)
    if n <= 20:  # beyond that, numbers are too small to read, and the table beside has them
        for i, j in np.ndindex(n, n):
            shade = _lightness(shades(share[i, j]))
            colour = max((theme.ink, theme.surface), key=lambda c: abs(_lightness(to_rgb(c)) - shade))
            style: dict[str, Any] = {"fontsize": 9 if n <= 10 else 6.5, "weight": "bold" if i == j else None}
            axes.text(j + 0.5, i + 0.5, str(matrix[i, j]), ha="center", va="center", color=colour, **style)
    return figure


def _lightness(rgb: Sequence[float]) -> float:
    """Perceived lightness from 0 to 1, near enough to choose readable text: the square root of relative luminance."""
    return float(np.sqrt(np.dot([0.2126, 0.7152, 0.0722], np.square(rgb[:3]))))


class SpeakerScore(NamedTuple):
    """A speaker's score over so many clips."""

    speaker: str
    value: float
    clips: int


def draw_speakers(speakers: Sequence[SpeakerScore], overall: float, naive: float, measure: Measure, theme: Theme) -> Figure:
    """One dot a speaker, from top to bottom; its area grows with the speaker's clips. Lines: all clips, and the naive score."""
    n, named = len(speakers), len(speakers) <= 40
    figure, axes = _axes(3.3, (0.23 if named else 0.09) * max(n, 4))
    y, clips = np.arange(n), np.array([s.clips for s in speakers])
    if named:
        axes.grid(axis="y")
        axes.set_yticks(y, [plain(s.speaker, 16) for s in speakers])
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{n} speakers")
    sizes = 18 + 60 * clips / clips.max() if named else 12
    values = [measure.scale * s.value for s in speakers]
    axes.scatter(values, y, s=sizes, color=theme.accent, edgecolor=theme.surface, linewidth=0.8, zorder=3)
    # Each line's name stands on the side away from the other line.
    for x, name, colour, style, right in (
        (overall, "all clips", theme.ink, "-", overall >= naive),
        (naive, "naive", theme.muted, DASHED, naive > overall),
    ):
        axes.axvline(measure.scale * x, color=colour, linewidth=1, linestyle=style, zorder=2)
        place: dict[str, Any] = {"ha": "left" if right else "right", "transform": axes.get_xaxis_transform()}
        axes.text(measure.scale * x, 1.01, f" {name} ", color=colour, va="bottom", fontsize=8.5, **place)
    axes.set_ylim(n - 0.4, -0.6)
    if measure.kind == "percent":
        axes.set_xlim(-2, 102)
    axes.set_xlabel(measure.axis)
    return figure


def draw_training(
    epochs: Sequence[Mapping[str, Any]], chosen: int, measures: Sequence[tuple[str, str]], percent: bool, theme: Theme
) -> Figure:
    """Loss and two validation scores by epoch, and the chosen epoch. epochs: lines of metrics.jsonl; measures: (key, name)."""
    figure = Figure(figsize=(3.3, 3.6))
    figure.subplots_adjust(0, 0, 1, 1, hspace=0.25)
    losses = [("train_loss", "train", theme.muted), ("valid_loss", "valid", theme.accent)]
    scores = [(key, name, theme.series[i]) for (key, name), i in zip(measures, (0, 2), strict=True)]
    panels = (("loss", 1, losses), ("validation, %", 100, scores) if percent else ("validation error", 1, scores))
    numbers = [e["epoch"] for e in epochs]
    for axes, (heading, scale, lines) in zip(figure.subplots(2, 1, sharex=True), panels, strict=True):
        ends = []
        for key, name, colour in lines:
            values = [scale * e[key] for e in epochs]
            axes.plot(numbers, values, color=colour, linewidth=1.8, marker="o" if len(epochs) < 3 else None, markersize=3)
            ends.append((values[-1], name, colour))
        axes.axvline(chosen, color=theme.ink, linewidth=0.9, linestyle=DASHED, zorder=1)
        axes.margins(y=0.12)
        axes.grid(axis="y")
        axes.set_title(heading)
        _label_line_ends(axes, ends)
    first, last = figure.axes
    first.text(chosen, 1.02, f"epoch {chosen}, kept", ha="center", fontsize=8.5, transform=first.get_xaxis_transform())
    last.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    last.set_xlabel("epoch")
    return figure


def _label_line_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names lines at their right ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    y = -math.inf
    for value, name, colour in sorted(ends):
        y = max(value, y + 0.13 * (high - low))
        axes.text(1.01, y, name, va="center", color=colour, weight="bold", transform=axes.get_yaxis_transform())


def draw_scatter(target: Array, prediction: Array, names: Sequence[str], theme: Theme) -> Figure:
    """Predicted against true intensity, both (n, C), a panel an emotion; the line is where they agree."""
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.1 * columns, 2.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.12, hspace=0.25)
    low, high = min(target.min(), prediction.min()), max(target.max(), prediction.max())
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for c, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        axes.plot([low, high], [low, high], color=theme.muted, linewidth=0.8, linestyle=DASHED)
        alpha = 0.45 if len(target) < 500 else 0.15
        axes.scatter(target[:, c], prediction[:, c], s=9, color=theme.accent, alpha=alpha, linewidth=0)
        axes.set(xlabel="true intensity", ylabel="predicted intensity")
        axes.set_title(plain(name, 22), color=theme.ink)
        axes.label_outer()
    return figure


def draw_comparison(
    labels: Sequence[str],
    scores: Sequence[tuple[float, float, float]],
    naive: Sequence[float],
    measure: Measure,
    theme: Theme,
    *,
    seeds: Sequence[Array] | None = None,
) -> Figure:
    """One row a run or experiment: its score (value, low, high) with the interval as a bar, and the naive baseline as an
    upright stroke. seeds: of an experiment, the score of each seed, as small rings below it."""
    figure, axes = _axes(4.6, 0.34 * len(labels) + 0.15)
    y, (values, low, high) = np.arange(len(labels)), measure.scale * np.array(scores).T
    axes.hlines(y, low, high, color=theme.accent, linewidth=2.4, alpha=0.45)
    axes.plot(values, y, "o", color=theme.accent, markersize=7, markeredgecolor=theme.surface)
    for row, each in enumerate(seeds or ()):
        look: dict[str, Any] = {"markerfacecolor": theme.surface, "markeredgecolor": theme.ink, "markeredgewidth": 0.9}
        axes.plot(measure.scale * each, np.full(len(each), row + 0.27), "o", markersize=4, **look)
    axes.vlines(measure.scale * np.array(naive), y - 0.28, y + 0.28, color=theme.muted, linewidth=1.6)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(y, [plain(label, 34) for label in labels])
    axes.tick_params(axis="y", labelcolor=theme.ink)
    axes.grid(axis="x")
    axes.set_xlabel(measure.axis)
    return figure


def draw_reliability(curves: Mapping[str, tuple[Reliability, Reliability]], theme: Theme) -> Figure:
    """A panel an experiment: accuracy by confidence, before and after scaling, a dot a bin; on the dashed line, both agree."""
    columns = min(4, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(2.1 * columns, 2.35 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.12, hspace=0.24)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (name, (before, after)) in zip(grid.flat, curves.items(), strict=False):
        axes.plot([0, 100], [0, 100], color=theme.muted, linewidth=0.8, linestyle=DASHED)
        for curve, colour in ((before, theme.series[1]), (after, theme.accent)):
            look: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.6, "color": colour, "clip_on": False}
            axes.plot(100 * curve.confidence, 100 * curve.accuracy, **look)
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="accuracy, %")
        axes.set_xticks([0, 50, 100])
        axes.set_yticks([0, 50, 100])
        axes.grid()
        axes.set_title(plain(name, 24), color=theme.ink)
        axes.label_outer()
    names = {"as it is": theme.series[1], "temperature-scaled": theme.accent}
    handles = [Line2D([], [], color=c, marker="o", markersize=3.5, linewidth=1.6, label=name) for name, c in names.items()]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1 + 0.28 / (2.35 * rows)), ncols=2, borderaxespad=0)
    return figure


def draw_ablation(curves: Mapping[str, Sequence[Curve]], measure: Measure, theme: Theme) -> Figure:
    """A panel a modality: the score as noise on it grows, a line a run, and at the right the score without the modality."""
    figure = Figure(figsize=(2.9 * len(curves), 2.4))
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.08)
    styles = ("-", DASHED, (0, (6, 2)), (0, (1, 1.5)))
    lines: dict[str, Line2D] = {}
    for axes, (modality, runs) in zip(
        figure.subplots(1, len(curves), sharey=True, squeeze=False).flat, curves.items(), strict=True
    ):
        # Levels stand at even distances: they grow by factors, and 0 is among them
        levels = np.unique(np.concatenate([c.levels for c in runs]))
        absent = len(levels) - 0.25
        for i, curve in enumerate(runs):
            look: dict[str, Any] = {
                "color": theme.series[i % len(theme.series)],
                "linestyle": styles[i // len(theme.series) % len(styles)],
            }
            places = np.searchsorted(levels, curve.levels)
            (line,) = axes.plot(places, measure.scale * curve.values, linewidth=1.8, marker="o", markersize=3.5, **look)
            lines.setdefault(plain(curve.label, 34), line)
            axes.plot([absent], [measure.scale * curve.absent], "D", markersize=5, color=look["color"])
        axes.set_xticks([*range(len(levels)), absent], [*(f"{x:g}" for x in levels), "absent"])
        axes.axvline(absent - 0.4, color=theme.hairline, linewidth=0.8)
        axes.grid(axis="y")
        axes.set_title(f"noise on {modality}, standard deviations", color=theme.modality(modality))
    figure.axes[0].set_ylabel(measure.axis)
    if len(lines) > 1:
        figure.legend(lines.values(), lines.keys(), loc="upper left", bbox_to_anchor=(0, -0.14), ncols=3)
    return figure


# --- attention over time ---------------------------------------------------------------------------------------------


# In inches.
_LEFT, _PLOT, _GATE_LEFT, _GATE = -1.25, 7.1, 7.52, 1.0
_PANEL, _GAP, _STRIP, _WORD_LINE = 0.95, 0.24, 0.77, 0.17


def draw_attention(clip: ClipAttention, frames: Sequence[Pixels | None], theme: Theme) -> Figure:
    """The paper's figure 4 for one clip: a panel a stream on one time axis, words and video frames at their times.

    frames: RGB pictures at evenly spread times, shown above the first vision stream; empty for none.
    """
    figure = Figure(figsize=(1, 1))  # fractions of one inch are inches; panels go as far below as they need
    _hop_legend(figure, max(len(s.relative) for s in clip.streams), theme)
    figure.text(_GATE_LEFT, 0.07, "gate openness", fontsize=8.5, color=theme.muted)
    with_frames = next((s for s in clip.streams if s.modality == "vision"), None) if len(frames) else None
    y = 0.0  # of a panel's lower edge
    for s in clip.streams:
        words = _place_words(s, clip.end)
        y -= _PANEL + _WORD_LINE * (1 + max((w.line for w in words), default=-1)) + (_STRIP if s is with_frames else 0)
        axes = figure.add_axes((0, y, _PLOT, _PANEL))
        _draw_stream(axes, s, clip.end, theme)
        _draw_words(axes, words, theme.modality(s.modality), theme)
        if s is with_frames:
            _draw_frames(axes, frames, theme)
        gates = figure.add_axes((_GATE_LEFT, y, _GATE, _PANEL))
        _draw_gates(gates, s.gates, theme.modality(s.modality), theme)
        top = y + _PANEL - 0.04
        figure.text(_LEFT, top, plain(s.stream, 13), weight="bold", va="top", color=theme.modality(s.modality))
        if s.modality != s.stream:
            figure.text(_LEFT, top - 0.17, plain(s.modality, 13), va="top", fontsize=8.5, color=theme.muted)
        if s is clip.streams[-1]:
            axes.set_xlabel("seconds", loc="right", fontsize=8.5)
            gates.set_xlabel("hop", loc="right", fontsize=8.5)
        else:
            axes.tick_params(labelbottom=False)
            gates.tick_params(labelbottom=False)
        y -= _GAP
    height = 0.19 * len(clip.names)
    _draw_answers(figure.add_axes((0, y - 0.5 - height, _PLOT, height)), clip, theme)
    return figure


def _hop_style(hop: int, hops: int) -> dict[str, Any]:
    """Earlier hops are thin and pale; the last, from which the answer is read, is heavy."""
    if hop == hops - 1:
        return {"linewidth": 2.0, "solid_capstyle": "round"}
    return {"linewidth": 1.0, "alpha": 0.35 + 0.3 * hop / (hops - 1)}


def _hop_legend(figure: Figure, hops: int, theme: Theme) -> None:
    handles = [Line2D([], [], color=theme.ink, label=f"hop {h + 1}", **_hop_style(h, hops)) for h in range(hops)]
    handles.append(Line2D([], [], color=theme.muted, linewidth=0.8, linestyle=DASHED, label="even spread"))
    spacing = {"handlelength": 1.6, "columnspacing": 1.4, "borderpad": 0, "borderaxespad": 0}
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 0.07), ncols=min(hops + 1, 8), **spacing)


def _draw_stream(axes: Axes, s: StreamAttention, end: float, theme: Theme) -> None:
    colour = theme.modality(s.modality)
    axes.axhline(1, color=theme.muted, linewidth=0.8, linestyle=DASHED, zorder=1)
    for hop, values in enumerate(s.relative):
        style = _hop_style(hop, len(s.relative))
        dots = {"marker": "o", "markersize": style["linewidth"] + 1.5, "markeredgewidth": 0} if s.tokens is not None else {}
        axes.plot(s.times, values, color=colour, **style, **dots)
    axes.fill_between(s.times, s.relative[-1], color=colour, alpha=0.12, linewidth=0)
    axes.set_xlim(0, end)
    axes.set_ylim(0, max(2.0, 1.08 * float(s.relative.max())))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}×")


class _Word(NamedTuple):
    """A word that found room: x of its centre in seconds, line counted from the panel upwards."""

    text: str
    x: float
    line: int
    attended: bool


def _place_words(s: StreamAttention, end: float) -> list[_Word]:
    """The words that find room on up to four lines, the most attended first."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(4)]
    placed = []
    for i in np.argsort(-s.relative[-1], kind="stable") if s.tokens is not None else ():
        word = plain(s.tokens[i], 18)  # type: ignore[index]
        half = (0.085 * len(word) + 0.1) / _PLOT * end / 2
        x = min(max(float(s.times[i]), half), end - half)
        for line, others in enumerate(taken):
            if all(x + half <= a or x - half >= b for a, b in others):
                others.append((x - half, x + half))
                placed.append(_Word(word, x, line, bool(s.relative[-1, i] > 1)))
                break
    return placed


def _draw_words(axes: Axes, words: Sequence[_Word], colour: str, theme: Theme) -> None:
    for word in words:
        look: dict[str, Any] = {"color": colour, "weight": "bold"} if word.attended else {"color": theme.muted}
        y = 1 + (word.line + 0.5) * _WORD_LINE / _PANEL
        axes.text(word.x, y, word.text, ha="center", va="center", fontsize=8.5, transform=axes.get_xaxis_transform(), **look)


def _draw_frames(axes: Axes, frames: Sequence[Pixels | None], theme: Theme) -> None:
    """Frames side by side above the panel at their times, each as large as its share of the strip allows."""
    for i, frame in enumerate(frames):
        at = ((i + 0.5) / len(frames), 1 + (_STRIP / 2 + 0.02) / _PANEL)
        if frame is None:
            axes.text(*at, "no frame", ha="center", va="center", fontsize=8, color=theme.muted, transform=axes.transAxes)
            continue
        inches_per_pixel = min((_PLOT / len(frames) - 0.04) / frame.shape[1], (_STRIP - 0.05) / frame.shape[0])
        picture = OffsetImage(frame, zoom=72 * inches_per_pixel)
        axes.add_artist(AnnotationBbox(picture, at, xycoords="axes fraction", frameon=False, pad=0))


def _draw_gates(axes: Axes, gates: Array, colour: str, theme: Theme) -> None:
    hops = np.arange(1, len(gates) + 1)
    axes.bar(hops, 1, width=0.62, color=theme.hairline, alpha=0.45)
    axes.bar(hops, gates, width=0.62, color=colour)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1])
    axes.set_xticks(hops)
    axes.spines["bottom"].set_visible(False)


def _draw_answers(axes: Axes, clip: ClipAttention, theme: Theme) -> None:
    """Bars of what the model answered. A classifier's true class is named in bold; true intensities are rings."""
    y = np.arange(len(clip.names))
    axes.set_ylim(len(y) - 0.5, -0.5)
    axes.set_yticks(y, [plain(name, 14) for name in clip.names])
    axes.spines["bottom"].set_visible(False)
    if isinstance(clip.truth, str):
        best = clip.values.argmax()
        bars = axes.barh(y, clip.values, height=0.62, color=[theme.accent if i == best else theme.muted for i in y])
        axes.bar_label(bars, [f"{100 * v:.0f}\u202f%" for v in clip.values], padding=4, fontsize=8.5)
        axes.set_xlim(0, 1.1)
        axes.set_xticks([])
        axes.set_title("probability of each class; the true one is bold", fontsize=8.5)
        axes.get_yticklabels()[clip.names.index(clip.truth)].set(weight="bold", color=theme.ink)
    else:
        axes.barh(y, clip.values, height=0.62, color=theme.accent)
        axes.axvline(0, color=theme.hairline, linewidth=0.8)
        axes.plot(clip.truth, y, "o", markerfacecolor=theme.surface, markeredgecolor=theme.ink, markersize=6, clip_on=False)
        axes.set_title("predicted intensity, and the true one as a ring", fontsize=8.5)
        axes.tick_params(axis="y", pad=8)  # room for a ring at 0
