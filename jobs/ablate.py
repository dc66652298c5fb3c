"""What noise on a modality, or its absence, does to trained models: python -m jobs.ablate RUN [RUN ...]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.table import Column, Table

from jobs._cli import absolute, app, console, progress, user_errors
from pipeline.files import check_buckets
from rrnn.ablation import LEVELS, ablate, read_ablation, write_ablation
from rrnn.data import ClipSet, open_store, read_shard
from rrnn.results import CLASSIFICATION, CLOSED, REGRESSION, curves_of, in_modality_order
from rrnn.run import RunFolder, load_model
from rrnn.targets import make_objective, make_targets


def ablate_run(url: str, levels: tuple[float, ...], repeats: int, store_url: str | None) -> list[dict[str, Any]]:
    """The rows of one run, read where they are already there for these levels and repeats; otherwise made and written."""
    run = RunFolder(url)
    model, card, model_id = load_model(url)
    if run.exists("summary.json") and run.read_json("summary.json")["test"] is None:
        raise ValueError(f"{url}: {CLOSED}")
    config = run.read_json("config.json")
    asked = {"model_id": model_id, "levels": list(levels), "repeats": repeats}
    rows, made_by = read_ablation(run)
    if made_by == asked:
        return rows
    try:
        store = open_store(store_url or config["store"], list(card.streams), None, config["train"].get("alternatives"))
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{url} was trained on a store that is not there ({e}): name where it is with --store") from e
    with progress(len(store.shards), "shards") as advance:
        tables = []
        for shard in store.shards:
            tables.append(read_shard(store, shard))
            advance(1, "read")
    clips = ClipSet(tables, list(card.streams), store.alternatives)
    if clips.digest() != config["data_digest"]:
        raise ValueError(f"{store.url} holds other data than {url} was trained on: name the store that it was with --store")
    clips.prepare(card.normalise, card.corpus, card.pool)
    predictions = (
        pq.ParquetFile(pa.BufferReader(run.read("predictions.parquet"))).read(columns=["clip_id", "split"]).to_pylist()
    )
    tested = {r["clip_id"] for r in predictions if r["split"] == "test"}
    indices = np.array([i for i, clip_id in enumerate(clips.ids) if clip_id in tested], np.int64)
    objective = make_objective(make_targets(clips), config["train"]["loss"])
    rows = ablate(model, card, objective, clips, indices, levels=levels, repeats=repeats)
    write_ablation(run, rows, asked)
    return rows


def short_names(urls: Sequence[str]) -> dict[str, str]:
    """Each run's URL without the folders that all of them share at the start and at the end; the last folder of one alone."""
    parts = [url.split("/") for url in urls]
    if len(parts) == 1:
        return {urls[0]: parts[0][-1]}

    def shared(paths: list[list[str]]) -> int:
        return sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False)))

    start, end = shared(parts), shared([p[::-1] for p in parts])
    return {url: "/".join(p[start : max(start + 1, len(p) - end)]) or p[-1] for url, p in zip(urls, parts, strict=True)}


def curve_table(by_run: dict[str, list[dict[str, Any]]], key: str) -> Table:
    """Mean of a score over the repeats, a line for each modality and run, a column for each level."""
    curves = {name: curves_of(name, rows, key) for name, rows in by_run.items()}
    levels = sorted({float(x) for of in curves.values() for c in of.values() for x in c.levels})
    run_column = Column("run", overflow="fold")
    table = Table("noise on", run_column, *(f"{level:g} sd" for level in levels), "absent", box=None, pad_edge=False)
    for modality in in_modality_order(m for of in curves.values() for m in of):
        for name, of in curves.items():
            if modality in of:
                at = dict(zip(of[modality].levels, of[modality].values, strict=True))
                shown = [f"{at[level]:.4f}" if level in at else "" for level in levels]
                table.add_row(modality, name, *shown, f"{of[modality].absent:.4f}")
    return table


@user_errors
def main(
    runs: Annotated[list[str], typer.Argument(metavar="RUN [RUN ...]", help="Finished runs; folders or URLs.")],
    levels: Annotated[str, typer.Option(help="Noise, in standard deviations of each column.")] = ",".join(
        f"{x:g}" for x in LEVELS
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Draws of the noise at each level.")] = 3,
    store: Annotated[str | None, typer.Option(help="The features, where they are no longer where the run had them.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Test trained models again with noise on each modality, and without it.

    The test clips of each run are scored with white Gaussian noise of several levels on the streams of one modality, and with
    that modality absent. The curves go into the run (ablation.parquet), and jobs.report draws them. They say how robust a
    finished model is: choosing between models by them would be choosing on the test set.

    Example: python -m jobs.ablate runs/gated runs/ungated
    """
    try:
        chosen = tuple(sorted({0.0, *(float(x) for x in levels.split(",") if x.strip())}))
    except ValueError:
        raise ValueError(f"--levels {levels}: expected numbers with commas between them, such as 0.5,1,2") from None
    if not np.isfinite(chosen).all() or chosen[0] < 0:
        raise ValueError(f"--levels {levels}: expected levels of 0 or more")
    if dry_run:
        console.print_json(json.dumps({"runs": runs, "levels": chosen, "repeats": repeats, "store": store}))
        return
    check_buckets(*runs, store or "")
    tasks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for url in map(absolute, runs):
        rows = ablate_run(url, chosen, repeats, absolute(store) if store else None)
        tasks.setdefault(RunFolder(url).read_json("config.json")["task"], {})[url] = rows
    for task, of_task in tasks.items():
        names = short_names(list(of_task))
        by_run = {names[url]: rows for url, rows in of_task.items()}
        for measure in REGRESSION if task == "regression" else CLASSIFICATION:
            console.print(f"\n{measure.name}: {measure.meaning}")
            console.print(curve_table(by_run, measure.key))


cli = app(main)

if __name__ == "__main__":
    cli()
