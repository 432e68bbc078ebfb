"""A program as it is, but for one thing: what it lets pass meets nothing that is attached behind it.

Of a program whose last word is NEXT (-1), the word of tcx for "go on with whoever is behind me, then with the
filters of clsact", one is made whose last word is PASS (0), which ends both. So a packet meets the link with this
program or the filter with the other one, and never both, while a place changes from filter to link (`redirect.attach`).
Made of instructions: nothing is compiled for it. struct bpf_insn: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import struct

_INSTRUCTION = struct.Struct("=BBhi")
_LD_IMM64, _CALL, _EXIT, _JUMP = 0x18, 0x85, 0x95, 0x05
_JNE32_IMM, _MOV32_IMM = 0x56, 0xB4
_PSEUDO_CALL = 1
_NEXT, _PASS = -1, 0
_FARTHEST = 32767


def ending(code: bytes) -> bytes:
    """Raises ValueError for one that is not made of a single function, or is too long for a jump."""
    rows = list(_INSTRUCTION.iter_unpack(code))
    end, made, is_second_half = len(rows), [], False
    for at, (opcode, registers, offset, immediate) in enumerate(rows):
        if is_second_half:
            is_second_half = False
        elif opcode == _LD_IMM64:
            is_second_half = True
        elif opcode == _CALL and registers >> 4 == _PSEUDO_CALL:
            raise ValueError("it has functions of its own, whose ends are not the program's")
        elif opcode == _EXIT:
            if end - at - 1 > _FARTHEST:
                raise ValueError(f"{end} instructions are more than a jump can pass")
            opcode, registers, offset, immediate = _JUMP, 0, end - at - 1, 0
        made.append(_INSTRUCTION.pack(opcode, registers, offset, immediate))
    # if w0 == NEXT: w0 = PASS
    made.append(_INSTRUCTION.pack(_JNE32_IMM, 0, 1, _NEXT))
    made.append(_INSTRUCTION.pack(_MOV32_IMM, 0, 0, _PASS))
    made.append(_INSTRUCTION.pack(_EXIT, 0, 0, 0))
    return b"".join(made)
