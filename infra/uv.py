"""uv with pip's settings, which uv does not read itself: `python infra/uv.py pip install ...`. It takes a quarter of the time.

Packages come from the indexes and folders that `pip config list` names, and the best of all that these offer is taken, as pip
does. What is set for uv itself (UV_INDEX_URL, ...) comes first.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

SETTINGS = {
    "index-url": ("UV_INDEX_URL", " "),
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "find-links": ("UV_FIND_LINKS", ","),
}

environment = {"UV_SYSTEM_CERTS": "1", "UV_INDEX_STRATEGY": "unsafe-best-match"}
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
for line in reversed(listed.splitlines()):  # what stands first in pip's list is what pip obeys
    key, _, value = line.partition("=")
    if (setting := key.rpartition(".")[2]) in SETTINGS:
        name, separator = SETTINGS[setting]
        environment[name] = separator.join(ast.literal_eval(value).split())
try:
    folder = os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    cache = Path(folder)
    cache.mkdir(parents=True, exist_ok=True)
    writable = os.access(cache, os.W_OK)
except (OSError, RuntimeError):  # RuntimeError: a user without a home, as in a container
    writable = False
if not writable:  # pip goes on then, and so do we
    environment["UV_NO_CACHE"] = "1"
uv = Path(sys.executable).with_name("uv")
os.execve(uv, [uv, *sys.argv[1:], "--python", sys.executable], {**environment, **os.environ})  # noqa: S606  a list, no shell
