"""Raw clips to features: python -m jobs.extract SOURCE --corpus NAME --out STORE"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import typer
from rich.table import Table

from jobs._cli import absolute, app, console, overrides, progress, user_errors
from pipeline.clip import MODALITIES
from pipeline.corpora import CORPORA, corpus_reader
from pipeline.extract import CLIP_SECONDS, pending
from pipeline.on_ray import extract_on_ray, ray_started
from pipeline.store import SHARD_SIZE, Store
from pipeline.streams import DEFAULT_STREAMS, STREAMS, make_stream, stream_class
from pipeline.streams.base import Extractor


@dataclass(frozen=True)
class ExtractConfig:
    """All that an extraction depends on."""

    source: str
    corpus: str
    out: str
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of each stream, by its name."""
    shard_size: int = SHARD_SIZE
    workers: int | None = None
    clip_seconds: float = CLIP_SECONDS

    def extractors(self) -> list[Extractor]:
        return [make_stream(name, options) for name, options in self.streams.items()]


def streams_of(modalities: str, streams: str, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The streams that were asked for, with their options. Raises ValueError for a name that is not known."""
    if streams:
        names = [s.strip() for s in streams.split(",") if s.strip()]
    else:
        asked = [m.strip() for m in modalities.split(",") if m.strip()]
        if unknown := set(asked) - set(MODALITIES):
            raise ValueError(f"unknown modality {', '.join(sorted(unknown))}: expected some of {', '.join(MODALITIES)}")
        names = [name for m in MODALITIES if m in asked for name in DEFAULT_STREAMS[m]]
    if strangers := set(options) - set(names):
        raise ValueError(f"options for {', '.join(sorted(strangers))}, which is not extracted: {', '.join(names)} are")
    chosen = {name: options.get(name, {}) for name in names}
    for name, given in chosen.items():
        if not isinstance(given, dict):
            raise ValueError(f"--set {name}={given}: expected {name}.OPTION=VALUE")
        make_stream(name, given)
    return chosen


def extract(config: ExtractConfig) -> Store:
    """Bring the store up to date with the source; does only what is missing."""
    config = replace(config, source=absolute(config.source), out=absolute(config.out))
    extractors = config.extractors()
    clips = list(corpus_reader(config.corpus)(config.source))
    store = Store.create(config.out, config.corpus, config.shard_size)
    new, known = store.add_clips(clips)
    for extractor in extractors:
        store.begin_stream(extractor)
    if swept := store.sweep():
        console.print(f"  removed {swept} unfinished files of an interrupted run")
    todo, done = pending(store, extractors)
    console.print(
        f"{new} new clips, {known} known; {len(store.shards())} shards x {len(extractors)} streams "
        f"({', '.join(e.name for e in extractors)}): {done} done, {len(todo)} to do"
    )
    if todo:
        began = time.perf_counter()
        with ray_started(), progress(done + len(todo), "shards", done) as advance:
            frames = 0
            for report in extract_on_ray(store, extractors, todo, workers=config.workers, clip_seconds=config.clip_seconds):
                frames += report.frames
                bad = f", {report.error} unusable" if report.error else ""
                advance(1, f"({report.stream} {report.shard}: {report.ok} ok{bad})")
        console.print(f"  extracted in {time.perf_counter() - began:.0f} s")
    console.print(outcome_table(store))
    return store


def outcome_table(store: Store) -> Table:
    """What became of every clip in every stream, and why."""
    table = Table("stream", "modality", "ok", "absent", "unusable", "most frequent reason", box=None, pad_edge=False)
    for name, about in store.streams().items():
        outcome = store.outcome(name).to_pylist()
        counts = Counter(row["status"] for row in outcome)
        reasons = Counter(row["reason"] for row in outcome if row["status"] != "ok")
        why = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(1))
        table.add_row(name, about["modality"], *(str(counts[s]) for s in ("ok", "absent", "error")), why)
    return table


def list_all() -> None:
    """Print the corpora and the streams, what each needs, and its licence."""
    console.print("corpora: " + ", ".join(CORPORA))
    table = Table("stream", "modality", "frame shift", "needs", "licence", box=None, pad_edge=False)
    for name in STREAMS:
        cls = stream_class(name)
        shift = "of the recording" if cls.frame_shift is None else f"{cls.frame_shift:g} s"
        default = " (default)" if name in DEFAULT_STREAMS[cls.modality] else ""
        table.add_row(name + default, cls.modality, shift, ", ".join(cls.needs), cls.licence)
    console.print(table)


@user_errors
def main(
    source: Annotated[
        str, typer.Argument(help="Folder, manifest file or recording; a path or a URL such as s3://bucket/clips.")
    ] = "",
    corpus: Annotated[str, typer.Option(help=f"How to read it: {', '.join(CORPORA)}.")] = "folder",
    out: Annotated[str, typer.Option(help="The store: a folder or a URL. One that exists is brought up to date.")] = "",
    modalities: Annotated[
        str, typer.Option(help="Some of audio,vision,text: their default streams are extracted.")
    ] = "audio,vision,text",
    streams: Annotated[str, typer.Option(help="Streams by name instead, such as acoustic,face; see --list.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Option of a stream, such as face.height=240. May be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers at most; as many as there are cores by default.")] = None,
    clip_seconds: Annotated[
        float, typer.Option(min=1, help="The most that one clip may take in one stream, in seconds.")
    ] = CLIP_SECONDS,
    shard_size: Annotated[int, typer.Option(min=1, help="Clips a shard, fixed when the store is made.")] = SHARD_SIZE,
    list_streams: Annotated[
        bool, typer.Option("--list", help="Show corpora and streams, what they need and their licences.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Turn raw clips into feature sequences.

    Decodes every clip, runs one extractor a stream over it, and writes one Parquet file per stream and shard. What exists
    is not done again: after a crash, or when clips or streams were added, run the same command once more. A clip that
    can't be used becomes a row with a status and a reason, and never stops the job.

    Example: python -m jobs.extract ~/RAVDESS --corpus ravdess --out features/ravdess --modalities audio
    """
    if list_streams:
        list_all()
        return
    if not source or not out:
        raise ValueError("expected SOURCE and --out STORE; see --help")
    config = ExtractConfig(
        source=source,
        corpus=corpus,
        out=out,
        streams=streams_of(modalities, streams, overrides(set_ or [])),
        shard_size=shard_size,
        workers=workers,
        clip_seconds=clip_seconds,
    )
    corpus_reader(corpus)
    if dry_run:
        made_by = {e.name: e.describe() for e in config.extractors()}
        for about in made_by.values():
            about["columns"] = f"{len(about['columns'])} columns"
        console.print_json(json.dumps({**asdict(config), "extractors": made_by}))
        return
    extract(config)


cli = app(main)

if __name__ == "__main__":
    from jobs.extract import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
