"""From a source to its clips: what every corpus has in common, and splits of one's own."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from pipeline.clip import Clip
from pipeline.corpora.base import Corpus, Problem, Report
from pipeline.corpora.listing import MEDIA_SUFFIXES
from pipeline.files import Folder, read_whole

MAX_TABLE_BYTES = 1 << 28
NAMED = 10  # examples in a message

SIDES = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid", "test": "test"}
CLIP_COLUMNS = ("clip_id", "clip", "file", "filename", "path", "name")
SIDE_COLUMNS = ("fold", "split", "side", "set", "subset")


def read_corpus(corpus: Corpus, source: str, split: str | None = None) -> tuple[list[Clip], list[Problem]]:
    """All clips of a source at once, and what its user should know of it; clip ids that come twice among that."""
    problems: list[Problem] = []
    clips = list(corpus_clips(corpus, source, split, problems.append))
    times = Counter(clip.clip_id for clip in clips)
    problems += [
        Problem("broken", name, f"the clip id comes {n} times: expected one clip") for name, n in times.items() if n > 1
    ]
    return clips, problems


def corpus_clips(corpus: Corpus, source: str, split: str | None, report: Report) -> Iterator[Clip]:
    """The clips of a source, one by one, and at their end a report for each set of folds that share speakers.

    split: a division of one's own that takes the place of the clips' folds; see read_split(). With one, the clips are held
    until all are read.
    """
    clips: Iterable[Clip] = corpus.clips(source, report)
    if split is not None:
        clips, notes = _divided(list(clips), split)
        for note in notes:
            report(note)
    folds: dict[str, set[str]] = {}
    for clip in clips:
        if clip.speaker is not None and clip.fold is not None:
            folds.setdefault(clip.speaker, set()).add(clip.fold)
        yield clip
    shared: dict[tuple[str, ...], list[str]] = {}
    for speaker, on in folds.items():
        if len(on) > 1:
            shared.setdefault(tuple(sorted(on)), []).append(speaker)
    for sides, speakers in sorted(shared.items()):
        both = "both " if len(sides) == 2 else ""
        report(
            Problem(
                "leak",
                split or source,
                f"{len(speakers)} of {len(folds)} speakers are {both}in {listed(sides, ' and ')}, "
                f"such as {listed(sorted(speakers))}: expected each speaker on one side",
            )
        )


class Entry(NamedTuple):
    """What a split says of one clip. names: what the clip may be called, its clip_id or its file; the first that fits."""

    names: tuple[str, ...]
    side: str


def read_split(split: str) -> list[Entry]:
    """A split of one's own, in the order in which it is listed.

    split: a CSV or TSV with one of CLIP_COLUMNS and one of SIDE_COLUMNS; a folder of lists named by their side, such as
    train.csv, valid.txt and test.csv; or those lists themselves, with commas between. A list has a clip a line, before
    the first comma or white space; what follows is not read, and neither is a header. Sides are called train, valid and
    test, whatever the file says for valid; folds of other names are kept. Raises ValueError or FileNotFoundError.
    """
    addresses = [os.path.expanduser(split)]
    if "," in split and not _exists(addresses[0]):
        addresses = [os.path.expanduser(part.strip()) for part in split.split(",")]
    elif split.lower().endswith((".csv", ".tsv", ".txt")):
        table = _table(read_text(addresses[0]), split)
        if table is None:
            raise ValueError(
                f"{split} is no split: expected a column {' or '.join(CLIP_COLUMNS)} and a column {' or '.join(SIDE_COLUMNS)}, "
                "or a folder with a list of clips for each side, such as train.csv, valid.csv and test.csv"
            )
        return table
    else:
        folder = Folder(addresses[0].rstrip("/"))
        names = folder.names()
        addresses = [f"{folder.url}/{name}" for name in names if _side_of_list(name)]
        if not addresses:
            found = listed(names) or "nothing"
            raise ValueError(f"no list in {split}: expected train, valid and test, each .csv or .txt; found {found}")
    entries = []
    for address in addresses:
        side = _side_of_list(address.rpartition("/")[2])
        if side is None:
            raise ValueError(f"{address}: expected a list named train, valid or test, and .csv or .txt")
        lines = [_fields(line) for line in read_text(address).splitlines() if line.strip()]
        header = bool(lines) and lines[0][-1].lower() in CLIP_COLUMNS
        entries += [Entry(names, side) for names in lines[header:]]
    return entries


def read_text(address: str) -> str:
    """A small text file, local or remote, without the byte order mark of spreadsheets.

    Raises ValueError where it is too large, a git-lfs pointer or not UTF-8; FileNotFoundError where it is not there.
    """
    try:
        data = read_whole(address, MAX_TABLE_BYTES)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {address}") from None
    except ValueError as e:
        raise ValueError(f"{address} can't be read: {e}") from e
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{address}: can't be read ({e}); expected UTF-8 text") from e


def _table(text: str, where: str) -> list[Entry] | None:
    """The rows of a table with a header; None where the first line is no header of a split."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    entries = []
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        clip = next((header.index(name) for name in CLIP_COLUMNS if name in header), None)
        side = next((header.index(name) for name in SIDE_COLUMNS if name in header), None)
        if clip is None or side is None:
            return None
        for row in filter(None, rows):
            if len(row) <= max(clip, side) or not row[clip].strip():
                raise ValueError(f"{where}, line {rows.line_num}: expected a clip and its side, found {','.join(row)[:80]!r}")
            if name := row[side].strip():
                entries.append(Entry((row[clip].strip(),), SIDES.get(name.lower(), name)))
    except csv.Error as e:
        raise ValueError(f"{where}, line {rows.line_num}: {e}") from e
    named, ours = {entry.side for entry in entries}, set(SIDES.values())
    if named & ours and named - ours:
        raise ValueError(f"{where}: expected the sides train, valid and test, found {listed(sorted(named))}")
    return entries


def _fields(line: str) -> tuple[str, ...]:
    """The whole line, for a clip may be called with commas and spaces; and its first field."""
    parts = line.replace(",", " ").split(maxsplit=1) or [line]
    return tuple(dict.fromkeys(name.strip().strip('"') for name in (line, line.partition(",")[0], parts[0])))


def _side_of_list(name: str) -> str | None:
    stem, suffix = os.path.splitext(name.lower())
    return SIDES.get(stem) if suffix in (".csv", ".txt") else None


def _divided(clips: Sequence[Clip], split: str) -> tuple[list[Clip], list[Problem]]:
    """The clips with the split's sides in place of their folds, and what it leaves open."""
    called: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        called.setdefault(_stem(clip.uri), []).append(i)
    called |= {clip.clip_id: [i] for i, clip in enumerate(clips)}
    sides: dict[int, str] = {}
    strangers = []
    for names, side in read_split(split):
        keys = (*names, *map(_stem, names))
        found = next((called[key] for key in keys if key in called), [])
        if len({clips[i].uri for i in found}) > 1:
            raise ValueError(f"{split}: {names[-1]!r} may be {listed([clips[i].clip_id for i in found], ' or ')}")
        if not found:
            strangers.append(names[-1])
        for i in found:  # several, where a recording holds several clips
            if sides.setdefault(i, side) != side:
                raise ValueError(f"{split}: clip {clips[i].clip_id!r} is on two sides, {sides[i]} and {side}")
    if not sides:
        raise ValueError(
            f"{split}: none of its {len(strangers)} clips is in the source; it names {listed(strangers[:3]) or 'nothing'}, "
            f"the source has {listed([c.clip_id for c in clips[:3]]) or 'nothing'}"
        )
    notes = []
    if unlisted := [clip.clip_id for i, clip in enumerate(clips) if i not in sides]:
        notes.append(Problem("note", split, f"{len(unlisted)} clips are on no side, such as {listed(unlisted)}"))
    if strangers:
        what = f"{len(strangers)} clips on its sides are not in the source, such as {listed(strangers)}"
        notes.append(Problem("note", split, what))
    return [replace(clip, fold=sides.get(i)) for i, clip in enumerate(clips)], notes


def _stem(path: str) -> str:
    """A file's name without folder and without the suffix of a recording."""
    name = path.replace("\\", "/").rpartition("/")[2]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in MEDIA_SUFFIXES else name


def _exists(address: str) -> bool:
    folder, _, name = address.rstrip("/").rpartition("/")
    return Folder(folder or ("/" if address.startswith("/") else ".")).exists(name)


def listed(names: Sequence[str], joint: str = ", ") -> str:
    """Names in a message, ten at most."""
    return joint.join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
