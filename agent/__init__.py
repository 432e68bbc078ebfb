"""ztun's node proxy: mutual TLS, identity, policy and telemetry for the pods of one node."""

import sys
from pathlib import Path

from agent.form import FormError, observe

VERSION = "0.1.0"
try:
    FORM = observe(Path(__file__).parent)
except FormError as error:
    # Before anything else of ours is loaded. No traceback: it is for whoever builds or installs.
    sys.exit(f"ztun: {error}")
