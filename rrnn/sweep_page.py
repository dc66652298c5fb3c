"""The page of a sweep: what was tried, what it made of the validation clips, and when the test set was opened.

Every figure but the winner's test is on validation clips. Of how much a value matters, trials of all values are compared after
as many epochs: the first at which any could be stopped, where they could.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rrnn import metrics
from rrnn.figures import DASHED, Theme, plain
from rrnn.report import Output, render_page
from rrnn.results import Score
from rrnn.spaces import Dimension, Value, show
from rrnn.sweep import Settings, Sweep, Trial, about_the_test, name_of, winner
from rrnn.tables import Cell, Table

BINS = 4
"""Of a dimension of numbers, into as many parts with equally many trials."""
FEW = 5
"""Trials of a value below which its interval is shown with a warning."""


@dataclass(frozen=True)
class Group:
    """Trials of one value, or bin of values, of a dimension: their figures, their mean and its interval."""

    label: str
    figures: list[float]
    score: Score


def write_page(url: str) -> Path:
    """Write FOLDER/sweep.html, self-contained, with figures/ and tables/ beside it. Raises ValueError where there is no sweep,
    none of its trials ended, or the folder is in a bucket."""
    if "://" in url:
        raise ValueError(f"{url}: expected a folder of this machine")
    sweep = Sweep(url)
    found, settings = sweep.read(), sweep.settings()
    trials = sweep.trials(len(found["trials"]))
    best = winner(settings, trials)
    if best is None or best.summary is None:
        raise ValueError(f"{url}: no trial has ended with a figure: there is nothing to show yet")
    output = Output(Path(url))
    ranked = _ranked(settings, trials)
    varying = settings.opened_space.varying()
    early = min([*settings.rungs, settings.epochs])
    effects = {key: _groups(settings, key, d, ranked, early) for key, d in varying.items()}
    effects = {key: groups for key, groups in effects.items() if len(groups) > 1}
    page = {
        "settings": settings,
        "trials": trials,
        "states": {state: sum(t.state == state for t in trials) for state in ("done", "stopped", "failed", "unfinished")},
        "best": best,
        "figure": settings.figure(best.history),
        "sentence": about_the_test(settings, sweep.openings(), trials),
        "openings": sweep.openings(),
        "name_of": name_of,
        "made": "made" in _corpus(sweep, best),
        "early": early,
        "few": FEW,
        "configuration": [(key, show(value)) for key, value in (best.choices or {}).items() if key in varying],
        "parallel": output.picture(
            "parallel",
            "each trial as a line through its values, to its validation figure",
            partial(draw_parallel, settings, varying, ranked, best),
        ),
        "effects": output.picture(
            "effects", "validation figure by value of each dimension", partial(draw_effects, settings, effects)
        )
        if effects
        else None,
        "effect_table": output.table(_effect_table(settings, effects)),
        "curves": output.picture(
            "curves", "validation loss of every trial by epoch", partial(draw_curves, trials, best, settings.rungs)
        ),
        "table_of_trials": output.table(_trial_table(settings, varying, ranked)),
        "failed": [t for t in trials if t.state == "failed"],
        "about": {
            "Store": settings.store,
            "Data digest": found["data_digest"],
            "Search": settings.search + (f", lag {settings.lag}" if settings.search == "optuna" else ""),
            "Seed of the search": str(settings.seed),
            "Epochs at most": str(settings.epochs),
            "Stopped early": f"after {', '.join(map(str, settings.rungs))} epochs, if not in the best 1/{settings.reduction}"
            if settings.rungs
            else "never",
            **{key: str(d) for key, d in settings.opened_space.dimensions.items()},
        },
    }
    path = Path(url) / "sweep.html"
    render_page("sweep.html.j2", page, path)
    return path


def _corpus(sweep: Sweep, trial: Trial) -> str:
    return str(sweep.run_folder(trial.number).read_json("config.json")["corpus"])


def _ranked(settings: Settings, trials: Sequence[Trial]) -> list[Trial]:
    """Those with a figure, the best first."""
    figures = {t.number: settings.figure(t.history) for t in trials if t.summary is not None}
    kept = [t for t in trials if figures.get(t.number) is not None]
    return sorted(kept, key=lambda t: (figures[t.number] or 0.0) * (1 if settings.lower_is_better else -1))


def _groups(settings: Settings, key: str, dimension: Dimension, trials: Sequence[Trial], epochs: int) -> list[Group]:
    """The trials by value of a dimension, or by bin of as many trials; figures after so many epochs."""
    pairs = []
    for t in trials:
        figure = settings.figure(t.history[:epochs])
        if t.choices is not None and key in t.choices and figure is not None:
            pairs.append((t.choices[key], figure))
    if not pairs:
        return []
    by_label: dict[str, list[float]] = {}
    discrete = dimension.kind == "choice" or (dimension.kind == "int" and len({v for v, _ in pairs}) <= 2 * BINS)
    if discrete:
        order = list(dimension.values) if dimension.kind == "choice" else sorted({v for v, _ in pairs})  # type: ignore[type-var]
        for value in order:
            if figures := [f for v, f in pairs if v == value]:
                by_label[show(value)] = figures
    else:
        pairs.sort(key=lambda p: float(p[0] or 0))
        for part in np.array_split(np.arange(len(pairs)), min(BINS, len(pairs))):
            low, high = pairs[part[0]][0], pairs[part[-1]][0]
            by_label[f"{show(low)} to {show(high)}"] = [pairs[i][1] for i in part]
    return [Group(label, figures, _mean(figures)) for label, figures in by_label.items()]


def _mean(figures: list[float]) -> Score:
    """With the 95 % bootstrap interval over the trials."""
    values = np.array(figures)
    low, high = metrics.bootstrap_interval(lambda i: float(values[i].mean()), [str(i) for i in range(len(values))])
    return Score(float(values.mean()), low, high, "" if np.isnan(low) else "resampled trials")


def _effect_table(settings: Settings, effects: Mapping[str, Sequence[Group]]) -> Table:
    rows: list[list[Cell]] = [
        [key, g.label, len(g.figures), g.score, min(g.figures) if settings.lower_is_better else max(g.figures)]
        for key, groups in effects.items()
        for g in groups
    ]
    columns = {"Dimension": "text", "Value": "text", "Trials": "count", f"Mean validation {settings.metric}": "number"}
    return Table("effects", "", {**columns, "Best": "number"}, rows)


def _trial_table(settings: Settings, varying: Mapping[str, Dimension], ranked: Sequence[Trial]) -> Table:
    rows: list[list[Cell]] = []
    for t in ranked:
        assert t.choices is not None
        assert t.summary is not None
        values = [show(t.choices[key]) if key in t.choices else None for key in varying]
        epochs = f"{t.summary['best_epoch']} of {t.summary['epochs']}{', stopped' if t.state == 'stopped' else ''}"
        rows.append([t.name, settings.figure(t.history), epochs, *values, t.summary["seconds"]])
    keys = dict.fromkeys((key.partition(".")[2] for key in varying), "text")
    columns = {"Trial": "text", f"Validation {settings.metric}": "number", "Best epoch": "text", **keys, "Seconds": "number"}
    return Table("trials", "Trials", columns, rows)


# --- figures ---------------------------------------------------------------------------------------------------------


def _position(dimension: Dimension, value: Value) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    if dimension.kind == "choice":
        return dimension.values.index(value) / max(1, len(dimension.values) - 1)
    (low, high), x = dimension.bounds, float(value)  # type: ignore[arg-type]
    if dimension.kind == "loguniform":
        low, high, x = np.log(low), np.log(high), np.log(x)
    return float((x - low) / (high - low))


def draw_parallel(
    settings: Settings, varying: Mapping[str, Dimension], ranked: Sequence[Trial], best: Trial, theme: Theme
) -> Figure:
    """A line a trial through its values, and at the right to its figure; better ones are darker, the winner stands out. A
    dimension that a trial does not have is passed below its axis."""
    figure = Figure(figsize=(9.0, 3.4))
    axes = figure.add_axes((0, 0, 1, 1))
    figures = np.array([settings.figure(t.history) for t in ranked], np.float64)
    low, high = float(figures.min()), float(figures.max())
    end = len(varying)
    random = np.random.default_rng(0)
    for rank in reversed(range(len(ranked))):
        t = ranked[rank]
        assert t.choices is not None
        y = [_position(d, t.choices[key]) if key in t.choices else -0.14 for key, d in varying.items()]
        jitter = random.uniform(-0.018, 0.018, end)
        last = 0.5 if high == low else (figures[rank] - low) / (high - low)
        won = t.number == best.number
        style: dict[str, Any] = {"color": theme.series[1], "linewidth": 2.4, "zorder": 4} if won else {}
        if not won:
            style = {"color": theme.accent, "linewidth": 1.1, "alpha": 0.15 + 0.55 * (1 - rank / max(1, len(ranked) - 1))}
        axes.plot([*range(end), end], [*(np.array(y) + (0 if won else jitter)), last], **style)
    for x, (key, d) in enumerate(varying.items()):
        axes.axvline(x, ymin=0.12, color=theme.hairline, linewidth=1)
        if d.kind == "choice":
            ticks = [(_position(d, v), show(v)) for v in d.values]
        else:
            ticks = [(0.0, show(d.values[0])), (1.0, show(d.values[1]))]
        for y_tick, label in ticks:
            axes.text(
                x + 0.03, y_tick, plain(label, 14), va="center", fontsize=8, zorder=5,
                bbox={"facecolor": theme.surface, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            )  # fmt: skip
        axes.text(x, 1.12, plain(key.partition(".")[2], 16), ha="center", color=theme.muted, weight="bold")
    axes.axvline(end, ymin=0.12, color=theme.hairline, linewidth=1)
    for y_tick, number in ((0.0, low), (1.0, high)):
        axes.text(end + 0.05, y_tick, f"{number:.3g}", va="center", fontsize=8)
    axes.text(end, 1.12, f"validation {settings.metric}", ha="center", color=theme.muted, weight="bold")
    axes.set(xlim=(-0.1, end + 0.3), ylim=(-0.22, 1.05), xticks=[], yticks=[])
    axes.spines["bottom"].set_visible(False)
    return figure


def draw_effects(settings: Settings, effects: Mapping[str, Sequence[Group]], theme: Theme) -> Figure:
    """A panel a dimension: a dot a trial, and for each value the mean with its interval."""
    columns = min(3, len(effects))
    rows = -(-len(effects) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.1 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.12, hspace=0.62)
    random = np.random.default_rng(0)
    for axes, (key, groups) in zip(grid.flat, effects.items(), strict=False):
        for x, g in enumerate(groups):
            axes.scatter(
                x + random.uniform(-0.12, 0.12, len(g.figures)), g.figures, s=12, color=theme.muted, alpha=0.5, linewidth=0
            )
            if g.score.interval:
                axes.plot([x, x], [g.score.low, g.score.high], color=theme.accent, linewidth=2)
            axes.plot([x - 0.22, x + 0.22], [g.score.value] * 2, color=theme.accent, linewidth=2)
        axes.set_xticks(range(len(groups)), [plain(g.label, 18) for g in groups], fontsize=7.5 if len(groups) > 3 else None)
        if max(len(g.label) for g in groups) * len(groups) > 36:
            axes.tick_params(axis="x", rotation=20)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.grid(axis="y")
        axes.set_title(plain(key, 30))
    for axes in grid.flat[len(effects) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"validation {settings.metric}")
    return figure


def draw_curves(trials: Sequence[Trial], best: Trial, rungs: Sequence[int], theme: Theme) -> Figure:
    """Validation loss by epoch, a line a trial. Upright lines: where trials could be stopped."""
    figure = Figure(figsize=(9.0, 3.0))
    axes = figure.add_axes((0, 0, 1, 1))
    seen = []
    for t in trials:
        loss = np.array([line["valid_loss"] for line in t.history], np.float64)
        if not np.isfinite(loss).any():
            continue
        won = t.number == best.number
        style: dict[str, Any] = {"color": theme.series[1], "linewidth": 2.2, "zorder": 4} if won else {}
        if not won:
            style = {"color": theme.accent, "linewidth": 1, "alpha": 0.45}
        epochs = np.arange(1, len(loss) + 1)
        axes.plot(epochs, loss, **style)
        axes.plot(epochs[-1:], loss[-1:], marker="x" if t.state == "stopped" else "o", markersize=4, **style)
        seen += loss[np.isfinite(loss)].tolist()
    for epoch in rungs:
        axes.axvline(epoch, color=theme.muted, linewidth=0.8, linestyle=DASHED, zorder=1)
    low, high = min(seen), float(np.quantile(seen, 0.98))  # a loss that explodes would flatten all others
    axes.set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
    axes.set(xlabel="epoch", ylabel="validation loss")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.grid(axis="y")
    return figure
