"""The whole way on clips that it makes itself: python -m jobs.demo"""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from jobs._cli import app, console, progress, user_errors
from jobs._machines import DISTRIBUTED
from jobs.extract import ExtractConfig, extract, streams_of
from jobs.report import media, thumbnails
from jobs.score import ScoreConfig, score
from jobs.train import TrainJob, run_training, summary_table
from pipeline.corpora.made import make_corpus
from pipeline.on_ray import ray_started
from pipeline.parquet import open_parquet
from pipeline.store import Store
from rrnn.experiments import experiment
from rrnn.report import write_report

SPEAKERS, CLIPS_PER_SPEAKER = 8, 12
SHARD_SIZE = 8


@user_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demonstration makes.")] = Path("demo"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Make a small labelled corpus of talking faces, then extract, train, score and report on it.

    What exists is reused, so a second run only says what is there. The labels are true by construction: the figures show
    that the parts fit together, and are no result of emotion recognition.
    """
    config = experiment("demo")
    if dry_run:
        console.print_json(json.dumps({"out": str(out), "speakers": SPEAKERS, "clips": CLIPS_PER_SPEAKER, **config.to_dict()}))
        return
    began = time.perf_counter()
    clips, store, run, new = out / "clips", out / "store", out / "run", out / "new"

    total = SPEAKERS * CLIPS_PER_SPEAKER
    title(f"1/5 clips: {SPEAKERS} speakers, {total} clips in {clips}")
    with progress(total, "clips") as advance:
        made = 0

        def on_progress(done: int, _total: int) -> None:
            nonlocal made
            advance(done - made, "")
            made = done

        manifest = make_corpus(clips, speakers=SPEAKERS, clips_per_speaker=CLIPS_PER_SPEAKER, progress=on_progress)
    if not made:
        console.print("  reused")

    with ray_started(first=DISTRIBUTED, then=["jobs.train", "jobs.score"]):
        title(f"2/5 extract: {store}")
        extract(
            ExtractConfig(
                source=str(manifest),
                corpus="made",
                out=str(store),
                streams=streams_of("made", "audio,vision,text", "", {}),
                shard_size=SHARD_SIZE,
            )
        )
        title(f"3/5 train: {run}")
        summary = run_training(TrainJob(str(store), str(run), config))
        title("4/5 score: the held-out speakers' clips again, from their files and without labels")
        unlabelled = write_unlabelled(manifest, run / "predictions.parquet", new)
        scores = score(
            ScoreConfig(run=str(run), clips=str(unlabelled), corpus="folder", out=str(new / "scores"), shard_size=SHARD_SIZE)
        )
        check_scores(scores, run / "predictions.parquet")

    title("5/5 report")
    page = out / "report" / "report.html"
    if page.exists() and page.stat().st_mtime > (run / "summary.json").stat().st_mtime:
        console.print("  reused")
    else:
        write_report([str(run)], str(out / "report"), thumbnails=thumbnails, media=media)

    title(f"done in {time.perf_counter() - began:.0f} s")
    speakers = json.loads((run / "config.json").read_text())["splits"]["test"]["speakers"]
    console.print(f"Speakers that the model never heard or saw: {', '.join(speakers)}. Labels are true by construction.")
    console.print(summary_table(summary))
    console.print(f"report: {page}")


def title(text: str) -> None:
    console.print(f"\n{text}", style="bold")


def write_unlabelled(manifest: Path, predictions: Path, folder: Path) -> Path:
    """A manifest of the test clips without their labels, as a user has clips to score; returns its path."""
    test = {r["clip_id"] for r in pq.ParquetFile(predictions).read().to_pylist() if r["split"] == "test"}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.csv"
    with manifest.open(newline="") as source, path.open("w", newline="") as target:
        writer = csv.DictWriter(target, ["clip_id", "path", "transcript", "words"])
        writer.writeheader()
        for row in csv.DictReader(source):
            if row["clip_id"] in test:
                row["path"] = str((manifest.parent / row["path"]).resolve())
                writer.writerow({k: row[k] for k in writer.fieldnames})
    return path


def check_scores(scores: Store, predictions: Path) -> None:
    """Scoring from raw clips must give what testing gave: they are the same clips, extractors and model."""
    rows = pq.ParquetFile(predictions).read().to_pylist()
    tested: dict[str, Any] = {r["clip_id"]: r for r in rows if r["split"] == "test"}
    folder = scores.folder.at("scores")
    scored = [r for n in folder.names(".parquet") for r in open_parquet(folder, n).read().to_pylist()]
    same = sum(r["emotion"] == tested[r["clip_id"]]["prediction"] for r in scored)
    console.print(f"  {same} of {len(tested)} clips scored as in the test")
    if same != len(tested):
        raise RuntimeError("scoring from raw clips gave other answers than testing did")


cli = app(main)

if __name__ == "__main__":
    from jobs.demo import cli as importable  # what Ray sends to workers must come from a module, not from __main__

    importable()
