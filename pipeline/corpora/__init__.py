"""The corpora that can be read, by name. A corpus is one function: source -> clips, in an order that does not change."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

from pipeline.clip import Clip

Reader = Callable[[str], Iterator[Clip]]

CORPORA: dict[str, str] = {
    "folder": "pipeline.corpora.folder:read",
    "ravdess": "pipeline.corpora.ravdess:read",
    "made": "pipeline.corpora.folder:read",  # what pipeline.corpora.made makes is a folder; the name marks its results
}


def corpus_reader(name: str) -> Reader:
    """The reader of a corpus. Raises ValueError for a name that is not one."""
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: expected one of {', '.join(CORPORA)}")
    module, _, attribute = CORPORA[name].partition(":")
    reader: Reader = getattr(importlib.import_module(module), attribute)
    return reader
