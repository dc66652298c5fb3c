"""openSMILE's features in CSV, as its command-line program writes them, or as the Python package's tables are saved."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from pipeline.clip import Clip, ClipError, Modality
from pipeline.streams.imported import Importer, Sequence2D, Table, is_number, names_of, open_table

BOOKKEEPING = ("name", "file", "frameIndex", "frameTime", "start", "end")
DURATION = re.compile(r"(?:(\d+) days? ?)?(?:(\d+):(\d+):(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class OpenSmileCsv(Importer):
    """The features of any openSMILE configuration, one frame a row.

    columns: names of features; none means all, as the first clip's file has them, which fixes the columns of the stream.

    Times: with start and end (the package's index, "0 days 00:00:00.010000" or seconds), the middle between them. With
    frameTime (the program's), which is where a window starts, half a step later, for the file does not tell how long a
    window is; where windows overlap this is half the overlap early, 5 ms for windows of 20 ms every 10 ms. A file of one row
    (functionals) without start and end is a frame at its frameTime, or at 0.
    """

    columns: tuple[str, ...] = ()

    name: ClassVar[str] = "opensmile"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "openSMILE: free for non-commercial research, teaching and personal use only"
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", names_of(self.columns))

    def settled(self, clips: Iterable[Clip]) -> Self:
        made = super().settled(clips)
        if made.columns:
            return made
        return made.changed(columns=made.of_first_file(clips, lambda data, path: _features(_table(data, path))))

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        table = _table(data, path)
        places = {name: i for i, name in enumerate(table.header)}
        if missing := [name for name in self.columns if name not in places]:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ClipError(
                f"{table.name} has no column {', '.join(missing[:3])}{more}: was it made with another configuration?"
            )
        wanted = [places[name] for name in self.columns]
        spans = [places[name] for name in ("start", "end") if name in places]
        clock = [places["frameTime"]] if "frameTime" in places else []
        source = [places[name] for name in ("name", "file") if name in places][:1]
        values, stamps, texts = table.read(deadline, wanted, [] if len(spans) == 2 else clock, [*source, *spans])
        if source and len(recordings := set(texts[0])) > 1:
            raise ClipError(
                f"{table.name} has the rows of {len(recordings)} recordings, expected one: {sorted(recordings)[0]}, ..."
            )
        if len(spans) == 2:
            start, end = (_durations(text, table.name) for text in texts[-2:])
            return Sequence2D((start + end) / 2, values)
        if not clock and len(values) > 1:
            raise ClipError(f"{table.name} has {len(values)} rows and neither frameTime nor start and end")
        times = stamps[:, 0] if clock else np.zeros(1)
        steps = np.diff(times)
        return Sequence2D(times + (np.median(steps[steps > 0]) / 2 if (steps > 0).any() else 0.0), values)


def _table(data: bytes, path: str) -> Table:
    expected = "openSMILE's header: names, with frameTime or start and end"
    return open_table(data, path, lambda header: not any(is_number(name) for name in header) and len(header) > 1, expected)


def _features(table: Table) -> tuple[str, ...]:
    return tuple(name for name in table.header if name not in BOOKKEEPING)


def _durations(texts: Sequence[str], file: str) -> npt.NDArray[np.float64]:
    """Seconds of the package's index, as pandas writes durations, or numbers of seconds."""
    seconds = np.empty(len(texts))
    for i, text in enumerate(texts):
        match = DURATION.fullmatch(text.strip())
        if is_number(text):
            seconds[i] = float(text)
        elif match and match[0]:
            days, hours, minutes, rest = (float(part or 0) for part in match.groups())
            seconds[i] = ((days * 24 + hours) * 60 + minutes) * 60 + rest
        else:
            raise ClipError(f"{file}: found the time {text[:40]!r}, expected seconds, or days and hours:minutes:seconds")
    return seconds
