"""Raw clips to features: python -m jobs.extract SOURCE --corpus NAME --out STORE"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, get_args

import typer
from rich.table import Table

from jobs._cli import absolute, app, console, overrides, progress, user_errors
from jobs._machines import machines_missed
from pipeline.clip import MODALITIES, Clip
from pipeline.corpora import CORPORA, checking, corpus_class, open_corpus
from pipeline.corpora.base import Kind, Problem
from pipeline.corpora.reading import corpus_clips, read_corpus
from pipeline.extract import CLIP_SECONDS, pending
from pipeline.files import check_buckets
from pipeline.on_ray import extract_on_ray, gpu_share, placed, ray_started
from pipeline.store import SHARD_SIZE, Store
from pipeline.streams import DEFAULT_STREAMS, STREAMS, make_stream, stream_class
from pipeline.streams.base import Extractor

STYLES = {"missing": "red", "broken": "red", "leak": "bold red", "note": ""}
CHECK_NAMES = 10  # of each kind of problem that a check names


@dataclass(frozen=True)
class ExtractConfig:
    """All that an extraction depends on."""

    source: str
    corpus: str
    out: str
    corpus_options: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of each stream, by its name; "extractor" among them names the extractor, where it is not the stream's name."""
    split: str | None = None
    shard_size: int = SHARD_SIZE
    workers: int | None = None
    gpus: str = "0"
    clip_seconds: float = CLIP_SECONDS

    def extractors(self) -> list[Extractor]:
        return [self._extractor(name, options) for name, options in self.streams.items()]

    @staticmethod
    def _extractor(name: str, options: dict[str, Any]) -> Extractor:
        rest = {k: v for k, v in options.items() if k != "extractor"}
        return make_stream(name, rest, options.get("extractor"))


def streams_of(corpus: str, modalities: str, streams: str, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The streams that were asked for, with their options. Raises ValueError for a name that is not known."""
    if streams:
        pairs = [s.strip().partition("=") for s in streams.split(",") if s.strip()]
        named = {name.strip(): extractor.strip() for name, _, extractor in pairs}
    else:
        asked = [m.strip() for m in modalities.split(",") if m.strip()]
        if unknown := set(asked) - set(MODALITIES):
            raise ValueError(f"unknown modality {', '.join(sorted(unknown))}: expected some of {', '.join(MODALITIES)}")
        default = corpus_class(corpus).streams or DEFAULT_STREAMS
        named = {name: "" for m in MODALITIES if m in asked for name in default.get(m, ())}
    if strangers := set(options) - set(named):
        raise ValueError(f"options for {', '.join(sorted(strangers))}, which is not extracted: {', '.join(named)} are")
    chosen = {}
    for name, extractor in named.items():
        given = options.get(name, {})
        if not isinstance(given, dict):
            raise ValueError(f"--set {name}={given}: expected {name}.OPTION=VALUE")
        chosen[name] = {**({"extractor": extractor} if extractor else {}), **given}
        ExtractConfig._extractor(name, chosen[name])
    return chosen


def options_of(corpus: str, pairs: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the corpus, and of streams, out of NAME.OPTION=VALUE pairs."""
    options = overrides(pairs)
    name = corpus_class(corpus).name  # of MODULE:CLASS, the name that the class has
    of_corpus = options.pop(name, {})
    if not isinstance(of_corpus, dict):
        raise ValueError(f"--set {name}={of_corpus}: expected {name}.OPTION=VALUE")
    open_corpus(corpus, of_corpus)
    return of_corpus, options


def extract(config: ExtractConfig) -> Store:
    """Bring the store up to date with the source; does only what is missing."""
    config = replace(config, source=absolute(config.source), out=absolute(config.out))
    with listing(config.corpus, config.corpus_options, config.source, config.split) as (clips, problems):
        store = Store.create(config.out, config.corpus, config.shard_size)
        new, known = store.add_clips(clips)
    extractors = [e.settled(store.manifest) for e in config.extractors()]
    if problems or store.folder.exists("problems.json"):  # what was mended is told no more
        store.folder.write("problems.json", json.dumps([p._asdict() for p in problems], indent=2).encode())
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
        with ray_started(), contextlib.ExitStack() as stack:
            extractors, where = placed(extractors, config.gpus)
            if where:
                console.print(f"  {where}")
            stack.enter_context(machines_missed(1, {"CPU": 1.0, "GPU": max(e.gpus for e in extractors)}))
            advance = stack.enter_context(progress(done + len(todo), "shards", done))
            frames = 0
            for report in extract_on_ray(store, extractors, todo, workers=config.workers, clip_seconds=config.clip_seconds):
                frames += report.frames
                bad = f", {report.error} unusable" if report.error else ""
                advance(1, f"({report.stream} {report.shard}: {report.ok} ok{bad})")
        console.print(f"  extracted in {time.perf_counter() - began:.0f} s")
    console.print(outcome_table(store))
    return store


@contextlib.contextmanager
def listing(
    corpus: str, options: dict[str, Any], source: str, split: str | None = None
) -> Iterator[tuple[Iterator[Clip], list[Problem]]]:
    """A source's clips, to be taken one by one, and the problems that are found meanwhile, which are printed in the end. The
    first clip is read before anything else is done: a source that is not there makes no store."""
    problems: list[Problem] = []
    clips = corpus_clips(open_corpus(corpus, options), source, split, problems.append)
    try:
        first = list(itertools.islice(clips, 1))
        yield itertools.chain(first, clips), problems
    finally:
        print_problems(problems)


def print_problems(problems: Sequence[Problem]) -> None:
    """A line for each kind of problem, with how many there are and the first of them; leaks of speakers first."""
    by_what: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        by_what.setdefault((problem.kind, problem.what.partition(":")[0]), []).append(problem)
    for (kind, _), alike in sorted(by_what.items(), key=lambda item: item[0][0] != "leak"):
        more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
        console.print(f"  {kind}: {alike[0].where}: {alike[0].what}{more}", style=STYLES.get(kind, "yellow"))


def check_source(config: ExtractConfig, decode: bool) -> int:
    """Walk the source and print what is there; returns the exit code, 1 where something is missing or broken."""
    corpus, source = open_corpus(config.corpus, config.corpus_options), absolute(config.source)
    clips, problems = read_corpus(corpus, source, config.split)
    problems += checking.strangers(corpus, source, clips, problems)
    problems += [Problem("missing", name, "the published corpus has it") for name in corpus.missing(clips)]
    files = checking.files(clips)
    with progress(len(files), "files") as advance:
        for found in checking.look(files, decode):
            problems += found
            advance(1, "")
    table = Table("what", "found", "expected", box=None, pad_edge=False)
    for count in corpus.counts(clips):
        expected = "" if count.expected is None else str(count.expected)
        table.add_row(count.what, str(count.found), expected, style=None if expected in ("", str(count.found)) else "yellow")
    console.print(table)
    for kind in get_args(Kind):
        alike = [p for p in problems if p.kind == kind]
        if alike:
            console.print(f"{kind}: {len(alike)}", style=STYLES.get(kind, "yellow"))
        for problem in alike[:CHECK_NAMES]:
            console.print(f"  {problem.where}: {problem.what}")
        if len(alike) > CHECK_NAMES:
            console.print(f"  and {len(alike) - CHECK_NAMES} more")
    bad = any(p.kind in ("missing", "broken") for p in problems)
    how = "decoded to their ends" if decode else "their first bytes read"
    console.print(f"{len(clips)} clips in {len(files)} files, {how}: {'not all well' if bad else 'all well'}")
    return int(bad)


def outcome_table(store: Store) -> Table:
    """What became of every clip in every stream, and why."""
    table = Table("stream", "modality", "ok", "absent", "unusable", "most frequent reason", box=None, pad_edge=False)
    for name, about in store.streams().items():
        tally = store.tally(name)
        counts: Counter[str] = Counter()
        reasons: Counter[str | None] = Counter()
        for (status, reason), n in tally.items():
            counts[status] += n
            if status != "ok":
                reasons[reason] += n
        why = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(1))
        table.add_row(name, about["modality"], *(str(counts[s]) for s in ("ok", "absent", "error")), why)
    return table


def list_all() -> None:
    """Print the corpora and the streams, what each needs, and its licence."""
    corpora = Table("corpus", "SOURCE is", "options", "licence", box=None, pad_edge=False)
    for name in CORPORA:
        of = corpus_class(name)
        corpora.add_row(name, of.holds, ", ".join(f.name for f in fields(of)), of.licence)
    console.print(corpora)
    console.print()
    table = Table("stream", "modality", "frame shift", "needs", "licence", box=None, pad_edge=False)
    for name in STREAMS:
        cls = stream_class(name)
        shift = "of the recording" if cls.frame_shift is None else f"{cls.frame_shift:g} s"
        default = " (default)" if any(name in names for names in DEFAULT_STREAMS.values()) else ""
        table.add_row(name + default, cls.modality or "an option", shift, ", ".join(cls.needs), cls.licence)
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
    streams: Annotated[
        str, typer.Option(help="Streams by name instead, such as acoustic,face, or NAME=EXTRACTOR; see --list.")
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of a stream or the corpus, such as face.height=240. May be repeated."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Your own division into train, valid and test: a CSV of clip and side, or a folder of lists."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only walk the source: print what is there, missing and broken.")
    ] = False,
    decode: Annotated[bool, typer.Option("--decode", help="With --check: decode every recording to its end.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers at most; by default as many as there is room for.")
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(help="GPUs a worker, for streams that can use one: 0, a share such as 0.5, or auto (if there is one)."),
    ] = "0",
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
    if not source or not (out or check):
        raise ValueError("expected SOURCE and --out STORE; see --help")
    gpu_share(gpus)
    corpus_options, options = options_of(corpus, set_ or [])
    config = ExtractConfig(
        source=source,
        corpus=corpus,
        out=out,
        corpus_options=corpus_options,
        streams=streams_of(corpus, modalities, streams, options),
        split=split,
        shard_size=shard_size,
        workers=workers,
        gpus=gpus,
        clip_seconds=clip_seconds,
    )
    if check:
        check_buckets(source)
        raise typer.Exit(check_source(config, decode))
    if dry_run:
        made_by = {e.name: e.describe() for e in config.extractors()}
        for about in made_by.values():
            about["columns"] = f"{len(about['columns'])} columns"
        console.print_json(json.dumps({**asdict(config), "extractors": made_by}))
        return
    check_buckets(source, out)
    extract(config)


cli = app(main)

if __name__ == "__main__":
    from jobs.extract import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
