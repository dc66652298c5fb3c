"""The streams that can be extracted, by name. A module is imported when its stream is asked for, not before."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from pipeline.clip import Modality
from pipeline.streams.base import Extractor

STREAMS: dict[str, str] = {
    "acoustic": "pipeline.streams.acoustic:Acoustic",
    "speech": "pipeline.streams.speech:Speech",
    "egemaps": "pipeline.streams.egemaps:Egemaps",
    "face": "pipeline.streams.face:Face",
    "words": "pipeline.streams.words:Words",
}

DEFAULT_STREAMS: dict[Modality, tuple[str, ...]] = {
    "audio": ("acoustic", "speech"),
    "vision": ("face",),
    "text": ("words",),
}


def stream_class(name: str) -> type[Extractor]:
    """The extractor class of a stream. Raises ValueError for a name that is not one."""
    if name not in STREAMS:
        raise ValueError(f"unknown stream {name!r}: expected one of {', '.join(STREAMS)}")
    module, _, attribute = STREAMS[name].partition(":")
    cls: type[Extractor] = getattr(importlib.import_module(module), attribute)
    return cls


def make_stream(name: str, config: dict[str, Any] | None = None) -> Extractor:
    """An extractor with the given options. Raises ValueError for an option that it does not have."""
    cls = stream_class(name)
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := set(config or {}) - known:
        has = ", ".join(sorted(known)) or "none"
        raise ValueError(f"stream {name!r} has no option {', '.join(sorted(unknown))}: it has {has}")
    return cls(**(config or {}))
