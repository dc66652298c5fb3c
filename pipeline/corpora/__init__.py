"""The corpora that can be read, by name. A module is imported when its corpus is asked for, not before."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from pipeline.corpora.base import Corpus

CORPORA: dict[str, str] = {
    "folder": "pipeline.corpora.folder:FolderCorpus",
    "ravdess": "pipeline.corpora.ravdess:Ravdess",
    "crema_d": "pipeline.corpora.crema_d:CremaD",
    "cmu_mosei": "pipeline.corpora.cmu_mosei:CmuMosei",
    "made": "pipeline.corpora.folder:MadeCorpus",
}


def corpus_class(name: str) -> type[Corpus]:
    """The class of a corpus: one of CORPORA, or MODULE:CLASS of one's own. Raises ValueError for a name that is neither."""
    module, _, attribute = CORPORA.get(name, name).partition(":")
    if not attribute:
        raise ValueError(f"unknown corpus {name!r}: expected one of {', '.join(CORPORA)}, or MODULE:CLASS of your own")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as e:  # the last two: of a name that is no module's
        raise ValueError(f"corpus {name!r} can't be imported: {e}") from e
    if not (isinstance(cls, type) and issubclass(cls, Corpus)):
        raise ValueError(f"corpus {name!r} is no subclass of pipeline.corpora.base.Corpus")
    return cls


def open_corpus(name: str, config: Mapping[str, Any] | None = None) -> Corpus:
    """A corpus with the given options. Raises ValueError for an option that it does not have."""
    cls = corpus_class(name)
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := set(config or {}) - known:
        has = ", ".join(sorted(known)) or "none"
        raise ValueError(f"corpus {name!r} has no option {', '.join(sorted(unknown))}: it has {has}")
    return cls(**(config or {}))
