"""Steps of the RRNN and of its peers against their floors, on the same padded batch, in one process on one thread.

Ours: forward, loss, backward, clipped gradient, AdamW. The floors: one bidirectional nn.LSTM a stream, of the same sizes, by
themselves or with the products W_s1 H of all hops; forward, backward from a given gradient, AdamW. The textbook version: packed
sequences, and each hop written down as the paper has it, left to autograd. None loads data; all have a training worker's memory
settings. Seconds are the process's CPU time, which on one thread is the time that a step would take on a core of its own.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.measure import Row, Target, in_turn, milliseconds, ratios
from rrnn.architectures import build_model
from rrnn.config import ModelConfig, TrainConfig
from rrnn.model import Batch, Model
from rrnn.train import keep_freed_memory


@dataclass(frozen=True)
class Shape:
    """A training batch: clips, the model's hidden size, and columns and frames of each stream."""

    clips: int
    hidden: int
    streams: dict[str, tuple[int, int]]

    @property
    def columns(self) -> dict[str, int]:
        return {s: columns for s, (columns, _) in self.streams.items()}


SHAPES = {
    "demo": Shape(16, 128, {"acoustic": (44, 350), "speech": (768, 175), "face": (59, 105), "words": (50, 10)}),
    "RAVDESS": Shape(32, 64, {"acoustic": (44, 350), "speech": (768, 175), "au_mean": (35, 1)}),  # of docs/experiments.md
    "eGeMAPS and face": Shape(32, 128, {"egemaps": (25, 350), "face": (59, 105)}),
    "MOSEI": Shape(32, 512, {"covarep": (74, 700), "facet": (35, 210), "glove": (300, 20)}),
}
CLASSES = 8
SHORTEST = 0.85  # of a batch's longest clip: batches are of similar length
EPOCH = 160  # clips, of the peers' epochs
PEERS = {
    "RRNN": ModelConfig(),
    "memory fusion network": ModelConfig(architecture="mfn"),
    "multimodal transformer (40 wide, 4 layers, 8 heads)": ModelConfig(architecture="mult", hidden=40, heads=8),
}

Step = Callable[[], float]


def measure(turns: int) -> list[Row]:
    """Rows of the table."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        rows = []
        for name, shape in SHAPES.items():
            few = max(2, turns // 4) if name == "MOSEI" else turns
            rows += _training(name, shape, few)
            if name not in ("demo", "RAVDESS"):
                rows += _inference(name, shape, few) + _textbook(name, shape)
        return rows + _peers()
    finally:
        torch.set_num_threads(threads)


def made_batch(shape: Shape) -> tuple[Batch, Tensor]:
    """A batch of noise, and its classes."""
    torch.manual_seed(0)
    values = {s: torch.randn(shape.clips, frames, columns) for s, (columns, frames) in shape.streams.items()}
    lengths = {s: torch.randint(int(SHORTEST * k), k + 1, (shape.clips,)) for s, (_, k) in shape.streams.items()}
    return Batch(values, lengths), torch.randint(0, CLASSES, (shape.clips,))


def _training(name: str, shape: Shape, turns: int) -> list[Row]:
    batch, target = made_batch(shape)
    sides = {
        "ours": training_step(build_model(ModelConfig(hidden=shape.hidden), shape.columns, CLASSES), batch, target),
        "lstms": _floor_step(shape, batch, products=False),
        "products": _floor_step(shape, batch, products=True),
    }
    found = _timed(sides, turns)
    alone = Row(
        f"training step, {name}, {shape.clips} clips / LSTMs alone",
        milliseconds(found["ours"]),
        milliseconds(found["lstms"]),
        ratios(found["ours"], found["lstms"]),
        None if name == "MOSEI" else Target(1.3, at_least=False),
    )
    with_products = Row(
        "  the same / LSTMs and products W_s1 H",
        milliseconds(found["ours"]),
        milliseconds(found["products"]),
        ratios(found["ours"], found["products"]),
        Target(1.15, at_least=False),
    )
    return [alone, with_products]


def _inference(name: str, shape: Shape, turns: int) -> list[Row]:
    batch, _ = made_batch(shape)
    model = build_model(ModelConfig(hidden=shape.hidden), shape.columns, CLASSES).eval()
    floor = Floor(shape, products=True).eval()
    found = _timed({"ours": _inferring(lambda: model(batch)), "floor": _inferring(lambda: floor(batch))}, 2 * turns)
    return [
        Row(
            f"inference, {name}, {shape.clips} clips / LSTMs and products W_s1 H",
            milliseconds(found["ours"]),
            milliseconds(found["floor"]),
            ratios(found["ours"], found["floor"]),
            Target(1.15, at_least=False),
        )
    ]


def _textbook(name: str, shape: Shape) -> list[Row]:
    batch, target = made_batch(shape)
    ours = training_step(build_model(ModelConfig(hidden=shape.hidden), shape.columns, CLASSES), batch, target)
    found = _timed({"textbook": training_step(Textbook(shape), batch, target), "ours": ours}, 2)
    return [
        Row(
            f"textbook step with packed sequences, {name} / ours",
            milliseconds(found["textbook"]),
            milliseconds(found["ours"]),
            ratios(found["textbook"], found["ours"]),
            Target(5, at_least=True),
        )
    ]


def _peers() -> list[Row]:
    """An epoch of each peer with eGeMAPS and face, each in a process of its own, so that its memory can be told."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, tuple[float, float, int]] = {}
    for name in PEERS:
        with context.Pool(1) as pool:
            found[name] = pool.apply(_epoch, (name,))
    seconds, memory, _ = found["RRNN"]
    return [
        Row(
            f"epoch of {EPOCH} clips, eGeMAPS and face: {name}, {parameters / 1e6:.2f} M weights / RRNN",
            f"{s:.1f} s, {mib:.0f} MiB",
            f"{seconds:.1f} s, {memory:.0f} MiB",
            [s / seconds],
        )
        for name, (s, mib, parameters) in found.items()
    ]


def _epoch(name: str) -> tuple[float, float, int]:
    """CPU seconds of an epoch, the MiB by which memory grew at its peak, and the number of weights."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shape = SHAPES["eGeMAPS and face"]
    batch, target = made_batch(shape)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = _peak_mib()
    model = build_model(PEERS[name], shape.columns, CLASSES)
    step = training_step(model, batch, target)
    step()
    seconds = sum(step() for _ in range(EPOCH // shape.clips))
    return seconds, _peak_mib() - before, sum(p.numel() for p in model.parameters())


def _peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def _timed(sides: Mapping[str, Step], turns: int) -> dict[str, list[float]]:
    for warm in sides.values():
        warm()
    return in_turn(sides, turns)


def training_step(model: nn.Module, batch: Batch, target: Tensor) -> Step:
    """A function that takes one training step, as rrnn.train does, and returns its CPU seconds."""
    train = TrainConfig()
    optimiser = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)

    def step() -> float:
        began = time.process_time()
        loss = F.cross_entropy(model(batch).prediction if isinstance(model, Model) else model(batch), target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), train.clip_gradient)
        optimiser.step()
        return time.process_time() - began

    return step


def _inferring(forward: Callable[[], object]) -> Step:
    def step() -> float:
        began = time.process_time()
        with torch.inference_mode():
            forward()
        return time.process_time() - began

    return step


class Floor(nn.Module):
    """One LSTM a stream, and, if asked, the alignment's products of all hops."""

    def __init__(self, shape: Shape, products: bool) -> None:
        super().__init__()
        columns, dim = shape.columns, 2 * shape.hidden
        widths = {s: len(a.w1.weight) for s, a in _attention(shape).items()} if products else {}
        self.lstms = nn.ModuleDict(
            {s: nn.LSTM(n, shape.hidden, batch_first=True, bidirectional=True) for s, n in columns.items()}
        )
        self.w1 = nn.ModuleDict({s: nn.Linear(dim, width, bias=False) for s, width in widths.items()})

    def forward(self, batch: Batch) -> list[Tensor]:
        encoded = {s: lstm(batch.values[s])[0] for s, lstm in self.lstms.items()}
        return [self.w1[s](h) if s in self.w1 else h for s, h in encoded.items()]


def _attention(shape: Shape) -> nn.ModuleDict:
    """The model's own alignment networks, whose sizes the floor's products have."""
    found: nn.ModuleDict = build_model(ModelConfig(hidden=shape.hidden), shape.columns, CLASSES).recursion.attention  # type: ignore[assignment, union-attr]
    return found


def _floor_step(shape: Shape, batch: Batch, products: bool) -> Step:
    floor = Floor(shape, products)
    optimiser = torch.optim.AdamW(floor.parameters(), fused=True)
    gradients = [torch.randn_like(x) for x in floor(batch)]

    def step() -> float:
        began = time.process_time()
        outputs = floor(batch)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(outputs, gradients)
        optimiser.step()
        return time.process_time() - began

    return step


class Textbook(nn.Module):
    """The RRNN as one writes it down first: packed sequences, and W_s1 H anew in each hop."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        config, dim, wide = ModelConfig(hidden=shape.hidden), 2 * shape.hidden, 2 * shape.hidden * len(shape.streams)
        self.hops, self.hidden = config.hops, shape.hidden
        self.lstms = nn.ModuleDict(
            {s: nn.LSTM(n, shape.hidden, batch_first=True, bidirectional=True) for s, n in shape.columns.items()}
        )
        align = next(iter(_attention(shape).values())).size
        self.w1, self.w2, self.w3 = (
            nn.ModuleDict({s: nn.ModuleList(nn.Linear(*sizes, bias=False) for _ in range(self.hops)) for s in shape.streams})
            for sizes in ((dim, align), (dim, align), (align, 1))
        )
        self.gate_w, self.gate_c, self.update = (nn.Linear(dim + wide, out) for out in (wide, dim, dim))
        self.output = nn.Sequential(nn.Linear(dim, shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, CLASSES))

    def forward(self, batch: Batch) -> Tensor:
        h, mask = {}, {}
        for s, lstm in self.lstms.items():
            packed = pack_padded_sequence(batch.values[s], batch.lengths[s], batch_first=True, enforce_sorted=False)
            h[s], lengths = pad_packed_sequence(lstm(packed)[0], batch_first=True)
            mask[s] = torch.arange(h[s].shape[1]) < lengths[:, None]
        m = torch.stack([(h[s] * mask[s][..., None]).sum(1) / batch.lengths[s][:, None] for s in h]).sum(0)
        for hop in range(self.hops):
            contexts = []
            for s in h:
                r = torch.tanh(self.w1[s][hop](h[s])) * torch.tanh(self.w2[s][hop](m))[:, None]  # type: ignore[index]
                scores = self.w3[s][hop](r)[..., 0].masked_fill(~mask[s], float("-inf"))  # type: ignore[index]
                contexts.append((torch.softmax(scores, dim=1)[..., None] * h[s]).sum(1))
            w = torch.cat(contexts, dim=-1)
            g_w = torch.sigmoid(self.gate_w(torch.cat([m, w], dim=-1)))
            g_c = torch.sigmoid(self.gate_c(torch.cat([m, w], dim=-1)))
            u = torch.tanh(self.update(torch.cat([m, g_w * w], dim=-1)))
            m = (1 - g_c) * m + g_c * u
        out: Tensor = self.output(m)
        return out
