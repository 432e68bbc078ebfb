"""bpf(2), by ctypes: what the agent needs of it, without libbpf, bcc or their memory.

Every call raises OSError with the kernel's errno. Structures: include/uapi/linux/bpf.h of Linux 6.6; the kernel
takes shorter ones from older programs, so only the fields used are laid out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SYSCALL = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 0)

MAP_CREATE = 0
MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY = 1, 2, 3, 4
PROG_LOAD = 5
OBJ_PIN, OBJ_GET = 6, 7
PROG_TEST_RUN = 10
PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID = 13, 14
INFO_BY_FD = 15
PROG_QUERY = 16
MAP_LOOKUP_BATCH = 24
LINK_CREATE, LINK_UPDATE, LINK_DETACH, PROG_BIND_MAP = 28, 29, 34, 35

MAP_TYPE_ARRAY, MAP_TYPE_RINGBUF = 2, 27
PROG_TYPE_SCHED_CLS = 3
TC_ACT_UNSPEC, TC_ACT_SHOT = -1, 2

BPF_SK_LOOKUP = 36
BPF_TCX_INGRESS, BPF_TCX_EGRESS = 46, 47
BPF_F_BEFORE = 8

BATCH_ENTRIES = 512
ENOTSUPP = 524
"""Of the kernel's own; errno has no name for it."""
_BATCH = struct.Struct("=QQQQIIQQ")
_BATCH_COUNT_AT = 32
_U32 = struct.Struct("=I")

_libc = ctypes.CDLL(None, use_errno=True)


class MapInfo(NamedTuple):
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    name: str


class ProgInfo(NamedTuple):
    id: int
    tag: str
    name: str
    run_time_ns: int
    run_count: int


class LinkInfo(NamedTuple):
    type: int
    id: int
    prog_id: int
    target: int
    """tcx: ifindex (0 once the device is gone); netns: inode of the namespace."""
    attach_type: int


class Hooked(NamedTuple):
    """What is attached at a hook, in the order in which it runs: of each the program, and the link (0: without one)."""

    programs: list[int]
    links: list[int]


class RunResult(NamedTuple):
    """What one BPF_PROG_TEST_RUN did."""

    verdict: int
    data: bytes
    context: bytes
    duration_ns: int


def call(command: int, attributes: bytes) -> int:
    """One bpf(2). Raises OSError."""
    return _call(command, ctypes.create_string_buffer(attributes, max(len(attributes), 128)))


def _call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    result = int(_libc.syscall(SYSCALL, command, buffer, len(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def _pointer(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return 0 if buffer is None else ctypes.addressof(buffer)


def possible_cpus() -> int:
    """How many values a per-CPU map holds for each key."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return max(int(part.rpartition("-")[2]) for part in text.split(",")) + 1


def obj_pin(fd: int, path: Path | str) -> None:
    """`bpftool prog|map|link pin`"""
    name = _buffer(os.fsencode(path) + b"\0")
    call(OBJ_PIN, struct.pack("=QII", _pointer(name), fd, 0))


def obj_get(path: Path | str) -> int:
    """An fd of a pinned program, map or link."""
    name = _buffer(os.fsencode(path) + b"\0")
    return call(OBJ_GET, struct.pack("=QII", _pointer(name), 0, 0))


def map_create(kind: int, name: str, *, key_size: int = 0, value_size: int = 0, max_entries: int) -> int:
    """An fd of a new map. `name`: 15 letters, digits and underscores at most."""
    # map_type, key_size, value_size, max_entries, map_flags, inner_map_fd, numa_node, map_name
    return call(
        MAP_CREATE,
        struct.pack("=IIIIIII16s", kind, key_size, value_size, max_entries, 0, 0, 0, name.encode()),
    )


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value, or None. Per-CPU maps: `value_size` is that of all CPUs together."""
    key_buffer, value = _buffer(key), _buffer(bytes(value_size))
    try:
        call(MAP_LOOKUP, struct.pack("=IxxxxQQQ", fd, _pointer(key_buffer), _pointer(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Raises OSError(E2BIG) when the map is full."""
    key_buffer, value_buffer = _buffer(key), _buffer(value)
    call(MAP_UPDATE, struct.pack("=IxxxxQQQ", fd, _pointer(key_buffer), _pointer(value_buffer), flags))


def map_delete(fd: int, key: bytes) -> bool:
    """Whether it was there."""
    key_buffer = _buffer(key)
    try:
        call(MAP_DELETE, struct.pack("=IxxxxQQQ", fd, _pointer(key_buffer), 0, 0))
    except FileNotFoundError:
        return False
    return True


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Every key; one that others delete meanwhile makes the kernel begin anew, so some may come twice."""
    key: ctypes.Array[ctypes.c_char] | None = None
    while True:
        following = _buffer(bytes(key_size))
        try:
            call(MAP_NEXT_KEY, struct.pack("=IxxxxQQQ", fd, _pointer(key), _pointer(following), 0))
        except FileNotFoundError:
            return
        yield following.raw
        key = following


def map_items(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Every entry that stays long enough to be read. Of a hash in a few calls: it is read often, by whoever watches."""
    try:
        yield from _map_batches(fd, key_size, value_size)
    except OSError as error:
        if error.errno != ENOTSUPP:
            raise
        # Maps of other kinds.
        for key in list(map_keys(fd, key_size)):
            value = map_lookup(fd, key, value_size)
            if value is not None:
                yield key, value


def _map_batches(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """BPF_MAP_LOOKUP_BATCH. Raises OSError(ENOTSUPP) before anything was read where the map cannot do that."""
    wanted, is_first = BATCH_ENTRIES, True
    # Where the next call goes on: read by the kernel before it is written.
    mark = _buffer(bytes(max(4, key_size)))
    while True:
        keys, values = _buffer(bytes(wanted * key_size)), _buffer(bytes(wanted * value_size))
        # in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags
        attributes = ctypes.create_string_buffer(
            _BATCH.pack(
                0 if is_first else _pointer(mark),
                _pointer(mark),
                _pointer(keys),
                _pointer(values),
                wanted,
                fd,
                0,
                0,
            ),
            128,
        )
        is_last = False
        try:
            _call(MAP_LOOKUP_BATCH, attributes)
        except FileNotFoundError:
            is_last = True
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # Entries of one bucket are told together: there are more of them than that.
            wanted *= 2
            continue
        (count,) = _U32.unpack_from(attributes, _BATCH_COUNT_AT)
        raw_keys, raw_values = keys.raw, values.raw
        for at in range(count):
            key = raw_keys[at * key_size : (at + 1) * key_size]
            yield key, raw_values[at * value_size : (at + 1) * value_size]
        if is_last:
            return
        is_first = False


def _info(fd: int, size: int) -> bytes:
    buffer = _buffer(bytes(size))
    call(INFO_BY_FD, struct.pack("=IIQ", fd, size, _pointer(buffer)))
    return buffer.raw


def object_id(fd: int) -> tuple[int, int]:
    """(type, id) of a program, map or link: all three infos begin so."""
    kind, number = struct.unpack("=II", _info(fd, 8))
    return kind, number


def map_info(fd: int) -> MapInfo:
    kind, number, key_size, value_size, max_entries, _, name = struct.unpack_from("=IIIIII16s", _info(fd, 80))
    return MapInfo(kind, number, key_size, value_size, max_entries, name.rstrip(b"\0").decode())


def prog_info(fd: int) -> ProgInfo:
    raw = _info(fd, 232)
    _, number, tag = struct.unpack_from("=II8s", raw)
    (name,) = struct.unpack_from("=16s", raw, 64)
    run_time_ns, run_count = struct.unpack_from("=QQ", raw, 200 - 8)
    return ProgInfo(number, tag.hex(), name.rstrip(b"\0").decode(), run_time_ns, run_count)


def load_verdict(name: str, verdict: int) -> int:
    """An fd of a new program for tc that says the same (TC_ACT_*) of every packet. `name`: as in `map_create`."""
    # r0 = verdict; exit: struct bpf_insn
    return load_code(name, struct.pack("=BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0))


def load_code(name: str, code: bytes, license_text: str = "Apache-2.0") -> int:
    """An fd of a new program for tc of these instructions (struct bpf_insn)."""
    instructions, terms = _buffer(code), _buffer(license_text.encode() + b"\0")
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name
    attributes = struct.pack(
        "=IIQQIIQII16s",
        *(PROG_TYPE_SCHED_CLS, len(code) // 8, _pointer(instructions), _pointer(terms)),
        *(0, 0, 0, 0, 0, name.encode()),
    )
    return call(PROG_LOAD, attributes)


def prog_by_id(number: int) -> int:
    """An fd of a program. Raises FileNotFoundError when it is gone."""
    return call(PROG_GET_FD_BY_ID, struct.pack("=I", number))


def prog_name(program_id: int) -> str:
    """The name that a loaded program has; empty when it has none, or is gone."""
    try:
        fd = prog_by_id(program_id)
    except FileNotFoundError:
        return ""
    try:
        return prog_info(fd).name
    finally:
        os.close(fd)


def prog_map_ids(program_id: int) -> list[int]:
    """The maps that a loaded program works with. Raises FileNotFoundError when it is gone."""
    fd = prog_by_id(program_id)
    room = 64
    ids, info = _buffer(bytes(4 * room)), _buffer(bytes(64))
    # struct bpf_prog_info: nr_map_ids at 52, map_ids at 56
    struct.pack_into("=IQ", info, 52, room, _pointer(ids))
    try:
        call(INFO_BY_FD, struct.pack("=IIQ", fd, len(info), _pointer(info)))
    finally:
        os.close(fd)
    (count,) = struct.unpack_from("=I", info, 52)
    return list(struct.unpack_from(f"={count}I", ids))


def prog_bind_map(prog_fd: int, map_fd: int) -> None:
    """A map lives as long as this program from now on, though it never reads it."""
    call(PROG_BIND_MAP, struct.pack("=III", prog_fd, map_fd, 0))


def map_by_id(number: int) -> int:
    """An fd of a map. Raises FileNotFoundError when it is gone."""
    return call(MAP_GET_FD_BY_ID, struct.pack("=I", number))


def link_info(fd: int) -> LinkInfo:
    kind, number, prog_id, target, attach_type = struct.unpack_from("=IIIxxxxII", _info(fd, 64))
    return LinkInfo(kind, number, prog_id, target, attach_type)


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0) -> int:
    """`target`: ifindex (tcx, in the current namespace) or fd of a namespace (sk_lookup)."""
    return call(LINK_CREATE, struct.pack("=IIII", prog_fd, target, attach_type, flags))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Atomic swap. ENOLINK: the device or namespace of the link is gone."""
    call(LINK_UPDATE, struct.pack("=IIII", link_fd, prog_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    call(LINK_DETACH, struct.pack("=I", link_fd))


class Query:
    """PROG_QUERY, again and again with the same memory: a node has two hooks for each pod. For one thread."""

    ROOM = 64
    # target, attach_type, query_flags, attach_flags, prog_ids, count, pad, prog_attach_flags, link_ids,
    # link_attach_flags, revision
    FORMAT = struct.Struct("=IIIIQIIQQQQ")
    COUNT_AT = 24

    def __init__(self) -> None:
        self._programs = (ctypes.c_uint32 * self.ROOM)()
        self._links = (ctypes.c_uint32 * self.ROOM)()
        self._attributes = ctypes.create_string_buffer(self.FORMAT.size)

    def hooked(self, target: int, attach_type: int, *, with_links: bool = True) -> Hooked:
        """Target as in link_create; nothing where it is gone. `with_links`: the kernel has tcx. Raises OSError."""
        links = ctypes.addressof(self._links) if with_links else 0
        programs, room = ctypes.addressof(self._programs), self.ROOM
        self.FORMAT.pack_into(
            self._attributes, 0, target, attach_type, 0, 0, programs, room, 0, 0, links, 0, 0
        )
        if int(_libc.syscall(SYSCALL, PROG_QUERY, self._attributes, self.FORMAT.size)) < 0:
            code = ctypes.get_errno()
            if code in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                return Hooked([], [])
            raise OSError(code, os.strerror(code))
        (count,) = _U32.unpack_from(self._attributes, self.COUNT_AT)
        return Hooked(self._programs[:count], self._links[:count] if with_links else [])


def prog_query(target: int, attach_type: int) -> list[int]:
    """Ids of the programs attached, in the order in which they run; target as in link_create. None when it is gone."""
    return Query().hooked(target, attach_type, with_links=False).programs


def prog_test_run(prog_fd: int, data: bytes, context: bytes = b"", room: int = 4096) -> RunResult:
    """Run a program on one packet: `BPF_PROG_TEST_RUN`. Programs of sk_lookup take only a context.

    `context` comes back changed, of the same length; zeroes past the kernel's own struct are allowed.
    """
    data_in = _buffer(data) if data else None
    data_out = _buffer(bytes(room)) if data else None
    context_in = _buffer(context) if context else None
    context_out = _buffer(bytes(len(context))) if context else None
    attributes = struct.pack(
        "=IIIIQQIIIIQQII",
        *(prog_fd, 0, len(data), room if data else 0, _pointer(data_in), _pointer(data_out)),
        *(0 if not data else 1, 0),
        *(len(context), len(context) if context_out else 0, _pointer(context_in), _pointer(context_out)),
        *(0, 0),
    )
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    if int(_libc.syscall(SYSCALL, PROG_TEST_RUN, buffer, len(buffer))) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    _, verdict, _, out_size = struct.unpack_from("=IIII", buffer.raw)
    _, duration_ns = struct.unpack_from("=II", buffer.raw, 32)
    signed = verdict - (1 << 32) if verdict >= 1 << 31 else verdict
    output = data_out.raw[:out_size] if data_out is not None else b""
    return RunResult(signed, output, context_out.raw if context_out is not None else b"", duration_ns)
