"""Measure how fast the parts are: python -m benchmarks [extraction] [training] [features]"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import extraction, features, training
from benchmarks.measure import Row, table
from jobs._cli import app, console, progress, user_errors
from pipeline.clip import Clip
from pipeline.corpora import open_corpus
from pipeline.corpora.made import make_corpus
from pipeline.corpora.reading import read_corpus

GROUPS = ("extraction", "training", "features")
SPEAKERS, CLIPS_PER_SPEAKER = 2, 4


def made_clips(folder: Path) -> list[Clip]:
    """The benchmark's own clips, made where they are not yet."""
    with progress(SPEAKERS * CLIPS_PER_SPEAKER, "clips") as advance:
        manifest = make_corpus(
            folder, speakers=SPEAKERS, clips_per_speaker=CLIPS_PER_SPEAKER, progress=lambda _done, _total: advance(1, "")
        )
    return read_corpus(open_corpus("made"), str(manifest))[0]


def measure(groups: Sequence[str], clips: Sequence[Clip], n_clips: int, turns: int) -> list[Row]:
    rows: list[Row] = []
    if "training" in groups:
        rows += training.measure(4 * turns)
    if "features" in groups:
        rows += features.measure(clips, 10 * turns)
    if "extraction" in groups:
        rows += extraction.measure(clips, n_clips, turns)
    return rows


@user_errors
def main(
    groups: Annotated[list[str] | None, typer.Argument(help=f"Some of {', '.join(GROUPS)}; all by default.")] = None,
    clips: Annotated[
        Path | None, typer.Option(help="Folder of clips to read. One that does not exist is filled with made clips.")
    ] = None,
    n_clips: Annotated[int, typer.Option("--count", min=2, help="Clips that each side of extraction is timed on.")] = 12,
    turns: Annotated[int, typer.Option(min=1, help="How often the sides take turns; more for the cheap benchmarks.")] = 2,
) -> None:
    """Print one table: what was measured, ours, its floor or peer, and their ratio (median, smallest, largest).

    Example: python -m benchmarks extraction --clips bench-clips --count 64 --turns 5
    """
    chosen = groups or list(GROUPS)
    if unknown := set(chosen) - set(GROUPS):
        raise ValueError(f"unknown benchmark {', '.join(sorted(unknown))}: expected some of {', '.join(GROUPS)}")
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        found: list[Clip] = []
        if chosen != ["training"]:
            if clips is None:
                clips = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-clips-")))
                found = made_clips(clips)
            elif (clips / "made.json").exists() or not clips.exists():
                found = made_clips(clips)
            else:
                found = read_corpus(open_corpus("folder"), str(clips))[0]
        rows = measure(chosen, found, n_clips, turns)
    Console(width=max(console.width, 140), highlight=False).print(table(rows))
    console.print(f"{os.cpu_count()} cores; load before the start {load:.1f}, which should be below 1")


cli = app(main)

if __name__ == "__main__":
    from benchmarks.__main__ import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
