"""Extraction with nothing around it, in a process of its own: python -m benchmarks.bare_loop STORE UNITS

UNITS is JSON: [[stream, shard], ...]. One line on standard output a unit that is done, and nothing else.
"""

from __future__ import annotations

import json
import sys

from pipeline.extract import extract_shard
from pipeline.store import Store
from pipeline.streams import make_stream
from pipeline.streams.base import Extractor


def main(url: str, units: list[tuple[str, str]]) -> None:
    store = Store(url)
    loaded: dict[str, Extractor] = {}
    for stream, shard in units:
        if stream not in loaded:
            loaded[stream] = make_stream(stream)
            loaded[stream].load()
        extract_shard(store, loaded[stream], shard)
        sys.stdout.write(f"{stream} {shard}\n")  # in one piece, even where Python does not buffer: another may write too
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
