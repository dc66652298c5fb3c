"""From a source to its clips: what every corpus has in common."""

from __future__ import annotations

from pipeline.clip import Clip
from pipeline.corpora.base import Corpus, Problem


def read_corpus(corpus: Corpus, source: str, split: str | None = None) -> tuple[list[Clip], list[Problem]]:
    """All clips of a source, and what its user should know of it.

    split: a division of one's own that takes the place of the clips' folds: a CSV of clip and side, or a folder of lists.
    """
    problems: list[Problem] = []
    clips = list(corpus.clips(source, problems.append))
    return clips, problems
