"""What every bench that builds a lab asks of its options, whatever else it takes."""

from __future__ import annotations

import argparse


def refuse_unfit(parser: argparse.ArgumentParser, options: argparse.Namespace, longest: int) -> None:
    """Leaves with a usage error unless `rounds`, where given, are some and `name` has `longest` characters at most."""
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    if len(options.name) > longest:
        parser.error(f"--name: {longest} characters at most")
