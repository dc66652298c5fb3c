"""Training on a GPU against its LSTMs alone: python -m benchmarks.gpu

Ours: forward, loss, backward, clipped gradient, AdamW, at each precision. The floor: one bidirectional nn.LSTM a stream, which
is cuDNN's, forward, backward from a given gradient, AdamW, at the same precision. Clips a second, and the most memory that ours
had. The figures of docs/benchmarks.md are the CPU's: this has not been run on a GPU yet.
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.training import CLASSES, SHAPES, Floor, Shape, made_batch
from jobs._cli import app, console, user_errors
from rrnn.architectures import build_model
from rrnn.config import ModelConfig, TrainConfig

PRECISIONS = {"float32": ("highest", False), "tf32": ("high", False), "bfloat16": ("high", True)}
"""Of each name: torch's float32 matmul precision, and whether autocast is on."""


def rates(shape: Shape, precision: str, device: torch.device, steps: int, compiled: bool) -> tuple[float, float, float]:
    """Clips a second of ours and of the floor, and the peak of ours in MiB (NaN where it can't be told)."""
    matmul, half = PRECISIONS[precision]
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    batch, target = made_batch(shape)
    batch, target = batch.to(device), target.to(device)
    train = TrainConfig()

    def timed(parameters: list[nn.Parameter], forward_backward: object) -> float:
        optimiser = torch.optim.AdamW(parameters, lr=train.learning_rate, fused=True)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            forward_backward()  # type: ignore[operator]
            nn.utils.clip_grad_norm_(parameters, train.clip_gradient)
            optimiser.step()

        for _ in range(3):
            step()
        _wait(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(device)
        return steps * shape.clips / (time.perf_counter() - began)

    model = build_model(ModelConfig(hidden=shape.hidden), shape.columns, CLASSES).to(device)
    run = torch.compile(model) if compiled else model

    def ours() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            prediction = run(batch).prediction.float()
        torch.autograd.backward(F.cross_entropy(prediction, target))

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    mine = timed(list(model.parameters()), ours)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else float("nan")

    floor = Floor(shape, products=False).to(device)

    def bare() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            outputs = floor(batch)
        torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])

    return mine, timed(list(floor.parameters()), bare), peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@user_errors
def main(
    device: Annotated[
        str, typer.Option(help="Where to run, such as cuda or cuda:1. cpu only shows that the script works.")
    ] = "cuda",
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed, after three that are not.")] = 30,
    compiled: Annotated[bool, typer.Option("--compile", help="Ours through torch.compile.")] = False,
) -> None:
    """Print clips a second of a training step, beside its LSTMs alone, and the memory that it took.

    Example: python -m benchmarks.gpu --steps 100
    """
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch {torch.__version__} sees no such device")
    table = Table("shape", "precision", "clips/s", "LSTMs alone", "ratio", "peak MiB", box=None, pad_edge=False)
    for name in ("RAVDESS", "MOSEI"):
        for precision in PRECISIONS:
            mine, floor, peak = rates(SHAPES[name], precision, where, steps, compiled)
            table.add_row(name, precision, f"{mine:.0f}", f"{floor:.0f}", f"{floor / mine:.2f}", f"{peak:.0f}")
    Console(width=max(console.width, 100), highlight=False).print(table)
    console.print(torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU: not what this is for")


cli = app(main)

if __name__ == "__main__":
    cli()
