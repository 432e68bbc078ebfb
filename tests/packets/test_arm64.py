"""The programs as a machine of arm64 would compile them, by bcc's own variable ARCH. Compiled, not run on one.

bcc lays structs out and takes types by the host's rules, not by those of eBPF, and what it makes differs in its
instructions; test_layout compares the structs. With ARCH=arm64 in the environment all of these packet tests are about
those programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from redirect import loader
from tests.packets.rig import bpffs
from tests.support import altered_programs

pytestmark = pytest.mark.kernel


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ARCH", "arm64")
    with bpffs() as place:
        yield place / "x"


def test_what_an_arm64_host_makes_of_the_sources_is_accepted(pins: Path, tmp_path: Path) -> None:
    """By this kernel's verifier, which is the same code there."""
    loader.load(pins, tmp_path / "record", altered_programs.TIMEOUT_S)
    assert loader.is_complete(pins)


def test_it_was_compiled_for_arm64(pins: Path, tmp_path: Path) -> None:
    """Else the test above would be about this machine."""
    opening = "int to_pod(struct __sk_buff *skb) {\n"
    stop = f"#ifdef __aarch64__\n#error this is arm64\n#endif\n{opening}"
    record = tmp_path / "record"
    assert altered_programs.load(tmp_path / "tree", "to_pod.c", opening, stop, pins=pins, record=record)
    assert "this is arm64" in record.read_text()
