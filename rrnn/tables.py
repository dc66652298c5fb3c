"""Experiments, each of several runs, as tables: beside each other, and as differences. A table is data; it is shown as HTML
(rrnn.report), as CSV with unrounded values, and as LaTeX.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np

from rrnn import metrics, statistics
from rrnn.config import completed
from rrnn.results import RESAMPLED_CLIPS, RESAMPLED_SPEAKERS, Measure, Run, Score
from rrnn.statistics import Estimate, Part, Pooled, Reliability

AVERAGES = "Linear model of averages"

# --- a table ----------------------------------------------------------------------------------------------------------

Cell = str | int | float | Score | Estimate | None


@dataclass(frozen=True)
class Table:
    """A table of the page, which shows the first `shown` rows, and, in full, a CSV file.

    columns: name to kind, which is "text", "count", "percent" (a share, shown times 100), "bar" (likewise, with a bar),
    "number", "points" (a difference of shares, shown times 100 with its sign) or "signed" (any other difference). A number
    after a colon says how many decimals are shown: "percent:2".
    """

    name: str
    title: str
    columns: dict[str, str]
    rows: list[list[Cell]]
    shown: int | None = None
    notes: tuple[str, ...] = ()


def show(value: Cell, kind: str = "text") -> str:
    """A value as the page prints it: shares as percent with one decimal, numbers with three, NaN as "undefined"."""
    if isinstance(value, Score | Estimate):
        value = value.value
    if value is None:
        return "–"
    if kind == "text":
        return str(value)
    if kind == "count":
        return f"{value:,}"
    if math.isnan(float(value)):
        return "undefined"
    percent = kind.partition(":")[0] in ("percent", "bar")
    return f"{_digits(float(value), kind)}\u202f%" if percent else _digits(float(value), kind)


def _digits(value: float, kind: str) -> str:
    name, _, decimals = kind.partition(":")
    if name in ("percent", "bar", "points"):
        return f"{100 * value:{'+' if name == 'points' else ''}.{decimals or 1}f}"
    if not decimals and 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:{'+' if name == 'signed' else ''}.{decimals or 3}f}"


def show_interval(score: Score | Estimate, kind: str) -> str:
    """A score's interval, as "57.0 to 65.3"; empty where it has none."""
    return "" if math.isnan(score.low) else f"{_digits(score.low, kind)} to {_digits(score.high, kind)}"


def show_spread(score: Score | Estimate, kind: str) -> list[str]:
    """An estimate's deviations over seeds and over folds, as ["± 1.2 seeds", "± 3.4 folds"], without those of one alone."""
    if not isinstance(score, Estimate):
        return []
    each = {"seeds": score.sd_seeds, "folds": score.sd_folds}
    return [f"± {_digits(sd, kind)} {what}" for what, sd in each.items() if not math.isnan(sd)]


def to_csv(table: Table) -> str:
    """With unrounded values. Columns with intervals have _low, _high and _interval (what it is over) beside them; columns of
    estimates _low, _high, _sd_seeds and _sd_folds."""
    header, widths = [], []
    for c, column in enumerate(table.columns):
        kinds = {type(row[c]) for row in table.rows} & {Score, Estimate}
        fields = (Estimate if Estimate in kinds else Score)._fields[1:] if kinds else ()
        header += [column, *(f"{column}_{field}" for field in fields)]
        widths.append(1 + len(fields))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    for row in table.rows:
        values: list[Any] = []
        for cell, width in zip(row, widths, strict=True):
            found = list(cell) if isinstance(cell, Score | Estimate) else [cell]
            values += found + [None] * (width - len(found))
        writer.writerow(values)
    return text.getvalue()


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "\u202f": r"\,"}
_LATEX |= {c: rf"\{c}" for c in "{}$&#_%"} | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    line = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return "".join(_LATEX.get(c, c) for c in line)


def to_latex(table: Table) -> str:
    r"""A table environment in the manner of booktabs, for documents that say \usepackage{booktabs}. Shares are in percent, as
    the head says; an estimate is "mean ± deviation over seeds (interval)"."""
    head = [
        latex_text(name) + (r" (\%)" if kind.partition(":")[0] in ("percent", "bar") else "")
        for name, kind in table.columns.items()
    ]
    lines = [[_latex_cell(cell, kind) for cell, kind in zip(row, table.columns.values(), strict=True)] for row in table.rows]
    spec = "".join("l" if kind == "text" else "r" for kind in table.columns.values())
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(table.title)}}}",
            rf"\label{{tab:{re.sub('[^a-z0-9-]+', '-', table.name.lower())}}}",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip{{\footnotesize {latex_text(note)}}}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(cell: Cell, kind: str) -> str:
    text = latex_text(show(cell, kind).removesuffix("\u202f%"))
    if isinstance(cell, Score | Estimate):
        if isinstance(cell, Estimate) and not math.isnan(cell.sd_seeds):
            text += rf" $\pm$ {_digits(cell.sd_seeds, kind)}"
        if interval := show_interval(cell, kind):
            text += f" ({interval.replace(' to ', '--') if cell.low >= 0 else interval})"
    return text


# --- experiments ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in seed and fold alone, and what they say together. name: the configuration's; label: for people, and
    unique. runs and parts belong together, one by one."""

    name: str
    label: str
    runs: list[Run]
    parts: list[Part]
    pooled: Pooled

    @property
    def measures(self) -> tuple[Measure, ...]:
        return self.runs[0].measures

    @property
    def n_folds(self) -> int:
        return len(np.unique(self.pooled.folds))

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """By measure."""
        return {m.key: statistics.estimate(self.pooled, m.key) for m in self.measures}

    @property
    def best(self) -> Run:
        """The run that did best on its validation clips."""
        return best_on_validation(self.runs)

    def valid(self, key: str) -> float:
        """The mean over runs of a measure on their validation clips: what experiments may be chosen by."""
        return float(np.mean([r.summary["valid"][key] for r in self.runs]))

    def baseline(self, name: str, key: str) -> float | None:
        """A measure of the baseline that summary.json calls "naive" or "statistics", over all folds, mean over seeds; None
        where a run has none. Folds count by their clips, which is exact for all measures but the unweighted average recall and
        the weighted accuracy, and near enough for those."""
        found = [r.summary.get(name, {}).get(key) for r in self.runs]
        return None if None in found else float(np.average(found, weights=[len(r.clips) for r in self.runs]))

    @cached_property
    def averages(self) -> Pooled | None:
        """What the linear model of averages answered to the same clips; None where a run has none."""
        answers = [r.averages for r in self.runs]
        parts = [replace(part, values=a) for part, a in zip(self.parts, answers, strict=True) if a is not None]
        return statistics.pool(parts) if len(parts) == len(answers) else None

    def with_noise(self, modality: str, level: float, key: str) -> Estimate | None:
        """A measure with noise of a level on a modality, of ablation.parquet: mean over draws, folds (by their clips, as in
        baseline) and seeds. Has no interval, since only scores were kept. None where a run was not tested so."""
        by_seed: dict[int, list[tuple[float, int]]] = {s: [] for s in self.pooled.seeds}
        for run, part in zip(self.runs, self.parts, strict=True):
            drawn = [r[key] for r in run.ablation if (r["kind"], r["modality"], r["level"]) == ("noise", modality, level)]
            if not drawn:
                return None
            by_seed[part.seed].append((float(np.mean(drawn)), len(part.ids)))
        seeds = np.array([np.average([x for x, _ in of], weights=[n for _, n in of]) for of in by_seed.values()])
        return Estimate(float(seeds.mean()), math.nan, math.nan, statistics.deviation(seeds), math.nan)

    @cached_property
    def calibration(self) -> Calibration | None:
        """None of intensities, and where a run has no validation clips."""
        sides = [replace(r, clips=r.valid) for r in self.runs]
        if self.pooled.regression or not all(r.clips for r in sides):
            return None
        temperatures = [statistics.fit_temperature(r.truth, r.values) for r in sides]
        scaled = [
            replace(part, values=statistics.apply_temperature(part.values, t))
            for part, t in zip(self.parts, temperatures, strict=True)
        ]
        return Calibration(temperatures, self.pooled, statistics.pool(scaled))


@dataclass(frozen=True)
class Calibration:
    """An experiment's probabilities before and after each run's were divided by the temperature (in the logarithm) that its
    own validation clips chose."""

    temperatures: list[float]
    before: Pooled
    after: Pooled

    def figures(self, pooled: Pooled) -> dict[str, float]:
        """Means over seeds of the expected calibration error, the Brier score, and cross-entropy."""
        return {
            "ece": float(np.mean([statistics.expected_calibration_error(pooled.truth, v) for v in pooled.values])),
            "brier": float(np.mean([statistics.brier_score(pooled.truth, v) for v in pooled.values])),
            "cross_entropy": float(statistics.seed_scores(pooled, "cross_entropy").mean()),
        }

    def curves(self) -> tuple[Reliability, Reliability]:
        """Before and after, over the answers of all seeds."""
        before, after = (
            statistics.reliability(np.tile(p.truth, len(p.seeds)), np.concatenate(list(p.values)))
            for p in (self.before, self.after)
        )
        return before, after


def best_on_validation(runs: Sequence[Run]) -> Run:
    """The run that did best on its validation clips; never picked by test scores."""
    best = min if runs[0].regression else max
    return best(runs, key=lambda r: float(r.summary["valid"][r.measures[0].key]))


def group_runs(runs: Sequence[Run]) -> tuple[list[Experiment], list[str]]:
    """The experiments that runs are of, in the order in which they come; and what a reader must know of those that could not be
    used. Runs belong together where their configuration, corpus and data differ in nothing but train.seed and train.test_fold.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run), sort_keys=True), []).append(run)
    names = [_name(of) for of in groups.values()]
    labels = _labels(names, [of[0] for of in groups.values()])
    experiments, notes = [], []
    for name, label, of in zip(names, labels, groups.values(), strict=True):
        train = [r.config["train"] for r in of]
        try:
            parts, left_out = statistics.complete_seeds(
                [
                    Part(
                        t["seed"], t.get("test_fold", 0), [c["clip_id"] for c in r.clips], r.speakers, r.truth, r.values, r.url
                    )
                    for r, t in zip(of, train, strict=True)
                ]
            )
            pooled = statistics.pool(parts)
        except ValueError as e:
            notes.append(f"{label} is left out of what is said of experiments: {e}.")
            continue
        if left_out:
            which = ", ".join(map(str, left_out))
            notes.append(f"{label}: left out of the figures over runs, since other seeds tested more clips: seed {which}.")
        used = [r for r in of if r.config["train"]["seed"] not in left_out]
        if len(versions := sorted({r.config["code_version"] for r in used})) > 1:
            notes.append(f"{label}: its runs are of different versions of the code ({', '.join(versions)}).")
        experiments.append(Experiment(name, label, used, parts, pooled))
    return experiments, notes


def _identity(run: Run) -> dict[str, Any]:
    config = completed(run.config)
    settings = {f"{part}.{k}": v for part in ("model", "train") for k, v in config[part].items()}
    return {
        "experiment": config.get("experiment"),
        "corpus": config["corpus"],
        "streams": [s["name"] for s in config["streams"]],
        **{k: v for k, v in sorted(settings.items()) if k not in ("train.seed", "train.test_fold")},
        "classes": config["classes"],
        "data": config["data_digest"],
    }


def _name(runs: Sequence[Run]) -> str:
    """The experiment's name; without one, the name of the innermost folder that holds all of the runs."""
    if name := runs[0].config.get("experiment"):
        return str(name)
    folders = [r.url.split("/")[:-1] for r in runs] if len(runs) > 1 else [runs[0].url.split("/")]
    shared = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))]
    return (shared and shared[-1]) or runs[0].label


def _labels(names: Sequence[str], firsts: Sequence[Run]) -> list[str]:
    """Each experiment's name, with as many settings as tell those of one name apart, but not what most of them have."""
    labels = list(names)
    for name, n in Counter(names).items():
        same = [i for i, other in enumerate(names) if other == name]
        settings = {i: _identity(firsts[i]) for i in same}
        said: dict[int, list[tuple[str, str]]] = {i: [] for i in same}
        for key in dict.fromkeys(k for of in settings.values() for k in of):
            more = {i: [*said[i], (key.rpartition(".")[2], _value(settings[i].get(key)))] for i in same}
            if len({tuple(x) for x in more.values()}) > len({tuple(x) for x in said.values()}):
                said = more
        common = Counter(pair for pairs in said.values() for pair in pairs)
        for i in same:
            if rare := [f"{key}={value}" for key, value in said[i] if common[key, value] <= n / 2]:
                labels[i] = f"{name} ({', '.join(rare)})"
    return labels


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- experiments side by side -----------------------------------------------------------------------------------------


def variants_table(experiments: Sequence[Experiment]) -> Table:
    """A row an experiment: every measure as an estimate, the ensemble of its seeds, and the baselines."""
    measures = experiments[0].measures
    first = measures[0]
    columns = {"Experiment": "text", "Modalities": "text", **{m.name: m.kind for m in measures}}
    columns |= {f"{what}: {first.name}": first.kind for what in ("Ensemble of seeds", "Naive", AVERAGES)}
    rows: list[list[Cell]] = []
    for e in experiments:
        together = statistics.estimate(e.pooled.ensemble, first.key) if len(e.pooled.seeds) > 1 else None
        rows.append(
            [
                e.label,
                " + ".join(e.runs[0].modalities),
                *(e.estimates[m.key] for m in measures),
                None if together is None else _score(*together[:3], e.pooled),
                *(e.baseline(name, first.key) for name in ("naive", "statistics")),
                *counts(e),
                len(set(e.pooled.speakers)),
            ]
        )
    columns |= {"Seeds": "count", "Folds": "count", "Test clips": "count", "Speakers": "count"}
    return Table("experiments", "Experiments", columns, rows)


def counts(e: Experiment) -> list[Cell]:
    """Of seeds, folds and test clips."""
    return [len(e.pooled.seeds), e.n_folds, len(e.pooled.ids)]


def _score(value: float, low: float, high: float, pooled: Pooled) -> Score:
    over = RESAMPLED_SPEAKERS if len(set(pooled.speakers)) > 1 else RESAMPLED_CLIPS
    return Score(value, low, high, "" if math.isnan(low) else over)


def differences_table(experiments: Sequence[Experiment], measure: Measure) -> Table | None:
    """Each experiment minus the reference of its corpus and classes, on the clips that both tested; None where there is nothing
    to compare. The reference is what did best on validation clips, never what did best in the test. All rows are one family
    for Holm's correction."""
    by_corpus: dict[tuple[str, ...], list[Experiment]] = {}
    for e in experiments:
        by_corpus.setdefault((str(e.runs[0].config["corpus"]), *e.runs[0].classes), []).append(e)
    found: list[tuple[Experiment, Experiment, statistics.Comparison]] = []
    notes = []
    for of in by_corpus.values():
        best = min if of[0].pooled.regression else max
        reference = best(of, key=lambda e: e.valid(measure.key))
        for e in of:
            if e is reference:
                continue
            try:
                found.append((e, reference, statistics.compare(e.pooled, reference.pooled, measure.key)))
            except ValueError as error:
                notes.append(f"{e.label} is not compared with {reference.label}: {error}.")
    rows = [(e.label, reference.label, e, c) for e, reference, c in found]
    return _compared("differences", "Differences to what did best on validation clips", rows, measure, notes)


def averages_table(experiments: Sequence[Experiment], measure: Measure) -> Table | None:
    """Each experiment, and the ensemble of its seeds, minus the linear model of averages that learned from the same clips; None
    where no run has one. All rows are one family for Holm's correction."""
    rows = []
    for e in experiments:
        if e.averages is None:
            continue
        rows.append((e.label, AVERAGES, e, statistics.compare(e.pooled, e.averages, measure.key)))
        if (n := len(e.pooled.seeds)) > 1:
            together = statistics.compare(e.pooled.ensemble, e.averages.ensemble, measure.key)
            rows.append((f"{e.label}, ensemble of {n}", AVERAGES, e, together))
    return _compared("averages", "Differences to the linear model of averages", rows, measure, [])


def _compared(
    name: str,
    title: str,
    found: Sequence[tuple[str, str, Experiment, statistics.Comparison]],
    measure: Measure,
    notes: Sequence[str],
) -> Table | None:
    """found: the two that were compared, the experiment whose clips they are, and how they differ."""
    if not found:
        return None
    difference = f"{measure.name}, {'percentage points' if measure.kind == 'percent' else 'difference'}"
    columns = {"Experiment": "text", "Minus": "text", difference: "points" if measure.kind == "percent" else "signed"}
    columns |= {
        "p": "number:4",
        "p, corrected": "number:4",
        "Error from seeds": measure.kind,
        "Clips": "count",
        "Speakers": "count",
    }
    corrected = statistics.holm([c.p for *_, c in found])
    rows: list[list[Cell]] = [
        [label, minus, _score(*c[:3], e.pooled), c.p, p, c.error_of_seeds, c.clips, c.speakers]
        for (label, minus, e, c), p in zip(found, corrected, strict=True)
    ]
    few = min(c.speakers for *_, c in found)
    said = list(notes)
    if 2 / 2**few > 0.05:
        said.append(f"With {few} speakers, p can't be below {2 / 2**few:.3g}, whatever the difference.")
    said.append(
        "p: two-sided, from flipping the signs of each speaker's difference (mean over seeds). It assumes that speakers are "
        "independent, and, if the two were equally good, that a speaker's difference could as well have the other sign. "
        f"Corrected for {len(found)} comparison{'s' if len(found) > 1 else ''} after Holm (1979)."
    )
    said.append(
        "Interval and p are about other speakers, with these seeds. The error from seeds is the standard error that seeds add "
        "to the difference: where it is not small beside it, other seeds could turn the difference round."
    )
    return Table(name, title, columns, rows, notes=tuple(said))


def emotions_table(experiments: Sequence[Experiment]) -> Table:
    """Errors of each emotion's intensity, means over seeds, with the concordance correlation coefficient."""
    columns = {"Experiment": "text", "Emotion": "text", "MAE": "number", "MSE": "number"}
    columns |= {"Weighted accuracy": "percent", "Concordance": "number"}
    rows: list[list[Cell]] = []
    for e in experiments:
        names, truth = e.runs[0].classes, e.pooled.truth
        each = [metrics.regression_metrics(truth, values, names) for values in e.pooled.values]
        for c, name in enumerate(names):
            figures = [float(np.mean([of[f"{key}_{name}"] for of in each])) for key in ("mae", "mse", "weighted_accuracy")]
            agreement = np.mean([statistics.concordance(truth[:, c], values[:, c]) for values in e.pooled.values])
            rows.append([e.label, name, *figures, float(agreement)])
    return Table("emotions", "Each emotion", columns, rows)


def calibration_table(experiments: Sequence[Experiment]) -> Table:
    """Calibration before and after temperature scaling, of those experiments that have probabilities."""
    names = {
        "ece": ("Calibration error", "percent"),
        "brier": ("Brier score", "number"),
        "cross_entropy": ("Cross-entropy", "number"),
    }
    columns = {"Experiment": "text"}
    for name, kind in names.values():
        columns |= {name: kind, f"{name}, scaled": kind}
    rows: list[list[Cell]] = []
    for e in experiments:
        if found := e.calibration:
            before, after = found.figures(found.before), found.figures(found.after)
            t = found.temperatures
            rows.append([e.label, *(x[key] for key in names for x in (before, after)), float(np.mean(t)), min(t), max(t)])
    columns |= {"Temperature, mean": "number", "Lowest": "number", "Highest": "number"}
    return Table("calibration", "Calibration", columns, rows)
