"""The configuration of a model and of its training: typed, frozen, checked when built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

Modality = Literal["audio", "vision", "text"]
Architecture = Literal["rrnn", "early", "late", "naive", "mfn", "mult"]

_ATTENDS = "hidden skip deviations hops tied align align_size heads attend memory gate reset dropout".split()
USES: dict[str, list[str]] = {
    "rrnn": _ATTENDS,
    "early": _ATTENDS,
    "late": ["hidden", "skip", "dropout"],
    "naive": [],
    "mfn": ["hidden", "dropout"],
    "mult": ["hidden", "heads", "layers", "dropout"],
}
"""The options of ModelConfig that each architecture has a use for."""

_STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    """A model. Section and equation numbers are those of the paper. docs/model.md says what each option is, in a page."""

    architecture: Architecture = "rrnn"
    """rrnn: the recursive recurrent neural network. Its baselines: early and late fusion (sec. 4; with one stream, late is the
    unimodal LSTM), naive (a constant). Its peers: mfn, the memory fusion network of Zadeh et al. 2018; mult, the multimodal
    transformer of Tsai et al. 2019."""
    hidden: int = Field(default=128, ge=1)
    """Size of each direction of the encoders and of the decoder layer (sec. 4); of mfn's LSTMs; of mult's transformers."""
    skip: bool = False
    """Whether a linear map of each frame is added to what the encoders make of it. Not in the paper: few clips teach an LSTM
    little, and spoil what a linear model would have had of the frames."""
    deviations: bool = False
    """Whether m(0) takes in, beside the streams' averages, a linear map of how much each column varies over the clip. Not in
    the paper: no average of frames tells it, and a linear model of a clip's statistics has it."""
    hops: int = Field(default=3, ge=1)
    """How often the clip is analysed again (tau)."""
    tied: bool = False
    """Whether W_s1, W_s2 and w_s3 are the same in every hop."""
    align: Literal["multiplicative", "concatenative"] = "multiplicative"
    """How eq. 5 joins a frame and the memory: tanh(W1 h) * tanh(W2 m), or tanh(W1 h + W2 m)."""
    align_size: int | None = Field(default=None, ge=1)
    """Size of the alignment space, rows of W_s1 and W_s2; None is a quarter of hidden, at least 32, at most D (2 * hidden)."""
    heads: int = Field(default=1, ge=1)
    """Attention weights a stream and hop (rows of W_s3); head i weighs the i-th part of the dimensions. Of mult's too."""
    attend: Literal["time", "dimensions"] = "time"
    """What attention weighs: the frames, or the dimensions of their average (sec. 3.2, the key-value variant)."""
    memory: Literal["mean", "zero"] = "mean"
    """m(0): the sum of the streams' averages over time (sec. 3.2), or zero (sec. 3.3)."""
    gate: Literal["joint", "per_modality", "both", "none"] = "joint"
    """What gates the contexts before they are written to memory: eq. 9, one gate for all streams, whose size grows with the
    square of their number; eq. 11, one a stream; their product; or no gate at all, and no update gate either: the memory adds
    up the contexts."""
    reset: bool = False
    """Whether the memory is gated as well where the update is proposed, as in a GRU (sec. 3.5)."""
    layers: int = Field(default=4, ge=1)
    """Of each of mult's transformers."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Of the encoders' outputs and the decoder's layer, in training; of mult's and mfn's layers."""

    def __post_init__(self) -> None:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(f.default, "default", f.default)]
        unused = [name for name in changed if name not in ("architecture", *USES[self.architecture])]
        if unused:
            defaults = ", ".join(
                f"{f.name}={getattr(f.default, 'default', f.default)}" for f in fields(self) if f.name in unused
            )
            raise ValueError(
                f"the architecture {self.architecture!r} does not use {', '.join(unused)}: leave the default, {defaults}"
            )
        width = self.hidden if self.architecture == "mult" else 2 * self.hidden
        if width % self.heads:
            raise ValueError(f"{self.heads} heads can't share {width} dimensions evenly: expected a divisor of {width}")
        if self.heads > 1 and self.attend == "dimensions":
            raise ValueError("attend=dimensions has one weight for each dimension already: expected heads=1")
        if self.reset and self.gate == "none":
            raise ValueError(
                "without a gate there is no proposed update for reset to act on: expected another gate, or reset=false"
            )


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """How a model is trained, on which clips, and when training stops."""

    loss: Literal["cross_entropy", "l2", "l1"] | None = None
    """None is cross_entropy of classes and l2 of intensities. l2 of classes is the paper's, over one-hot targets; l1 is for
    intensities alone. l1 and l2 are summed over the outputs."""
    epochs: int = Field(default=60, ge=1)
    patience: int = Field(default=12, ge=1)
    """Epochs without a better validation loss, after which training stops."""
    min_improvement: float = Field(default=1e-3, ge=0)
    """By how much the validation loss must fall to count as better."""
    batch_size: int = Field(default=32, ge=1)
    """Clips a step, over all workers together."""
    normalise: Literal["none", "speaker", "corpus"] = "none"
    """Whose own mean and deviation are taken out of a clip's columns before anything else: its speaker's, or its corpus's, over
    all of their clips, without any label. Saved with the run, and applied alike in scoring."""
    pool: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Of a stream, how many of its frames are averaged into one before anything else: shorter sequences train faster."""
    pool_seconds: float = Field(default=0.0, ge=0.0)
    """The same by time, for streams of a fixed frame shift that `pool` does not name."""
    mixup: float = Field(default=0.0, ge=0.0)
    """Alpha of mixup (Zhang et al. 2018): each clip of a step is mixed with another, targets too, in a share drawn from
    Beta(alpha, alpha). 0 mixes nothing."""
    average: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay a step of a running average of the weights: 0.99 averages about the last hundred steps. It is the average that is
    judged, kept and tested. 0 takes the weights as they are."""
    alternatives: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Of a stream, others of the store that hold the same columns of the same clips, played otherwise (an extractor's `speed`).
    Each epoch takes for each clip one of them, or the stream itself, with equal chance; the same of all its streams, as they
    are numbered here. Nothing but training looks at them. Of a stream that the model does not take they play no part."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the target that is spread over all classes, of cross_entropy."""
    refit: bool = False
    """Once the best epoch is known, train a new model of the same seed on training and validation clips together, for as many
    epochs, and test that one. Validation figures stay those of the first."""
    stream_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Chance that a stream which a clip has is taken for absent in a training step; one always stays."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 trains under autocast, with weights in float32; for GPUs."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_gradient: float = Field(default=1.0, gt=0)
    """Largest norm of a step's gradient."""
    seed: int = 0
    split: Literal["speaker", "speaker_folds", "leave_one_speaker_out", "given", "clip"] = "speaker"
    """Who is tested. speaker: the corpus's own folds, or where it has none, speakers dealt into `folds` parts; no speaker is on
    two sides. speaker_folds: dealt, whatever folds the corpus has. leave_one_speaker_out: each speaker is a fold. given: the
    corpus's own folds, even where they have a speaker on two sides, which flatters the result. clip: clips are dealt, which
    flatters it too, and is for clips without speakers."""
    folds: int = Field(default=5, ge=2)
    """Into how many parts speakers (or clips) are dealt."""
    test_fold: int = Field(default=0, ge=0)
    """The part that is held out for the test, counted from 0 in sorted order."""
    valid_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the remaining speakers (at least one) that decides when to stop."""

    def pooling(self, frame_shifts: Mapping[str, float | None]) -> dict[str, int]:
        """How many frames of each stream become one, where more than one do, of the streams' frame shifts in seconds."""
        by_time = {s: round(self.pool_seconds / shift) for s, shift in frame_shifts.items() if shift}
        return {s: n for s, n in {**by_time, **self.pool}.items() if n > 1}


@dataclass(frozen=True, config=_STRICT)
class Config:
    """Everything that, with the data, makes a run what it is."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    streams: tuple[str, ...] | None = None
    """The store's streams that the model takes; None takes all."""
    modalities: tuple[Modality, ...] | None = None
    """Of those, the streams of these modalities alone."""
    experiment: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def config_from_dict(values: dict[str, Any]) -> Config:
    """A checked Config. Raises ValueError that names each wrong field, what was found and what was expected."""
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as e:
        raise ValueError("; ".join(map(_problem, e.errors()))) from None


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json holds, with the options that came after it was written, whose defaults are what was done before."""
    parts = config_from_dict({part: config[part] for part in ("model", "train")}).to_dict()
    return {**config, **json.loads(json.dumps({part: parts[part] for part in ("model", "train")}))}


def _problem(error: Any) -> str:
    """One wrong field, or fields that don't go together."""
    where, what = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if isinstance(error["input"], dict) else f"{where}: {what}, found {error['input']!r}"


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """base with the nested changes laid over it."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
