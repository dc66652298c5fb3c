"""A training step of the RRNN against its LSTMs alone, on the same padded batch, in one process on one thread.

Ours: forward, loss, backward, clipped gradient, AdamW. The floor: one bidirectional nn.LSTM a stream, of the same sizes,
forward, sum, backward, AdamW. Neither loads data; both have a training worker's memory settings. Seconds are the process's
CPU time, which on one thread is the time that it would take on a core of its own.

The floor has no attention. The products W_s1 H of all hops can't be avoided either, so a second floor has them too: it
shows what the rest of the model costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.measure import Row, Target, in_turn, milliseconds, ratios
from rrnn.config import ModelConfig, TrainConfig
from rrnn.model import RRNN, Batch
from rrnn.train import keep_freed_memory

SHAPES: dict[str, dict[str, tuple[int, int]]] = {  # of a stream: columns, frames
    "demo": {"acoustic": (44, 350), "speech": (384, 175), "face": (59, 105), "words": (50, 10)},
    "eGeMAPS, face": {"egemaps": (25, 350), "face": (59, 105)},
}
BATCHES = (16, 32)
CLASSES = 8
SHORTEST = 0.85  # of a batch's longest clip: batches are of similar length


def measure(turns: int) -> list[Row]:
    """Rows of the table."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        rows = []
        for name, shapes in SHAPES.items():
            for clips in BATCHES:
                rows += _compare(f"training step, {name}, {clips} clips", shapes, clips, turns)
        return rows
    finally:
        torch.set_num_threads(threads)


def made_batch(shapes: Mapping[str, tuple[int, int]], clips: int) -> tuple[Batch, Tensor]:
    """A batch of noise, and its classes."""
    torch.manual_seed(0)
    values = {s: torch.randn(clips, frames, columns) for s, (columns, frames) in shapes.items()}
    lengths = {s: torch.randint(int(SHORTEST * frames), frames + 1, (clips,)) for s, (_, frames) in shapes.items()}
    return Batch(values, lengths), torch.randint(0, CLASSES, (clips,))


def rrnn_step(columns: Mapping[str, int], batch: Batch, target: Tensor) -> Callable[[], float]:
    """A function that takes one training step and returns its CPU seconds."""
    model = RRNN(ModelConfig(), columns, CLASSES)
    train = TrainConfig()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
    )  # as rrnn.train does

    def step() -> float:
        began = time.process_time()
        loss = F.cross_entropy(model(batch).prediction, target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), train.clip_gradient)
        optimiser.step()
        return time.process_time() - began

    return step


def _floor_step(columns: Mapping[str, int], batch: Batch, products: bool) -> Callable[[], float]:
    config = ModelConfig()
    lstms = nn.ModuleDict({s: nn.LSTM(n, config.hidden, batch_first=True, bidirectional=True) for s, n in columns.items()})
    w1 = nn.ModuleDict({s: nn.Linear(2 * config.hidden, config.hops * config.hidden, bias=False) for s in columns})
    optimiser = torch.optim.AdamW([*lstms.parameters(), *(w1.parameters() if products else ())], fused=True)

    def step() -> float:
        began = time.process_time()
        encoded = {s: lstms[s](batch.values[s])[0] for s in columns}
        loss = torch.stack([(w1[s](h) if products else h).sum() for s, h in encoded.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        return time.process_time() - began

    return step


def _compare(what: str, shapes: Mapping[str, tuple[int, int]], clips: int, turns: int) -> list[Row]:
    batch, target = made_batch(shapes, clips)
    columns = {s: n for s, (n, _) in shapes.items()}
    ours = rrnn_step(columns, batch, target)
    lstms = _floor_step(columns, batch, products=False)
    products = _floor_step(columns, batch, products=True)
    for warm in (ours, lstms, products):
        warm()
    found = in_turn({"ours": ours, "lstms": lstms, "products": products}, turns)
    return [
        Row(
            f"{what} / LSTMs alone",
            milliseconds(found["ours"]),
            milliseconds(found["lstms"]),
            ratios(found["ours"], found["lstms"]),
            Target(1.3, at_least=False),
        ),
        Row(
            "  the same / LSTMs and products W_s1 H",
            milliseconds(found["ours"]),
            milliseconds(found["products"]),
            ratios(found["ours"], found["products"]),
        ),
    ]
