"""Several jobs, one after the other, in one process and one Ray, since starting these takes longer than small jobs:

    python -m tests.several_jobs '[["extract", "CLIPS", "--out", "STORE"], ["train", ...]]'

Prints each job's exit code and time, and stops after one that is not 0.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

import jobs  # noqa: F401  its Ray wants a token, which must be there before Ray is imported
from jobs._machines import DISTRIBUTED
from pipeline.on_ray import ray_started


def main(commands: list[list[str]]) -> int:
    with ray_started(num_cpus=2, first=DISTRIBUTED, then=["jobs.train", "jobs.score"]):
        for name, *arguments in commands:
            code, began = 0, time.monotonic()
            try:
                importlib.import_module(f"jobs.{name}").cli(arguments, standalone_mode=True)
            except SystemExit as e:
                code = int(e.code or 0)
            print(f"== {name} ended with {code} after {time.monotonic() - began:.0f} s", flush=True)
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
