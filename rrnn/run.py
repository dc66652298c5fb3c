"""A run: the folder, on disk or in a bucket, that training leaves behind. Nothing in it is pickled.

config.json            everything that, with the data, made it; data digest, splits, code version
metrics.jsonl          a line an epoch
model/model.safetensors, model/model.json
model/statistics.parquet    of each speaker (or corpus), where the model is fed normalised clips
predictions.parquet    validation and test clips, with every class's probability (or every intensity)
streams.parquet, unusable.parquet    what became of the clips in each stream
examples.parquet       attention and gates of a few test clips
summary.json           written last: the run is finished

A run whose test set is closed (a trial of a sweep) has no examples, no test predictions, and in its summary "test": null.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from torch import Tensor

from rrnn.architectures import build_model
from rrnn.config import ModelConfig, config_from_dict
from rrnn.data import Preparation
from rrnn.model import Model
from rrnn.normalise import Normaliser, add_up, moments_of

MODEL_FORMAT = 2
STATISTICS = "model/statistics.parquet"


@cache
def code_version() -> str:
    """Version of the package and digest of this package's source: a checkout that was edited says so."""
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.read_bytes())
    try:
        version = metadata.version("rrnn")
    except metadata.PackageNotFoundError:  # an unpacked archive, as a submitted job has it
        version = "unpackaged"
    return f"{version}+{sha.hexdigest()[:8]}"


class RunFolder:
    """Reads and writes the files of a run, each whole or not at all."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.fs, path = fsspec.core.url_to_fs(self.url)
        self.path = path.rstrip("/")

    def exists(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.exists(f"{self.path}/{name}"))

    def read(self, name: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.path}/{name}"))

    def read_json(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.read(name))
        return found

    def write(self, name: str, data: bytes) -> None:
        target = f"{self.path}/{name}"
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(target, data)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = f"{target}.tmp-{uuid.uuid4().hex}"
        Path(temporary).write_bytes(data)
        os.replace(temporary, target)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        self.write(name, json.dumps(value, indent=2, allow_nan=True).encode())

    def write_table(self, name: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, bytes(sink.getvalue()))


@dataclass(frozen=True)
class ModelCard:
    """What a saved model needs, beside its weights, to be built and to be fed."""

    model: ModelConfig
    classes: tuple[str, ...]
    """Names of the outputs: classes, or intensities."""
    link: str
    """What makes values of the outputs (rrnn.predict.apply_link)."""
    streams: dict[str, dict[str, Any]]
    """What made each stream that it takes (stream.json): scoring extracts with exactly that."""
    normalise: str = "none"
    """Whose statistics are taken out of a clip's columns first (rrnn.normalise)."""
    corpus: str = ""
    """The corpus that it was trained on, whose speakers' statistics are kept."""
    pool: dict[str, int] = field(default_factory=dict)
    """Of a stream, how many frames are averaged into one."""
    statistics: str = ""
    """Digest of the statistics that normalise, where there are any."""

    @property
    def columns(self) -> dict[str, int]:
        return {name: len(about["columns"]) for name, about in self.streams.items()}

    def build(self) -> Model:
        return build_model(self.model, self.columns, len(self.classes))


def save_model(run: RunFolder, card: ModelCard, weights: dict[str, Tensor], normaliser: Normaliser | None = None) -> str:
    """Write model/; returns the model's id, the digest of its weights and card."""
    if normaliser is not None:
        run.write_table(STATISTICS, normaliser.table())
        card = replace(card, statistics=hashlib.sha256(run.read(STATISTICS)).hexdigest()[:16])
    tensors = safetensors.torch.save({k: v.contiguous() for k, v in weights.items()})
    about = json.dumps({"format": MODEL_FORMAT, **asdict(card)}, indent=2, sort_keys=True).encode()
    run.write("model/model.safetensors", tensors)
    run.write("model/model.json", about)
    return hashlib.sha256(tensors + about).hexdigest()[:16]


def load_model(url: str) -> tuple[Model, ModelCard, str]:
    """A run's model in evaluation mode, its card and its id. Raises FileNotFoundError where the run has none yet."""
    run = RunFolder(url)
    if not run.exists("model/model.safetensors"):
        raise FileNotFoundError(f"no trained model in {url}: expected model/model.safetensors, as jobs.train writes")
    tensors, about = run.read("model/model.safetensors"), run.read("model/model.json")
    values = json.loads(about)
    if (found := values.pop("format", None)) != MODEL_FORMAT:
        raise ValueError(
            f"{url}/model/model.json has format {found}, and this version reads format {MODEL_FORMAT}: train it again"
        )
    card = ModelCard(
        model=config_from_dict({"model": values["model"]}).model,
        classes=tuple(values["classes"]),
        link=values["link"],
        streams=values["streams"],
        normalise=values.get("normalise", "none"),
        corpus=values.get("corpus", ""),
        pool=values.get("pool", {}),
        statistics=values.get("statistics", ""),
    )
    model = card.build()
    try:
        model.load_state_dict(safetensors.torch.load(tensors))
    except SafetensorError as e:
        raise ValueError(f"{url}/model/model.safetensors can't be read: {e}") from e
    return model.eval(), card, hashlib.sha256(tensors + about).hexdigest()[:16]


def load_preparation(url: str, card: ModelCard) -> Preparation:
    """What a run's model wants done to a clip's sequences."""
    return Preparation(load_normaliser(url, card) if card.normalise != "none" else None, card.pool)


def load_normaliser(url: str, card: ModelCard) -> Normaliser:
    """The statistics that a run's model was trained with. Raises FileNotFoundError or ValueError where they are not there."""
    run = RunFolder(url)
    if not run.exists(STATISTICS):
        raise FileNotFoundError(f"{url}/{STATISTICS} is missing: the model was trained on normalised clips and needs it")
    data = run.read(STATISTICS)
    if hashlib.sha256(data).hexdigest()[:16] != card.statistics:
        raise ValueError(f"{url}/{STATISTICS} is not what the model was trained with: its digest is another")
    return Normaliser(add_up(moments_of(pq.ParquetFile(pa.BufferReader(data)).read())))


def package_versions() -> dict[str, str]:
    names = ("torch", "ray", "numpy", "pyarrow")
    return {n: metadata.version(n) for n in names} | {"torch_threads": str(torch.get_num_threads())}
