"""A trained model as one file that runs without this project: ONNX, or a program of torch.export.

Inputs, for each stream s: `s`, (clips, frames of s, columns) float32, NaN where nothing was observed, padded with anything; and
`s.lengths`, (clips,) int64, the number of real frames, 0 where a clip does not have the stream. Output: `values`, (clips, C),
the probability of each class, or the intensities. Clips and frames may be any number at every call, one frame at least. Frames
are as the model was fed in training: what rrnn.data.Preparation does to them, normalising and pooling, is not in the file.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export._patches import register_lstm_while_loop_decomposition

from rrnn.data import Sequences, collate
from rrnn.model import Batch, Model
from rrnn.predict import predict
from rrnn.run import ModelCard

TOLERANCE = 1e-5  # between what is exported and the model, in float32; of the largest value where that is over 1
UNROLLED = ("mfn",)  # architectures with a loop over frames in Python: an export would hold for one length alone


class _Flat(nn.Module):
    """The model with tensors for arguments, and values for outputs (rrnn.predict.apply_link)."""

    def __init__(self, model: Model, link: str) -> None:
        super().__init__()
        self.model, self.link = model, link

    def forward(self, *tensors: Tensor) -> Tensor:
        streams = self.model.streams
        batch = Batch(dict(zip(streams, tensors[::2], strict=True)), dict(zip(streams, tensors[1::2], strict=True)))
        outputs: Tensor = self.model(batch).prediction
        if self.link == "softmax":
            return torch.softmax(outputs, dim=-1)
        if self.link == "clip":
            clipped = outputs.clamp(min=1e-6)
            return clipped / clipped.sum(-1, keepdim=True)
        return outputs


def input_names(card: ModelCard) -> list[str]:
    """In the order of the arguments."""
    return [name for s in sorted(card.columns) for name in (s, f"{s}.lengths")]


def _arguments(batch: Batch) -> list[Tensor]:
    return [tensor for s in sorted(batch.values) for tensor in (batch.values[s], batch.lengths[s])]


def _flat(model: Model, card: ModelCard) -> tuple[_Flat, tuple[Tensor, ...], tuple[Any, ...]]:
    """What is exported, arguments to trace it with, and which of their axes may vary."""
    check_exportable(card)
    clips = Dim("clips")
    shapes = [axes for i, _ in enumerate(sorted(card.columns)) for axes in ({0: clips, 1: Dim(f"frames_{i}")}, {0: clips})]
    model = copy.deepcopy(model).requires_grad_(False)
    # Sizes of the example mean nothing, but differ, since sizes that agree would be taken for one
    example = collate([_noise(card, seed) for seed in range(3)], card.columns)
    return _Flat(model.eval(), card.link), tuple(_arguments(example)), (tuple(shapes),)


def _noise(card: ModelCard, seed: int, absent: str | None = None) -> Sequences:
    random = np.random.default_rng(seed)
    return {
        s: random.normal(size=(int(random.integers(4, 9)) + 7 * i, columns)).astype(np.float32)
        for i, (s, columns) in enumerate(sorted(card.columns.items()))
        if s != absent
    }


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of its own workings."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "torch.export", "onnxscript", "torch")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _lstms_in_full() -> Iterator[None]:
    """LSTMs traced for any length. What torch puts in their place is found through a cache, which may hold, from an earlier
    trace, what is for one length alone."""
    cache = torch.ops.aten.lstm.input._dispatch_cache
    cache.clear()
    try:
        with register_lstm_while_loop_decomposition():
            yield
    finally:
        cache.clear()


def export_program(model: Model, card: ModelCard) -> ExportedProgram:
    """Raises ValueError for an architecture that can't be exported."""
    flat, arguments, shapes = _flat(model, card)
    with _quietly(), _lstms_in_full():
        return torch.export.export(flat, arguments, dynamic_shapes=shapes)


def save_program(program: ExportedProgram, card: ModelCard, model_id: str, path: Path) -> None:
    """Write the program, with card.json and model_id among its extra files."""
    program.example_inputs = None  # they would be pickled
    extra = {"card.json": json.dumps(asdict(card)), "model_id": model_id}
    torch.export.save(program, path, extra_files=extra)


def check_exportable(card: ModelCard) -> None:
    """Raise ValueError for an architecture that can't be exported."""
    if card.model.architecture in UNROLLED:
        raise ValueError(
            f"a model of architecture {card.model.architecture!r} can't be exported: it steps over frames in Python"
        )


def export_onnx(model: Model, card: ModelCard, model_id: str, path: Path) -> None:
    """Write the model, with its card and id among the file's metadata. Raises ValueError as export_program does."""
    flat, arguments, shapes = _flat(model, card)
    with _quietly(), _lstms_in_full():
        program = torch.onnx.export(
            flat,
            arguments,
            dynamic_shapes=shapes,
            input_names=input_names(card),
            output_names=["values"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with this machine's paths
    program.model.metadata_props.update({"model_id": model_id, "card": json.dumps(asdict(card))})
    program.save(path)


def onnx_values(path: Path, card: ModelCard, batch: Batch) -> npt.NDArray[np.float64]:
    """Values (n, C) that onnxruntime computes from an exported file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = dict(zip(input_names(card), (t.numpy() for t in _arguments(batch)), strict=True))
    values: npt.NDArray[np.float64] = session.run(None, feeds)[0].astype(np.float64)
    return values


def program_values(program: ExportedProgram, batch: Batch) -> npt.NDArray[np.float64]:
    """Values (n, C) of an exported program."""
    with _quietly(), torch.no_grad():
        values: npt.NDArray[np.float64] = program.module()(*_arguments(batch)).double().numpy()
    return values


def ragged_clips(card: ModelCard) -> list[Sequences]:
    """Made clips of many lengths, among them one without each stream that another has, and one with frames not observed."""
    clips = [_noise(card, seed) for seed in range(5)]
    if len(card.columns) > 1:
        clips += [_noise(card, 5 + i, absent=s) for i, s in enumerate(sorted(card.columns))]
    next(iter(clips[0].values()))[1] = np.nan
    return clips


def difference(model: Model, card: ModelCard, exported: ExportedProgram | Path) -> float:
    """The largest difference between what was exported and the model, on ragged_clips. Raises RuntimeError where it is too
    large."""
    clips = ragged_clips(card)
    batch = collate(clips, card.columns)
    values = onnx_values(exported, card, batch) if isinstance(exported, Path) else program_values(exported, batch)
    expected = predict(model, card, clips)
    largest = float(np.abs(values - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not largest <= allowed:
        raise RuntimeError(f"what was exported differs from the model by {largest:.2g}, more than {allowed:.2g}")
    return largest
