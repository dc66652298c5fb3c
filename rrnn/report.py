"""One page that a reader can trust on one or more finished runs: scores beside a naive baseline, figures, and what made them.

write_report reads RUN folders, scores their predictions on the test clips, and writes a self-contained HTML page, its
figures as PNG and its tables as CSV. All that a run says (class names, clip ids, reasons) is untrusted text: the template
escapes it, figures take it as plain text, and the page's own policy forbids every outside address and every script but the
attention explorer's, which it names by its digest.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import numpy.typing as npt
from fontTools import subset  # type: ignore[import-untyped]
from matplotlib.figure import Figure
from PIL import Image

from rrnn import figures, metrics
from rrnn.explorer import MediaOf, Recordings, clip_data, make_explorer
from rrnn.figures import Pixels, SpeakerScore, Theme
from rrnn.paper import PAPER_TABLES, paper_table
from rrnn.results import (
    EXACT,
    REGRESSION,
    ClipAttention,
    Run,
    ablation_curves,
    in_modality_order,
    read_examples,
    read_run,
    slug_of,
    tell_apart,
)
from rrnn.splits import SIDES
from rrnn.statistics import seed_scores
from rrnn.tables import (
    AVERAGES,
    Cell,
    Experiment,
    Table,
    averages_table,
    best_on_validation,
    calibration_table,
    differences_table,
    emotions_table,
    group_runs,
    show,
    show_interval,
    show_spread,
    to_csv,
    to_latex,
    variants_table,
)

Thumbnails = Callable[[dict[str, Any], Sequence[float]], "list[Pixels | None]"]

DPI = 150
MEDIA_MB = 20.0
MAX_ATTENTION_FIGURES = 12  # over all runs: keeps the page below 6 MB, also with frames
FRAMES_PER_CLIP = 8
SHOWN_REASONS = 10
SHOWN_CLIPS = 20
MANY_RUNS = 6  # with more, the best run of each experiment stands for it wherever runs are shown one by one
MAX_RELIABILITY = 12  # experiments whose calibration is drawn
FEW_SPEAKERS = 10  # below this, resampling speakers gives a rough interval, and the page says so


# --- tables and pictures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A figure in the page, drawn once for light and once for dark, as data URIs. width and height in CSS pixels."""

    alt: str
    light: str
    dark: str
    width: int
    height: int


class Output:
    """Where a report is written: figures/ and tables/ below one folder, as they are made."""

    def __init__(self, folder: Path) -> None:
        self.figures, self.tables = folder / "figures", folder / "tables"
        for each in (self.figures, self.tables):
            each.mkdir(parents=True, exist_ok=True)

    def table(self, table: Table, *, latex: bool = False) -> Table:
        """Write tables/<name>.csv with unrounded values, and perhaps tables/<name>.tex."""
        files = {"csv": to_csv(table), **({"tex": to_latex(table)} if latex else {})}
        for suffix, text in files.items():
            path = self.tables / f"{table.name}.{suffix}"
            path.write_text(text, encoding="utf-8", errors="replace", newline="")
        return table

    def picture(self, name: str, alt: str, draw: Callable[[Theme], Figure], *, photographs: bool = False) -> Picture:
        """Draw for light and for dark pages; figures/<name>.png is the light one."""
        uris = []
        for theme in (figures.DARK, figures.LIGHT):
            png = io.BytesIO()
            with matplotlib.rc_context({**theme.rc(), "figure.dpi": DPI}):
                figure = draw(theme)
                figure.savefig(png, bbox_inches=figure.get_tightbbox().padded(0.05))  # as "tight", but draws once less
            embedded = png
            if photographs:  # a third of the size, where there are frames of the clip
                embedded = io.BytesIO()
                Image.open(png).convert("RGB").save(embedded, "webp", quality=88)
            uris.append(_data_uri(f"image/{'webp' if photographs else 'png'}", embedded))
        (self.figures / f"{name}.png").write_bytes(png.getvalue())
        width, height = (round(pixels * 96 / DPI) for pixels in Image.open(png).size)
        return Picture(alt, uris[1], uris[0], width, height)


def _data_uri(kind: str, content: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def counted(n: int, noun: str) -> str:
    """ "1 clip", "1,440 clips"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


# --- the page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """One clip's attention in the page."""

    clip: ClipAttention
    picture: Picture
    frames: list[Pixels | None]
    without_frames: bool


@dataclass(frozen=True)
class View:
    """What the page shows of one run. by_class: recalls, or errors of each emotion; fit: confusion matrix, or scatter."""

    run: Run
    fit: Picture
    by_class: Table
    speakers: Picture
    training: Picture
    attention: list[Attention]
    n_examples: int


@dataclass(frozen=True)
class Unusable:
    """What could not be used, and why; runs on the same features share it. clips: counts, as config.json has them."""

    labels: list[str]
    clips: dict[str, int]
    streams: Table
    reasons: Table
    which: Table


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    thumbnails: Thumbnails | None = None,
    media: MediaOf | None = None,
    media_mb: float = MEDIA_MB,
) -> Path:
    """Write `out`/report.html on finished runs, with figures/*.png and tables/*.csv beside it; returns the page's path.

    runs: RUN folders, as paths or fsspec URLs, all of one task. Scores are worked out here from each run's predictions on its
    test clips, with 95 % intervals over speakers; the naive baseline is the one in its summary. The page needs no other file.

    thumbnails(row of examples.parquet, times in seconds from the clip's start) returns an RGB frame (h, w, 3) uint8 near each
    time, or None where there is none; without it the page shows no frames. media(row of examples.parquet) returns what the
    attention explorer plays of the clip, of which the page takes at most media_mb million bytes; without it none is played.

    Raises ValueError, naming the folder, for a run that is unfinished or can't be read; also for no runs, or mixed tasks.
    """
    if not runs:
        raise ValueError("expected at least one run, found none")
    everything = [read_run(url) for url in runs]
    if len({r.regression for r in everything}) > 1:
        raise ValueError("expected runs of one task, found " + ", ".join(f"{r.url}: {r.config['task']}" for r in everything))
    measures, output = everything[0].measures, Output(Path(out))
    experiments, left_out = group_runs(everything)
    shown = (
        everything
        if len(everything) <= MANY_RUNS
        else [replace(e.best, label=e.label, slug=slug_of(e.label)) for e in experiments] or everything
    )
    read = tell_apart(shown)
    views = [_view(run, output, thumbnails, max(1, MAX_ATTENTION_FIGURES // len(read))) for run in read]
    recordings = Recordings(media, 1e6 * media_mb)
    clips = [clip_data(a.clip, v.run, a.frames, recordings.of(a.clip.about)) for v in views for a in v.attention]
    page = {
        "lead": best_on_validation(read),
        "views": views,
        "explorer": make_explorer(clips, recordings),
        "measures": measures,
        "modalities": in_modality_order(m for r in read for m in r.modalities),
        "corpora": sorted({str(r.config["corpus"]) for r in read}),
        "notes": notes_on(read) + left_out,
        "n_runs": len(everything),
        "experiments": _experiments(experiments, output),
        "headline": output.table(_headline(read)),
        "human": output.table(human) if (human := _human(read)).rows else None,
        "comparison": _comparison(read, output) if len(read) > 1 else None,
        "ablation": _ablation(read, output),
        "unusable": _unusable(read, output),
        "settings": [output.table(t) for t in _settings(read)],
        "EXACT": EXACT,
    }
    path = Path(out) / "report.html"
    render_page("report.html.j2", page, path)
    return path


def render_page(template: str, values: dict[str, Any], to: Path) -> None:
    """Write a self-contained page from one of the templates beside this file; text in values is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "show": show,
        "interval": show_interval,
        "spread": show_spread,
        "counted": counted,
        "listed": listed,
    }
    page, themes = environment.get_template(template), (figures.LIGHT, figures.DARK)
    # Rendered twice: the fonts that go into the page hold the characters that are in it, and no others.
    fonts = _fonts(set(page.render(values, themes=themes, fonts={})))
    to.write_text(page.render(values, themes=themes, fonts=fonts), encoding="utf-8", errors="replace")


def _view(run: Run, output: Output, thumbnails: Thumbnails | None, max_attention: int) -> View:
    measure = run.measures[0]
    if run.regression:
        correct = np.abs(run.values - run.truth).sum(axis=1)
        alt, draw = (
            "predicted against true intensity of each emotion",
            partial(figures.draw_scatter, run.truth, run.values, run.classes),
        )
        by_class = _emotions_table(run)
    else:
        answers = run.values.argmax(axis=1)
        correct = run.truth == answers
        counts = metrics.confusion(run.truth, answers, len(run.classes))
        alt, draw = (
            f"confusion matrix of {counted(len(answers), 'test clip')}",
            partial(figures.draw_confusion, counts, run.classes),
        )
        by_class = _recall_table(run, counts)
    fit = output.picture(f"{'scatter' if run.regression else 'confusion'}-{run.slug}", f"{run.label}: {alt}", draw)
    who = np.array(run.speakers)
    each = [SpeakerScore(str(s), float(correct[who == s].mean()), int((who == s).sum())) for s in np.unique(who)]
    each.sort(key=lambda s: s.value, reverse=not run.regression)
    columns = {"speaker": "text", measure.key: measure.kind, "clips": "count"}
    output.table(Table(f"speakers-{run.slug}", "", columns, [list(s) for s in each]))
    shown = (
        [("valid_mae", "MAE"), ("valid_mse", "MSE")]
        if run.regression
        else [("valid_accuracy", "accuracy"), ("valid_uar", "UAR")]
    )
    examples = read_examples(run)
    return View(
        run=run,
        fit=fit,
        by_class=output.table(by_class),
        speakers=output.picture(
            f"speakers-{run.slug}",
            f"{run.label}: {measure.name} of {counted(len(each), 'test speaker')}, one by one",
            partial(figures.draw_speakers, each, run.scores[measure.key].value, run.summary["naive"][measure.key], measure),
        ),
        training=output.picture(
            f"training-{run.slug}",
            f"{run.label}: loss and validation scores by epoch",
            partial(figures.draw_training, run.epochs, run.summary["best_epoch"], shown, not run.regression),
        ),
        attention=[
            _attention(clip, f"attention-{run.slug}-{i}", output, thumbnails)
            for i, clip in enumerate(examples[:max_attention], 1)
        ],
        n_examples=len(examples),
    )


def _attention(clip: ClipAttention, name: str, output: Output, thumbnails: Thumbnails | None) -> Attention:
    frames: list[Pixels | None] = []
    wanted = thumbnails is not None and any(s.modality == "vision" for s in clip.streams)
    if thumbnails is not None and wanted:
        frames = thumbnails(clip.about, ((np.arange(FRAMES_PER_CLIP) + 0.5) * clip.end / FRAMES_PER_CLIP).tolist())
    if all(f is None for f in frames):
        frames = []
    alt = f"Attention over time in clip {clip.about['clip_id']}, by stream and hop"
    picture = output.picture(name, alt, partial(figures.draw_attention, clip, frames), photographs=bool(frames))
    return Attention(clip, picture, frames, wanted and not frames)


def _recall_table(run: Run, counts: npt.NDArray[np.int64]) -> Table:
    rows: list[list[Cell]] = []
    for i, (name, recall) in enumerate(zip(run.classes, metrics.recalls(counts), strict=True)):
        wrong = np.where(np.arange(len(counts)) == i, 0, counts[i])
        mistaken = f"{run.classes[int(wrong.argmax())]} ({wrong.max()})" if wrong.any() else None
        rows.append([name, int(counts[i].sum()), float(recall), mistaken])
    columns = {"Emotion": "text", "Clips": "count", "Recall": "bar", "Most often taken for": "text"}
    return Table(f"recall-{run.slug}", "Recall of each emotion", columns, rows)


def _emotions_table(run: Run) -> Table:
    found = metrics.regression_metrics(run.truth, run.values, run.classes)
    rows: list[list[Cell]] = [
        [name, int((run.truth[:, i] > 0).sum()), *(found[f"{m.key}_{name}"] for m in REGRESSION)]
        for i, name in enumerate(run.classes)
    ]
    columns = {"Emotion": "text", "Clips with it": "count", **{m.name: m.kind for m in REGRESSION}}
    return Table(f"emotions-{run.slug}", "Errors of each emotion", columns, rows)


def _headline(runs: Sequence[Run]) -> Table:
    columns = {"Run": "text", "Modalities": "text"}
    for m in runs[0].measures:
        columns |= {m.name: m.kind, f"Naive {m.name if m.name.isupper() else m.name.lower()}": m.kind}
    rows: list[list[Cell]] = []
    for run in runs:
        pairs = [cell for m in run.measures for cell in (run.scores[m.key], run.summary["naive"][m.key])]
        linear = run.summary.get("statistics", {}).get(runs[0].measures[0].key)
        rows.append([run.label, " + ".join(run.modalities), *pairs, linear, len(run.clips), run.n_speakers])
    columns |= {f"{AVERAGES}: {runs[0].measures[0].name}": runs[0].measures[0].kind}
    return Table("scores", "Scores on the test clips", {**columns, "Test clips": "count", "Speakers": "count"}, rows)


def _human(runs: Sequence[Run]) -> Table:
    """What raters made of the same test clips; see metrics.human_accuracy."""
    columns = {"Run": "text", "Raters were shown": "text", "Right per response": "percent", "Right by majority": "percent"}
    rows: list[list[Cell]] = [
        [
            run.label,
            "audio and vision" if shown == "both" else shown,
            *(float(of[key]) for key in ("accuracy", "majority_accuracy")),
            *(int(of[key]) for key in ("responses", "clips")),
        ]
        for run in runs
        for shown, of in run.summary.get("human", {}).items()
    ]
    return Table("human", "What people make of the same clips", {**columns, "Responses": "count", "Clips": "count"}, rows)


def _comparison(runs: Sequence[Run], output: Output) -> Picture:
    measure = runs[0].measures[0]
    scores = [run.scores[measure.key][:3] for run in runs]
    naive = [run.summary["naive"][measure.key] for run in runs]
    return output.picture(
        "comparison",
        f"{measure.name} of each run with 95 % intervals, beside the naive baseline",
        partial(figures.draw_comparison, [run.label for run in runs], scores, naive, measure),
    )


@dataclass(frozen=True)
class Ablation:
    """Scores with noise and without a modality, of the runs that were tested so."""

    picture: Picture
    table: Table
    without: list[str]


def _ablation(runs: Sequence[Run], output: Output) -> Ablation | None:
    tested = [r for r in runs if r.ablation]
    if not tested:
        return None
    measure = runs[0].measures[0]
    curves = ablation_curves(tested, measure.key)
    levels = sorted({float(x) for of in curves.values() for c in of for x in c.levels})
    rows: list[list[Cell]] = []
    for modality, of in curves.items():
        for c in of:
            at = dict(zip(c.levels.tolist(), c.values.tolist(), strict=True))
            rows.append([modality, c.label, *(at.get(x) for x in levels), c.absent])
    kinds = {**{f"{x:g}": measure.kind for x in levels}, "absent": measure.kind}
    return Ablation(
        output.picture(
            "ablation",
            f"{measure.name} with noise on each modality and without it",
            partial(figures.draw_ablation, curves, measure),
        ),
        output.table(Table("ablation", "", {"Noise on": "text", "Run": "text", **kinds}, rows)),
        [r.label for r in runs if not r.ablation],
    )


def notes_on(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before trusting the scores."""
    notes = []
    for run in runs:
        measure = run.measures[0]
        score, stated = run.scores[measure.key], run.summary["test"][measure.key]
        found = []
        if run.n_trained_on:
            found.append(
                f"{counted(run.n_trained_on, 'test speaker')} also in training: its scores say little about new people."
            )
        if run.n_nameless:
            found.append(
                f"{counted(run.n_nameless, 'test clip')} without a speaker's name, each taken as a speaker of its own."
            )
        if run.n_speakers == 1:
            found.append("only one test speaker: the intervals are over clips and say nothing about other people.")
        elif run.n_speakers < FEW_SPEAKERS:
            found.append(f"with {run.n_speakers} test speakers, the intervals are themselves rough.")
        if score.interval == EXACT:
            found.append(
                "every resampling gives the same accuracy, which is no proof that it has no spread. Its interval is the exact "
                "binomial one (Clopper-Pearson), as if clips were independent. Clips of one speaker are alike, so it is too "
                "narrow for new people."
            )
        if without := [m.name for m in run.measures if not run.scores[m.key].interval]:
            found.append(
                f"resampling gives no interval for {listed(without)}: it is the same in all draws, or undefined in some."
            )
        if not math.isclose(stated, score.value, rel_tol=1e-3, abs_tol=1e-3):
            found.append(
                f"its summary says {measure.name} {show(float(stated), measure.kind)}, its predictions give "
                f"{show(score, measure.kind)}. This page goes by the predictions."
            )
        notes += [f"{run.label}: {note}" for note in found]
    if len({frozenset(c["clip_id"] for c in run.clips) for run in runs}) > 1:
        notes.append("The runs were tested on different clips: their scores can't be compared directly.")
    return notes


@dataclass(frozen=True)
class Experiments:
    """Figures over runs: folds pooled, seeds averaged. paper: those of the paper's tables that ours are rows of."""

    scores: Table
    comparison: Picture
    paper: list[Table]
    averages: Table | None
    differences: Table | None
    emotions: Table | None
    calibration: Table | None
    reliability: Picture | None
    n_runs: int
    drawn: int


def _experiments(experiments: Sequence[Experiment], output: Output) -> Experiments | None:
    """None where no experiment has several runs, and none is a row of the paper's tables."""
    paper = [table for of in PAPER_TABLES for table, ours in [paper_table(of, experiments)] if ours]
    if not paper and all(len(e.runs) == 1 for e in experiments):
        return None
    measure = experiments[0].measures[0]
    calibration = calibration_table(experiments)
    curves = {e.label: c.curves() for e in experiments if (c := e.calibration)}
    drawn = dict(list(curves.items())[:MAX_RELIABILITY])
    averages, differences = averages_table(experiments, measure), differences_table(experiments, measure)
    regression = experiments[0].pooled.regression
    return Experiments(
        scores=output.table(variants_table(experiments), latex=True),
        comparison=output.picture(
            "experiments",
            f"{measure.name} of each experiment, mean over seeds with its 95 % interval, and each seed",
            partial(
                figures.draw_comparison,
                [e.label for e in experiments],
                [e.estimates[measure.key][:3] for e in experiments],
                [naive if (naive := e.baseline("naive", measure.key)) is not None else math.nan for e in experiments],
                measure,
                seeds=[seed_scores(e.pooled, measure.key) for e in experiments],
            ),
        ),
        paper=[output.table(t, latex=True) for t in paper],
        averages=averages and output.table(averages, latex=True),
        differences=differences and output.table(differences, latex=True),
        emotions=output.table(emotions_table(experiments), latex=True) if regression else None,
        calibration=output.table(calibration, latex=True) if calibration.rows else None,
        reliability=output.picture(
            "reliability",
            f"Accuracy by confidence of {listed(list(drawn))}, before and after temperature scaling",
            partial(figures.draw_reliability, drawn),
        )
        if drawn
        else None,
        n_runs=sum(len(e.runs) for e in experiments),
        drawn=len(drawn),
    )


def _unusable(runs: Sequence[Run], output: Output) -> list[Unusable]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.config["clips"], run.streams, run.unusable], sort_keys=True), []).append(run)
    views = []
    for same in groups.values():
        run = same[0]
        by_stream: dict[tuple[str, str], Counter[str]] = {}
        for row in run.streams:
            by_stream.setdefault((row["stream"], row["modality"]), Counter())[row["status"]] += row["clips"]
        counts: list[list[Cell]] = [
            [*stream, of["ok"], of["absent"], of["error"], of["ok"] / max(of.total(), 1)] for stream, of in by_stream.items()
        ]
        kinds = {"Usable": "count", "Absent": "count", "Error": "count", "Usable share": "bar"}
        why = {"Stream": "text", "Status": "text", "Reason": "text"}
        clips = [
            [row["clip_id"], row["stream"], "usable, with a note" if row["status"] == "ok" else row["status"], row["reason"]]
            for row in run.unusable
        ]
        reasons: list[list[Cell]] = [[*reason, n] for reason, n in Counter(tuple(c[1:]) for c in clips).most_common()]
        tables = (
            Table(f"streams-{run.slug}", "Clips by stream", {"Stream": "text", "Modality": "text", **kinds}, counts),
            Table(f"reasons-{run.slug}", "Why", {**why, "Clips": "count"}, reasons, SHOWN_REASONS),
            Table(f"unusable-{run.slug}", "Which clips", {"Clip": "text", **why}, clips, SHOWN_CLIPS),
        )
        views.append(Unusable([r.label for r in same], run.config["clips"], *(output.table(t) for t in tables)))
    return views


def _settings(runs: Sequence[Run]) -> list[Table]:
    """What made each run, a column a run. Rows that no run has anything for are left out."""
    sections = {
        "run": ("Run", [_facts(r) for r in runs]),
        "streams": ("Streams", [{s["name"]: _describe_stream(s) for s in r.config["streams"]} for r in runs]),
        **{key: (title, [r.config[key] for r in runs]) for key, title in (("model", "Model"), ("train", "Training"))},
        "packages": ("Packages", [r.config["packages"] for r in runs]),
    }
    tables = []
    for key, (title, values) in sections.items():
        names = dict.fromkeys(k for v in values for k in v if v[k] is not None)
        rows: list[list[Cell]] = [[name, *(_setting(v.get(name)) for v in values)] for name in names]
        tables.append(Table(f"settings-{key}", title, dict.fromkeys(["Setting", *(r.label for r in runs)], "text"), rows))
    return tables


def _facts(run: Run) -> dict[str, Any]:
    config, summary = run.config, run.summary
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    sides = {side: config["splits"][side] for side in SIDES}
    return {
        "Folder": run.url,
        "Experiment": config.get("experiment"),
        "Command": config.get("command"),
        "Model id": summary["model_id"],
        "Code version": config["code_version"],
        "Data digest": config["data_digest"],
        "Corpus": config["corpus"],
        "Feature store": config["store"],
        "Split": config["split"],
        **{
            f"{side.capitalize()} side": f"{counted(of['clips'], 'clip')} of {counted(len(of['speakers']), 'speaker')}"
            for side, of in sides.items()
        },
        "Parameters": f"{config['parameters']:,}",
        "Epochs": f"{summary['epochs']}, the best was {summary['best_epoch']}",
        "Training time": f"{minutes} min {seconds} s" if minutes else f"{seconds} s",
    }


def _setting(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _describe_stream(stream: Mapping[str, Any]) -> str:
    shift = stream["frame_shift"]
    rate = f"every {1000 * shift:g} ms" if shift else "at its own times"
    return f"{stream['modality']}, version {stream['version']}, {counted(len(stream['columns']), 'column')} {rate}"


def _fonts(characters: set[str]) -> dict[int, str]:
    """The figures' typeface for the page, weight to data URI: page and figures look alike wherever they are read."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    options = subset.Options(flavor="woff", hinting=False, layout_features=["kern"], drop_tables=["FFTM", "GSUB"])
    fonts = {}
    for weight, name in ((400, "DejaVuSans.ttf"), (700, "DejaVuSans-Bold.ttf")):
        with subset.load_font(str(folder / name), options) as font:
            subsetter = subset.Subsetter(options)
            subsetter.populate(text="".join(characters))
            subsetter.subset(font)
            buffer = io.BytesIO()
            subset.save_font(font, buffer, options)
        fonts[weight] = _data_uri("font/woff", buffer)
    return fonts
