"""ztun's node proxy: mutual TLS, identity, policy and telemetry for the pods of one node."""

import sys
from pathlib import Path

from agent import dataclass_code

# Before the first dataclass of ours is made.
dataclass_code.put_in_force()

from agent.form import FormError, observe  # noqa: E402

VERSION = "0.1.0"
try:
    FORM = observe(Path(__file__).parent)
except FormError as error:
    # Before anything else of ours is loaded. No traceback: it is for whoever builds or installs.
    sys.exit(f"ztun: {error}")
