"""The streams that can be extracted, by name. A module is imported when its stream is asked for, not before."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from typing import Any

from pipeline.clip import Modality
from pipeline.streams.base import Extractor

STREAMS: dict[str, str] = {
    "acoustic": "pipeline.streams.acoustic:Acoustic",
    "speech": "pipeline.streams.speech:Speech",
    "covarep_like": "pipeline.streams.covarep_like:CovarepLike",
    "egemaps": "pipeline.streams.egemaps:Egemaps",
    "face": "pipeline.streams.face:Face",
    "words": "pipeline.streams.words:Words",
    "openface": "pipeline.streams.openface:OpenFace",
    "facet": "pipeline.streams.facet:Facet",
    "covarep": "pipeline.streams.covarep:Covarep",
    "opensmile": "pipeline.streams.opensmile_csv:OpenSmileCsv",
    "array": "pipeline.streams.arrays:Array",
    "glove": "pipeline.streams.glove:Glove",
}

STREAM_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")

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


def make_stream(name: str, config: Mapping[str, Any] | None = None, extractor: str | None = None) -> Extractor:
    """An extractor with the given options. extractor: its name, where the stream is to have another.

    Raises ValueError for an option that it does not have, and for a name that a stream can't have.
    """
    if not STREAM_NAME.match(name):
        raise ValueError(f"a stream can't be called {name!r}: expected letters, digits, _ and -, the first a letter")
    cls = stream_class(extractor or name)
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := set(config or {}) - known:
        has = ", ".join(sorted(known)) or "none"
        raise ValueError(f"stream {name!r} has no option {', '.join(sorted(unknown))}: it has {has}")
    made = cls(**(config or {}))
    if name != cls.name:
        object.__setattr__(made, "name", name)
    return made


def remake_stream(about: Mapping[str, Any], places: Mapping[str, Any] | None = None) -> Extractor:
    """The extractor that describe() described, as this version of the code has it. places: where its files are."""
    cls = stream_class(about.get("extractor") or about["name"])
    if strangers := set(places or {}) - set(cls.places):
        has = f"only {', '.join(cls.places)}" if cls.places else "nothing"
        raise ValueError(f"stream {about['name']!r}: {', '.join(sorted(strangers))} can't be changed: {has} can")
    if "weights_sha256" in about and "weights" not in (places or {}):
        name = about["name"]
        raise ValueError(f"stream {name!r} was made with other weights: --set {name}.weights=FOLDER says where they are")
    return make_stream(about["name"], {**about["config"], **(places or {})}, about.get("extractor"))
