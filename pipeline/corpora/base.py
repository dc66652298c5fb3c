"""What a corpus is: a plain object that lists clips. docs/corpora.md shows how to add one in a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from pipeline.clip import Clip, Modality

Kind = Literal["missing", "broken", "leak", "unexpected", "note"]


class Problem(NamedTuple):
    """Something about a source that its user should know, and that need not stop anybody.

    missing: the corpus has it, the source does not. broken: it is there and can't be used. leak: a speaker is on more than
    one side of the split. unexpected: it is there and no part of the corpus. note: a label that was clamped, a video in no
    fold. where: a file, a clip or a row. what: what was found and what was expected.
    """

    kind: Kind
    where: str
    what: str


Report = Callable[[Problem], None]


class Count(NamedTuple):
    """How many of something there are; expected: how many the published corpus has, None where nobody knows."""

    what: str
    found: int
    expected: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Base of every corpus: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    licence: ClassVar[str]
    """Of the recordings and labels, in a few words."""
    holds: ClassVar[str]
    """What SOURCE must be, in a few words."""
    streams: ClassVar[dict[Modality, tuple[str, ...]] | None] = None
    """What is extracted where nobody says what; None: pipeline.streams.DEFAULT_STREAMS."""

    def clips(self, source: str, report: Report) -> Iterator[Clip]:
        """The source's clips, in an order that does not change. source: a path or an fsspec URL.

        What can't be a clip, and what a user should know, goes to report(); reading goes on. Raises ValueError or
        FileNotFoundError, naming what was found and what was expected, where the source as a whole makes no sense.
        """
        raise NotImplementedError

    def counts(self, clips: Sequence[Clip]) -> list[Count]:
        """What is there, against what the published corpus holds."""
        return [
            Count("clips", len(clips)),
            Count("speakers", len({c.speaker for c in clips if c.speaker is not None})),
            Count("clips with an emotion", sum(c.emotion is not None or bool(c.intensities) for c in clips)),
        ]

    def missing(self, clips: Sequence[Clip]) -> Sequence[str]:
        """Clips that the published corpus has and these are not; none where nobody knows what it has."""
        return ()

    def owns(self, name: str) -> bool:
        """Whether a file of this name is part of the corpus even where it is no clip's recording, as a clip's twin is."""
        return False
