"""What is made of a program so that nobody behind it gets what it lets pass, by running it."""

from __future__ import annotations

import os
import struct

import pytest

from redirect import sys_bpf
from redirect.ending import ending

MOV, MOV_REG, LD_IMM64, JEQ, CALL, EXIT = 0xB7, 0xBF, 0x18, 0x15, 0x85, 0x95
LENGTH_AT = 0
FRAME_BYTES = 64


def row(opcode: int, registers: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", opcode, registers, offset, immediate)


def verdict_of(code: bytes) -> int:
    fd = sys_bpf.load_code("of_test", code)
    try:
        return sys_bpf.prog_test_run(fd, bytes(FRAME_BYTES)).verdict
    finally:
        os.close(fd)


@pytest.mark.kernel
@pytest.mark.parametrize("verdict", [-1, 0, 2, 7])
def test_what_is_let_pass_ends_here_and_all_else_is_as_it_was(verdict: int) -> None:
    code = row(MOV, immediate=verdict) + row(EXIT)
    assert verdict_of(code) == verdict
    assert verdict_of(ending(code)) == (0 if verdict == -1 else verdict)


@pytest.mark.kernel
def test_each_way_out_is_found_and_no_number_taken_for_one() -> None:
    """The second half of a long number may look like any instruction."""
    length = row(0x61, 0x10, LENGTH_AT)  # w0 = skb->len
    is_short = row(JEQ, 0, 4, FRAME_BYTES - 14)
    number = row(LD_IMM64, 0x02, 0, -1) + struct.pack("=BBhi", 0, 0, 0, EXIT)
    code = length + is_short + number + row(MOV, immediate=2) + row(EXIT) + row(MOV, immediate=-1) + row(EXIT)
    usual = verdict_of(code)
    assert usual in (2, -1)
    assert verdict_of(ending(code)) == (0 if usual == -1 else usual)
    assert ending(code)[16:32] == number


def test_one_of_several_functions_is_refused() -> None:
    code = row(CALL, 0x10, 0, 1) + row(EXIT) + row(MOV, immediate=-1) + row(EXIT)
    with pytest.raises(ValueError, match="functions of its own"):
        ending(code)


def test_one_that_is_longer_than_a_jump_is_refused() -> None:
    with pytest.raises(ValueError, match="40001 instructions"):
        ending(row(EXIT) + row(MOV) * 40_000)
