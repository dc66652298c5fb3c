"""The configuration of a model and of its training: typed, frozen, checked when built."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    """The recursive recurrent neural network. Section and equation numbers are the paper's."""

    hidden: int = Field(default=128, ge=1)
    """Size of each direction of the encoders, of the alignment space (eq. 5) and of the decoder layer (sec. 4)."""
    hops: int = Field(default=3, ge=1)
    """How often the clip is analysed again (tau)."""
    tied: bool = False
    """Whether W_s1, W_s2 and w_s3 are the same in every hop."""
    memory: Literal["mean", "zero"] = "mean"
    """m(0): the sum of the streams' averages over time (sec. 3.2), or zero (sec. 3.3)."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Of the encoders' outputs and the decoder's layer, in training."""


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """How a model is trained, on which clips, and when training stops."""

    loss: Literal["cross_entropy", "l2"] = "cross_entropy"
    """Of classes; l2 is the paper's, over one-hot targets. Intensities always train with l2."""
    epochs: int = Field(default=60, ge=1)
    patience: int = Field(default=12, ge=1)
    """Epochs without a better validation loss, after which training stops."""
    min_improvement: float = Field(default=1e-3, ge=0)
    """By how much the validation loss must fall to count as better."""
    batch_size: int = Field(default=32, ge=1)
    """Clips a step, over all workers together."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_gradient: float = Field(default=1.0, gt=0)
    """Largest norm of a step's gradient."""
    seed: int = 0
    split: Literal["speaker", "clip"] = "speaker"
    """What never is on two sides. "clip" lets a speaker be on all of them: it leaks, and is for clips without speakers."""
    folds: int = Field(default=5, ge=2)
    """Into how many parts speakers are dealt where the corpus has no folds of its own."""
    test_fold: int = Field(default=0, ge=0)
    """The part that is held out for the test, counted from 0 in sorted order."""
    valid_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the remaining speakers (at least one) that decides when to stop."""


@dataclass(frozen=True, config=_STRICT)
class Config:
    """Everything that, with the data, makes a run what it is."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    streams: tuple[str, ...] | None = None
    """The store's streams that the model takes; None takes all."""
    experiment: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def config_from_dict(values: dict[str, Any]) -> Config:
    """A checked Config. Raises ValueError that names each wrong field, what was found and what was expected."""
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as e:
        problems = [f"{'.'.join(str(p) for p in p['loc'])}: {p['msg']}, found {p['input']!r}" for p in e.errors()]
        raise ValueError("; ".join(problems)) from None


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """base with the nested changes laid over it."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
