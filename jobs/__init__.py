"""The commands: each parses what it was given, shows it, and wires pipeline and rrnn together on Ray."""

import os
import secrets
import sys

# A Ray of our own listens on every interface of the machine, whatever address it is given, and runs any code that it is
# sent: so it wants a token that only this process and its children know. Ray reads both when it is imported, which is why
# this is here; a program that imports it before has chosen itself. On a cluster, who started it has (docs/security.md).
if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys() and "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_urlsafe(32))
    os.environ["RAY_AUTH_MODE"] = "token"
