"""A trained model as one file that runs without this project: python -m jobs.export RUN --out MODEL.onnx"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs._cli import absolute, app, console, user_errors
from pipeline.files import check_buckets
from rrnn.export import check_exportable, difference, export_onnx, export_program, input_names, save_program
from rrnn.run import ModelCard, load_model

SUFFIXES = (".onnx", ".pt2")


def left_to_do(card: ModelCard) -> list[str]:
    """What whoever calls the exported model must do with a clip's frames before, beside extracting them."""
    found = []
    if card.normalise != "none":
        found.append(
            f"the model was trained with train.normalise={card.normalise}: take the {card.normalise}'s mean and deviation, "
            "over all of its clips, out of every column before (model/statistics.parquet in the run has those of the training)"
        )
    if pooled := {stream: n for stream, n in card.pool.items() if n > 1}:
        found.append(
            "frames were pooled: average "
            + ", ".join(f"each {n} frames of {s}" for s, n in sorted(pooled.items()))
            + " into one before, leaving out what is not observed"
        )
    return found


@user_errors
def main(
    run: Annotated[str, typer.Argument(help="The trained model: a run that jobs.train finished; a folder or a URL.")],
    out: Annotated[Path, typer.Option(help="The file: NAME.onnx for ONNX, NAME.pt2 for a program of torch.export.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Export a trained model, and compare what was exported with it on ragged clips.

    For each stream two inputs: its frames (clips, frames, columns) float32, NaN where not observed, padded; and its real
    lengths (clips,) int64, 0 where a clip does not have it. One output: the value of each class. Clips and frames may be
    any number. Standardisation is in the file; extraction is not, nor are train.normalise and train.pool, which must be
    applied to the inputs where the model was trained with them. The file's metadata (.onnx) or extra files (.pt2) hold the
    model's card: classes, streams with their columns, and what extracted them.

    Example: python -m jobs.export runs/first --out first.onnx
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out {out}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if "://" in str(out) or ":/" in str(out) or out.is_dir():
        raise ValueError(f"--out {out}: expected a file of this machine")
    check_buckets(run)
    model, card, model_id = load_model(absolute(run))
    check_exportable(card)
    if dry_run:
        frames = {s: f"(clips, frames, {columns})" for s, columns in card.columns.items()}
        about = {"run": run, "out": str(out), "model_id": model_id, "inputs": frames, "values": card.classes}
        console.print_json(json.dumps(about))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.part{out.suffix}")
    try:
        if out.suffix == ".onnx":
            export_onnx(model, card, model_id, temporary)
            found = difference(model, card, temporary)
        else:
            program = export_program(model, card)
            found = difference(model, card, program)
            save_program(program, card, model_id, temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    size = out.stat().st_size / 2**20
    console.print(f"{out}: {size:.1f} MiB, model {model_id}, inputs {', '.join(input_names(card))}")
    console.print(f"largest difference from the model on ragged clips: {found:.1e}")
    for what in left_to_do(card):
        console.print(f"not in the file: {what}", style="yellow")


cli = app(main)

if __name__ == "__main__":
    cli()
