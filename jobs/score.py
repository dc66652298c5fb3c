"""Raw clips to emotions, by a trained model: python -m jobs.score RUN CLIPS --out SCORES"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import pyarrow as pa
import torch
import typer
from rich.table import Table

from jobs._cli import absolute, app, console, progress, user_errors
from jobs._machines import machines_missed
from jobs._statistics import STATISTICS, prepare_statistics
from jobs.extract import listing, options_of
from pipeline.clip import Clip
from pipeline.corpora import CORPORA
from pipeline.extract import CLIP_SECONDS
from pipeline.files import check_buckets
from pipeline.on_ray import gpu_share, isolated_run, map_units, placed, ray_started
from pipeline.parquet import open_parquet, parquet_bytes
from pipeline.store import SHARD_NAME, SHARD_SIZE, ClipRow, Store
from pipeline.streams import remake_stream
from pipeline.streams.base import Extractor
from pipeline.streams.imported import Importer
from rrnn.data import Sequences, Times
from rrnn.normalise import POOLED, add_up, group_of, moments_of
from rrnn.predict import explain, predict
from rrnn.run import ModelCard, load_model, load_preparation

ATTENTION = pa.list_(
    pa.struct(
        [
            ("stream", pa.string()),
            ("hop", pa.int32()),
            ("times", pa.list_(pa.float64())),
            ("weights", pa.list_(pa.float32())),
            ("tokens", pa.list_(pa.string())),
            ("gate", pa.float32()),
        ]
    )
)


@dataclass(frozen=True)
class ScoreConfig:
    """All that a scoring job depends on."""

    run: str
    clips: str
    corpus: str
    out: str
    attention: bool = False
    corpus_options: dict[str, Any] = field(default_factory=dict)
    places: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each stream that is imported, where its files are; of one with other weights, where these are."""
    own_statistics: bool = False
    shard_size: int = SHARD_SIZE
    workers: int | None = None
    gpus: str = "0"
    clip_seconds: float = CLIP_SECONDS


def extractors_of(card: ModelCard, places: dict[str, dict[str, Any]] | None = None) -> list[Extractor]:
    """Exactly the extractors that the model was trained on. Raises ValueError where this version of the code, or a file of
    weights, would give other numbers. places: of each stream, the options that say where its files are."""
    if strangers := set(places or {}) - set(card.streams):
        raise ValueError(f"options for {', '.join(sorted(strangers))}: the model's streams are {', '.join(card.streams)}")
    made = []
    for name, about in card.streams.items():
        extractor = remake_stream(about, (places or {}).get(name))
        now = json.loads(json.dumps(extractor.describe()))
        different = [k for k in now if k != "licence" and now[k] != about.get(k)]
        if different:
            what = "; ".join(f"{k} was {str(about.get(k))[:60]}, now {str(now[k])[:60]}" for k in different)
            raise ValueError(f"the model was trained on another {name!r} stream than this version extracts: {what}")
        made.append(extractor)
    return made


def score_schema(card: ModelCard, attention: bool) -> pa.Schema:
    """One row a clip. status: ok, or unusable, with the reason; values are null where a clip is unusable."""
    fields = [
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("speaker", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("emotion", pa.string()),
        *((f"{value_prefix(card)}{c}", pa.float32()) for c in card.classes),
        *((f"has_{s}", pa.bool_()) for s in card.streams),
        *([] if card.normalise == "none" else [("normalised_by", pa.string())]),
        ("model_id", pa.string()),
    ]
    return pa.schema([*fields, ("attention", ATTENTION)] if attention else fields)


def value_prefix(card: ModelCard) -> str:
    """p_ for probabilities of classes, y_ for intensities."""
    return "y_" if card.link == "identity" else "p_"


class ScoreWorker:
    """One actor: the model and all its extractors, loaded once; a shard of clips in, a file of scores out."""

    def __init__(self, config: ScoreConfig, extractors: Sequence[Extractor]) -> None:
        torch.set_num_threads(1)
        self.config = config
        self.store = Store(config.out)
        self.model, self.card, self.model_id = load_model(config.run)
        self.extractors = extractors
        self.run = isolated_run(self.extractors, config.clip_seconds)
        self.preparation = load_preparation(config.run, self.card)
        self.known = self.preparation.normaliser
        if self.known is not None:
            here = moments_of(open_parquet(self.store.folder, STATISTICS).read())
            normaliser = self.known.extended(add_up(here), replace=config.own_statistics)
            self.preparation = replace(self.preparation, normaliser=normaliser)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        clips = self.store.clips(unit["shard"])
        if self.known is None:
            streams = {e.name: self.run(e, clips, self.config.clip_seconds) for e in self.extractors}
        else:
            streams = {e.name: self.store.rows(e.name, unit["shard"]) for e in self.extractors}
        rows = self.score(clips, streams)
        table = pa.Table.from_pylist(rows, score_schema(self.card, self.config.attention))
        self.store.folder.at("scores").write(f"{unit['shard']}.parquet", parquet_bytes(table, compression="zstd"))
        return {**unit, "ok": sum(r["status"] == "ok" for r in rows), "clips": len(rows)}

    def score(self, clips: Sequence[Clip], streams: dict[str, list[ClipRow]]) -> list[dict[str, Any]]:
        """One row a clip, in the clips' order. streams: of each, a row a clip."""
        by_clip = [{name: rows[i] for name, rows in streams.items()} for i in range(len(clips))]
        usable = [i for i, of in enumerate(by_clip) if any(row.features for row in of.values())]
        sequences = {
            i: {n: self.preparation(self._group(clips[i]), n, r.features.values) for n, r in by_clip[i].items() if r.features}
            for i in usable
        }
        values = dict(zip(usable, predict(self.model, self.card, [sequences[i] for i in usable]), strict=True))
        return [self._row(clip, by_clip[i], sequences.get(i), values.get(i)) for i, clip in enumerate(clips)]

    def _group(self, clip: Clip) -> str:
        return group_of(self.card.normalise, self.config.corpus, clip.speaker)

    def _normalised_by(self, clip: Clip, streams: Sequence[str]) -> str:
        """Whose statistics were taken, for people who must know how far to trust a score; of how many clips at least."""
        assert self.known is not None
        assert self.preparation.normaliser is not None
        group, by = self._group(clip), self.card.normalise
        if group == POOLED:
            return f"all clips of the training (no {by} is known)"
        fewest: dict[str, int] = {}
        for stream in streams:
            moments = self.preparation.normaliser.moments[group, stream]
            where = "in the run" if moments is self.known.moments.get((group, stream)) else "here"
            fewest[where] = min(moments.clips, fewest.get(where, moments.clips))
        return " and ".join(f"the {by}'s {n} clips {where}" for where, n in sorted(fewest.items(), reverse=True))

    def _row(self, clip: Clip, of: dict[str, ClipRow], sequences: Sequences | None, values: Any) -> dict[str, Any]:
        row: dict[str, Any] = {k: getattr(clip, k) for k in ("clip_id", "uri", "start", "end", "speaker")}
        row["reason"] = "; ".join(f"{name}: {r.reason}" for name, r in of.items() if r.reason) or None
        row |= {f"has_{name}": r.features is not None for name, r in of.items()}
        row |= {"status": "unusable" if values is None else "ok", "model_id": self.model_id}
        if values is not None and sequences is not None:
            if self.known is not None:
                row["normalised_by"] = self._normalised_by(clip, list(sequences))
            row["emotion"] = self.card.classes[int(values.argmax())]
            row |= {f"{value_prefix(self.card)}{c}": float(v) for c, v in zip(self.card.classes, values, strict=True)}
            if self.config.attention:
                here = {n: r.features for n, r in of.items() if r.features}
                whole = {n: Times(f.times.tolist(), list(f.tokens) if f.tokens else None) for n, f in here.items()}
                times = {n: self.preparation.times(n, of) for n, of in whole.items()}
                row["attention"] = explain(self.model, self.card, sequences, times)
        return row


def score(config: ScoreConfig) -> Store:
    """Score the clips that are not scored yet."""
    config = replace(config, run=absolute(config.run), clips=absolute(config.clips), out=absolute(config.out))
    _, card, model_id = load_model(config.run)
    extractors = extractors_of(card, config.places)
    with listing(config.corpus, config.corpus_options, config.clips) as (clips, _):
        store = Store.create(config.out, config.corpus, config.shard_size)
        if store.streams() and not store.folder.exists("scores.json"):
            raise ValueError(f"{config.out} is a store of features: choose another --out for scores")
        _note_model(store, config, model_id)
        new, known = store.add_clips(clips, same_speakers=card.normalise == "speaker")  # statistics are not taken anew
    extractors = [e.settled(store.manifest) for e in extractors]
    nameless = [e.name for e in extractors if isinstance(e, Importer) and not e.is_named(store.manifest)]
    if nameless:
        say = " ".join(f"--set {name}.files=..." for name in nameless)
        if len(nameless) == len(extractors):
            raise ValueError(
                f"nobody says where the files of {', '.join(nameless)} are, which is all that the model takes: {say}"
            )
        console.print(f"  nobody says where the files of {', '.join(nameless)} are: scored without ({say})", style="yellow")
    folder = store.folder.at("scores")
    folder.sweep()
    shards = store.shards()
    done = {n.removesuffix(".parquet") for n in folder.names(".parquet")}
    todo = [{"shard": s} for s in shards if s not in done]
    console.print(
        f"{new} new clips, {known} known; model {model_id} on {', '.join(card.streams)}: "
        f"{len(shards) - len(todo)} of {len(shards)} shards scored, {len(todo)} to do"
    )
    if todo:
        began = time.perf_counter()
        with ray_started(first=["rrnn.predict"], then=["jobs.score"]), contextlib.ExitStack() as stack:
            extractors, where = placed(extractors, config.gpus)
            if where:
                console.print(f"  {where}")
            stack.enter_context(machines_missed(1, {"CPU": 1.0, "GPU": max(e.gpus for e in extractors)}))
            gpus = 0.0
            if card.normalise != "none":
                prepare_statistics(store, config.corpus, card.normalise, extractors, config.workers, config.clip_seconds)
            else:
                gpus = max(e.gpus for e in extractors)
            advance = stack.enter_context(progress(len(shards), "shards", len(shards) - len(todo)))
            for result in map_units(
                ScoreWorker, {"config": config, "extractors": extractors}, todo, workers=config.workers, gpus=gpus
            ):
                advance(1, f"({result['shard']}: {result['ok']} of {result['clips']} clips scored)")
        console.print(f"  scored in {time.perf_counter() - began:.0f} s")
    console.print(score_table(store))
    return store


def _note_model(store: Store, config: ScoreConfig, model_id: str) -> None:
    now = {"model_id": model_id, "attention": config.attention, "own_statistics": config.own_statistics}
    if store.folder.exists("scores.json"):
        then = json.loads(store.folder.read("scores.json"))
        if {k: then.get(k) for k in now} != now:
            raise ValueError(f"{config.out} holds scores of {then}, not of {now}: choose another --out")
    store.folder.write("scores.json", json.dumps({**now, "run": config.run}, indent=2).encode())


def score_table(store: Store) -> Table:
    """How many clips were given each emotion, and how many could not be scored."""
    folder = store.folder.at("scores")
    names = [n for n in folder.names(".parquet") if SHARD_NAME.match(n.removesuffix(".parquet"))]
    emotions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for name in names:
        for row in open_parquet(folder, name).read(columns=["status", "reason", "emotion"]).to_pylist():
            if row["status"] == "ok":
                emotions[row["emotion"]] += 1
            else:
                reasons[row["reason"]] += 1
    table = Table("clips", "", box=None, pad_edge=False)
    for emotion, n in emotions.most_common():
        table.add_row(str(n), emotion)
    for reason, n in reasons.most_common(5):
        table.add_row(str(n), f"unusable: {reason}")
    return table


@user_errors
def main(
    run: Annotated[str, typer.Argument(help="The trained model: a run that jobs.train finished; a folder or a URL.")],
    clips: Annotated[str, typer.Argument(help="Raw clips, as jobs.extract takes them. Labels are not needed.")],
    out: Annotated[str, typer.Option(help="The scores: a folder or a URL. What is scored is not scored again.")],
    corpus: Annotated[str, typer.Option(help=f"How to read the clips: {', '.join(CORPORA)}.")] = "folder",
    attention: Annotated[bool, typer.Option("--attention", help="Keep what the model attended to, frame by frame.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Option of the corpus, or where a stream's files or weights are: openface.files=of/{stem}.csv.",
        ),
    ] = None,
    own_statistics: Annotated[
        bool,
        typer.Option(
            "--own-statistics", help="Normalise by the clips that are scored alone, even where the run knows their speaker."
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers at most; by default as many as there is room for.")
    ] = None,
    gpus: Annotated[str, typer.Option(help="GPUs a worker, for streams that can use one: 0, a share, or auto.")] = "0",
    clip_seconds: Annotated[float, typer.Option(min=1, help="The most that one clip may take in one stream.")] = CLIP_SECONDS,
    shard_size: Annotated[int, typer.Option(min=1, help="Clips a shard, fixed when the scores are begun.")] = SHARD_SIZE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Score raw clips with a trained model.

    The streams that the model was trained on are extracted by the same code with the same options. One
    Parquet row a clip: emotion, every class's value, which streams there were, status and reason, the model's id.

    A model that was trained on clips normalised by speaker (or corpus) is fed such clips here: a speaker whom the run knows
    (the same corpus and name) by the run's statistics, another by those of all of their clips here. Features are kept then.

    Example: python -m jobs.score runs/first ~/new-clips --out scores/new-clips
    """
    gpu_share(gpus)
    corpus_options, places = options_of(corpus, set_ or [])
    config = ScoreConfig(
        run=run,
        clips=clips,
        corpus=corpus,
        out=out,
        attention=attention,
        corpus_options=corpus_options,
        places=places,
        own_statistics=own_statistics,
        shard_size=shard_size,
        workers=workers,
        gpus=gpus,
        clip_seconds=clip_seconds,
    )
    check_buckets(run, clips, out)
    if dry_run:
        _, card, model_id = load_model(run)
        streams = {e.name: e.digest() for e in extractors_of(card, config.places)}
        console.print_json(json.dumps({**asdict(config), "model_id": model_id, "streams": streams}))
        return
    score(config)


cli = app(main)

if __name__ == "__main__":
    from jobs.score import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
