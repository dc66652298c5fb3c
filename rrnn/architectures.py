"""Every architecture by its name."""

from __future__ import annotations

from collections.abc import Mapping

from rrnn.config import Architecture, ModelConfig
from rrnn.model import RRNN, EarlyFusion, LateFusion, Model, Naive
from rrnn.peers import MemoryFusionNetwork, MultimodalTransformer

ARCHITECTURES: dict[Architecture, type[Model]] = {
    "rrnn": RRNN,
    "early": EarlyFusion,
    "late": LateFusion,
    "naive": Naive,
    "mfn": MemoryFusionNetwork,
    "mult": MultimodalTransformer,
}


def build_model(config: ModelConfig, columns: Mapping[str, int], outputs: int) -> Model:
    """columns: number of columns of each stream, by its name. outputs: number of classes or intensities."""
    return ARCHITECTURES[config.architecture](config, columns, outputs)
