"""Runs to a page that people want to look at: python -m jobs.report RUN [RUN ...] --out REPORT"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from jobs._cli import app, console, user_errors
from pipeline.clip import Clip, ClipError
from pipeline.files import check_buckets
from pipeline.media import AUDIO_RATE, Deadline, open_media
from pipeline.webm import make_playable
from rrnn.explorer import Media
from rrnn.report import MEDIA_MB, write_report
from rrnn.results import find_runs

THUMBNAIL_HEIGHT = 160
CLIP_SECONDS = 60.0  # of work, on one clip
WAVEFORM_POINTS = 600
LONGEST = 180.0  # seconds of a clip that is embedded to be played


def clip_of(example: dict[str, Any]) -> Clip:
    return Clip(clip_id=example["clip_id"], uri=example["uri"], start=example["start"], end=example["end"])


def thumbnails(example: dict[str, Any], times: Sequence[float]) -> list[npt.NDArray[np.uint8] | None]:
    """The frames of a clip that are nearest to the given times, as RGB; None where its recording can't be read here."""
    nearest: list[tuple[float, npt.NDArray[np.uint8] | None]] = [(float("inf"), None)] * len(times)
    try:
        with open_media(clip_of(example), Deadline(CLIP_SECONDS)) as media:
            for seconds, frame in media.frames(THUMBNAIL_HEIGHT):
                for i, wanted in enumerate(times):
                    if abs(seconds - wanted) < nearest[i][0]:
                        nearest[i] = (abs(seconds - wanted), frame)
    except ClipError:
        pass  # the page then has no frames for this clip, and says so
    return [frame for _, frame in nearest]


def media(example: dict[str, Any]) -> Media | str:
    """A clip to be played in the page, or why it is not: what is wrong with its recording here, or that it is too long."""
    if example["times"][-1] > LONGEST:
        return f"the clip is longer than {LONGEST:g} s"
    try:
        with open_media(clip_of(example), Deadline(CLIP_SECONDS)) as recording:
            made = make_playable(recording)
    except ClipError as e:
        return str(e)
    parts = np.array_split(np.abs(made.samples), WAVEFORM_POINTS)
    envelope = np.array([part.max() for part in parts if len(part)], np.float64)
    return Media(made.content, "video/webm" if made.video else "audio/webm", envelope, len(made.samples) / AUDIO_RATE)


def finished_runs(urls: Sequence[str]) -> list[str]:
    """Each URL, or where it is a folder of runs, the finished ones in it; says which are not. One that is given twice, or that
    lies in a folder that is given too, is taken once."""
    found: dict[str, None] = {}
    for url in urls:
        finished, unfinished = find_runs(url)
        for other in unfinished:
            console.print(f"{other} is unfinished: left out", style="yellow")
        found |= dict.fromkeys(finished or [url])  # what holds none is refused where it is read
    return list(found)


@user_errors
def main(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN [RUN ...]", help="Finished runs, or folders that hold some, at any depth; paths or URLs."),
    ],
    out: Annotated[str, typer.Option(help="Folder for report.html, figures/ and tables/.")],
    media_mb: Annotated[
        float, typer.Option(min=0.0, help="Most that recordings may add to the page, in million bytes.")
    ] = MEDIA_MB,
    no_media: Annotated[
        bool, typer.Option("--no-media", help="Read no recording: a page without faces, voices and waveforms. Words stay.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Write one self-contained HTML page about one or more runs, with its figures as PNG and its tables as CSV.

    Held-out figures with confidence intervals beside the naive baseline, confusion matrix, training curves, what was
    unusable and why, and for a few clips what the model attended to over time, in pictures and in an explorer that plays
    the clip. Recordings and frames of those clips are in the page where they can still be read.

    Runs that differ in seed and fold alone are taken together: figures over them, differences between experiments, and the
    paper's tables, as HTML, CSV and LaTeX.

    Example: python -m jobs.report runs/first runs/second --out report
    """
    check_buckets(*runs)
    runs = finished_runs(runs)
    if dry_run:
        console.print_json(json.dumps({"runs": runs, "out": out, "media_mb": media_mb, "no_media": no_media}))
        return
    if "://" in out:
        raise ValueError(f"--out {out}: expected a folder of this machine")
    shown: dict[str, Any] = {} if no_media else {"thumbnails": thumbnails, "media": media, "media_mb": media_mb}
    console.print(f"report: {write_report(runs, out, **shown)}")


cli = app(main)

if __name__ == "__main__":
    cli()
