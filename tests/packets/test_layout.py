"""redirect/layout.py against the C side: sizes, offsets, enumerators, and the maps that the kernel really made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from agent.model.encapsulation import ENCAPSULATION_NAMES, ENCAPSULATIONS, UDP_ENCAPSULATIONS
from agent.model.listener import HBONE, LISTENERS
from agent.net import member_table
from agent.wire.held_syn import FROM_POD, RECORD, TO_POD
from redirect import encapsulations, layout, loader, sys_bpf
from redirect.conf import Conf
from redirect.denials import Denial, DenialKey, Prefiltered
from redirect.layout import (
    MAPS,
    REASONS,
    SOURCES,
    Flag,
    FlowKey,
    HostFlow,
    IfaceEntry,
    Neighbour,
    NeighbourKey,
    Owner,
    PodEntry,
)
from redirect.limits import MEMBERS as PLACES
from redirect.limits import CaptureCount, Member, PodRates, Stranger
from redirect.opening import OF_NODE, Opening
from redirect.trace_entries import TraceEvent, TraceFilter
from redirect.waiting import KEY_BYTES, RECORD_BYTES
from tests.packets.rig import Rig

pytestmark = pytest.mark.kernel
HEADER = SOURCES / "include" / "ztun_types.h"
KINDS = {
    "hash": 1,
    "array": 2,
    "percpu_array": 6,
    "lru_hash": 9,
    "lpm_trie": 11,
    "array_of_maps": 12,
    "sockmap": 15,
}

HELD_SYN = {"at_ns": 0, "ifindex": 8, "hook": 12, "l4_offset": 13, "frame_bytes": 14, "frame": 16}
"""Where agent.wire.held_syn.RECORD has the members of the record that programs write and workers read."""

# C expression -> what user space believes
CONSTANTS = {
    "sizeof(struct pod_entry)": PodEntry.FORMAT.size,
    "sizeof(struct iface_entry)": IfaceEntry.FORMAT.size,
    "sizeof(struct conf_entry)": Conf.FORMAT.size,
    "sizeof(struct capture_count)": CaptureCount.FORMAT.size,
    "sizeof(struct flow_key)": FlowKey.FORMAT.size,
    "sizeof(struct neighbour_key)": NeighbourKey.FORMAT.size,
    "sizeof(struct neighbour)": Neighbour.FORMAT.size,
    "sizeof(struct owner)": Owner.FORMAT.size,
    "sizeof(struct addr16)": len(layout.NO_ADDRESS),
    "FLAG_ENROLLED": int(Flag.ENROLLED),
    "FLAG_DRAIN": int(Flag.DRAIN),
    "FLAG_QUEUED": int(Flag.QUEUED),
    "FLAG_HONEST": int(Flag.HONEST),
    "FLAG_BYPASS": int(Flag.BYPASS),
    "FLAG_DNS": int(Flag.DNS),
    "FLAG_LEARN": int(Flag.LEARN),
    "FLAG_GUARDED": int(Flag.GUARDED),
    "sizeof(struct seen)": layout.MAPS["seen"].value_bytes,
    "OWNERS_MAX": layout.OWNERS_MAX,
    "TURNS": layout.TURNS,
    "sizeof(struct host_flow)": HostFlow.FORMAT.size,
    "sizeof(struct pod_rates)": PodRates.FORMAT.size,
    "sizeof(struct stranger)": Stranger.FORMAT.size,
    "sizeof(struct member)": Member.FORMAT.size,
    "sizeof(struct prefiltered)": Prefiltered.FORMAT.size,
    "sizeof(struct denial_key)": DenialKey.FORMAT.size,
    "sizeof(struct denial)": Denial.FORMAT.size,
    "MEMBERS": PLACES,
    "sizeof(struct held_syn)": RECORD.size,
    "sizeof(struct held_syn) + 0": RECORD_BYTES,
    "sizeof(struct flow_key) + 0": KEY_BYTES,
    **{f"__builtin_offsetof(struct held_syn, {name})": at for name, at in HELD_SYN.items()},
    "sizeof(struct opening)": Opening.FORMAT.size,
    "sizeof(struct trace_filter)": TraceFilter.FORMAT.size,
    "sizeof(struct trace_event)": TraceEvent.FORMAT.size,
    "__builtin_offsetof(struct trace_filter, until_ns)": TraceFilter.UNTIL_AT,
    "__builtin_offsetof(struct trace_filter, lost)": TraceFilter.LOST_AT,
    "OF_NODE": OF_NODE,
    "HOOK_OPEN": layout.HOOK_OPEN,
    "HOOK_FROM_POD": layout.HOOK_FROM_POD,
    "HOOK_TO_POD": layout.HOOK_TO_POD,
    **{f"SLOT_{row.name.upper()}": row.slot for row in LISTENERS},
    "SLOTS": len(LISTENERS),
    "HBONE_PORT": HBONE.port,
    "MARK_PROXY": layout.MARK_PROXY,
    "ENCAPSULATIONS": len(encapsulations.NAMES),
    **{
        f"1 << ENCAPSULATION_{name}": encapsulations.encapsulation_bits([name])
        for name in encapsulations.NAMES
    },
    "ZTUN_EXIT_COUNT": len(REASONS),
    **{f"EXIT_{reason.program}_{reason.name}": reason.index for reason in REASONS},
}
ALL_ONES = 0xFFFFFFFF
BLANK = {
    "pod_entry": PodEntry(Flag(0), 0, layout.NO_MAC, layout.NO_MAC, 0, 0),
    "iface_entry": IfaceEntry(Flag(0), bytes(16), bytes(16)),
    "neighbour_key": NeighbourKey(0, IPv6Address(0)),
    "neighbour": Neighbour(layout.NO_MAC),
    "conf_entry": Conf(0, 0, 0, 0, bytes(6)),
    "capture_count": CaptureCount(),
    "pod_rates": PodRates(),
    "owner": Owner(""),
    "stranger": Stranger(bytes(16), 0),
    "member": Member(bytes(16), 0),
    "opening": Opening(0, 0),
    "prefiltered": Prefiltered(0, 0),
    "denial_key": DenialKey(0, 0, bytes(16), -96),
    "denial": Denial(is_denied=False),
    "trace_filter": TraceFilter(),
    "trace_event": TraceEvent(0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(16), bytes(16)),
    "flow_key": FlowKey(IPv6Address(0), IPv6Address(0), 0, 0, 0, 0),
    "host_flow": HostFlow(0, 0),
}
# struct -> C member -> the same of user space's value, with every bit of it set
MEMBERS: dict[str, dict[str, dict[str, Any]]] = {
    "pod_entry": {
        "flags": {"flags": Flag(ALL_ONES)},
        "ifindex": {"ifindex": ALL_ONES},
        "identity": {"identity": ALL_ONES},
        "mtu_bytes": {"mtu_bytes": 0xFFFF},
        "mss_bytes": {"mss_bytes": 0xFFFF},
        "macs": {"pod_mac": b"\xff" * 6, "hop_mac": b"\xff" * 6},
        "bridge_ifindex": {"bridge_ifindex": ALL_ONES},
    },
    "iface_entry": {
        "flags": {"flags": Flag(ALL_ONES)},
        "learnt_until_s": {"learnt_until_s": ALL_ONES},
        "addr4": {"addr4": b"\xff" * 16},
        "addr6": {"addr6": b"\xff" * 16},
        "mask4": {"mask4": b"\xff" * 16},
        "mask6": {"mask6": b"\xff" * 16},
        "gateway4": {"gateway4": b"\xff" * 16},
        "gateway6": {"gateway6": b"\xff" * 16},
        "bridge_ifindex": {"bridge_ifindex": ALL_ONES},
        "bridge_mac": {"bridge_mac": b"\xff" * 6},
        "mac": {"mac": b"\xff" * 6},
    },
    "neighbour_key": {
        "ifindex": {"ifindex": ALL_ONES},
        "address": {"address": IPv6Address((1 << 128) - 1)},
    },
    "neighbour": {
        "mac": {"mac": b"\xff" * 6},
        "is_permanent": {"is_permanent": True},
        "is_used": {"is_used": True},
    },
    "conf_entry": {
        "pod_side_ifindex": {"pod_side_ifindex": ALL_ONES},
        "net_side_ifindex": {"net_side_ifindex": ALL_ONES},
        "pod_side_nsid": {"pod_side_nsid": ALL_ONES},
        "net_side_nsid": {"net_side_nsid": ALL_ONES},
        "net_side_mac": {"net_side_mac": b"\xff" * 6},
        "is_dns_open": {"is_dns_open": True},
        "owners": {"owners": 0xFF},
        "allowed_encapsulations": {"allowed_encapsulations": ALL_ONES},
        "takers": {"takers": 0xFF},
        "stranger_every_ns": {"stranger_every_ns": ALL_ONES},
        "stranger_burst": {"stranger_burst": ALL_ONES},
        "is_plaintext_by_ports": {"is_plaintext_by_ports": True},
        "choice_key": {"choice_key": ALL_ONES},
        "host_cgroup": {"host_cgroup": (1 << 64) - 1},
    },
    "host_flow": {"ifindex": {"ifindex": ALL_ONES}, "at_s": {"at_s": ALL_ONES}},
    "capture_count": {
        "outbound": {"outbound": (1 << 64) - 1},
        "inbound": {"inbound": (1 << 64) - 1},
    },
    "pod_rates": {
        "outbound_due_ns": {"outbound_due_ns": (1 << 64) - 1},
        "inbound_due_ns": {"inbound_due_ns": (1 << 64) - 1},
        "dns_due_ns": {"dns_due_ns": (1 << 64) - 1},
    },
    "owner": {"text": {"text": "x" * 384}},
    "opening": {
        "until_ns": {"until_ns": (1 << 64) - 1},
        "since_ns": {"since_ns": (1 << 64) - 1},
        "addr4": {"addr4": b"\xff" * 16},
        "addr6": {"addr6": b"\xff" * 16},
        "note": {"who": "x" * 200, "reason": "y" * 263},
    },
    "stranger": {"address": {"address": b"\xff" * 16}, "ifindex": {"ifindex": ALL_ONES}},
    "member": {"address": {"address": b"\xff" * 16}, "until_ns": {"until_ns": (1 << 64) - 1}},
    "prefiltered": {
        "ifindex": {"ifindex": ALL_ONES},
        "set": {"set": ALL_ONES},
        "samples_due_ns": {"samples_due_ns": (1 << 64) - 1},
    },
    "denial_key": {
        "prefix_bits": {"bits": ALL_ONES - 96},
        "set": {"set": ALL_ONES},
        "port_be": {"port": 0xFFFF},
        "saddr_be": {"address": b"\xff" * 16},
    },
    "denial": {"is_denied": {"is_denied": True}, "packets": {"packets": (1 << 64) - 1}},
    "trace_filter": {
        "until_ns": {"until_ns": (1 << 64) - 1},
        "due_ns": {"due_ns": (1 << 64) - 1},
        "lost": {"lost": (1 << 64) - 1},
        "own": {"own": b"\xff" * 16},
        "own_too": {"own_too": b"\xff" * 16},
        "far": {"far": b"\xff" * 16},
        "own_port_be": {"own_port": 0xFFFF},
        "far_port_be": {"far_port": 0xFFFF},
        "ifindex": {"ifindex": ALL_ONES},
        "is_ends_only": {"is_ends_only": True},
    },
    "trace_event": {
        "at_ns": {"at_ns": (1 << 64) - 1},
        "ifindex": {"ifindex": ALL_ONES},
        "bytes": {"frame_bytes": ALL_ONES},
        "reason": {"reason": 0xFFFF},
        "ether_be": {"ethertype": 0xFFFF},
        "sport_be": {"sport": 0xFFFF},
        "dport_be": {"dport": 0xFFFF},
        "protocol": {"protocol": 0xFF},
        "tcp_flags": {"tcp_flags": 0xFF},
        "saddr_be": {"source": b"\xff" * 16},
        "daddr_be": {"destination": b"\xff" * 16},
    },
    "flow_key": {
        "saddr_be": {"source": IPv6Address((1 << 128) - 1)},
        "daddr_be": {"destination": IPv6Address((1 << 128) - 1)},
        "sport_be": {"sport": 0xFFFF},
        "dport_be": {"dport": 0xFFFF},
        "protocol": {"protocol": 0xFF},
        "hook": {"hook": 0xFF},
    },
}

# Runs by itself, because bcc keeps LLVM's memory: expressions on stdin, their values on stdout.
PROBE = r"""
import ctypes, json, os, sys
from redirect import sys_bpf
from redirect.bcc_backend import SCHED_CLS, header_tree, import_bcc
from redirect.layout import SOURCES

expressions = json.load(sys.stdin)
lines = [f"k = {i}; v = {text}; probed.update(&k, &v);" for i, text in enumerate(expressions)]
text = (SOURCES / "include" / "ztun_types.h").read_text()
text += f"\nBPF_ARRAY(probed, u64, {len(lines)});\n"
text += "int probe(struct __sk_buff *skb) { int k; u64 v; " + " ".join(lines) + " return 0; }\n"
bcc = import_bcc()
with header_tree() as tree:
    os.environ["BCC_KERNEL_SOURCE"] = str(tree)
    loaded = bcc.BPF(text=text, cflags=["-w"])
    sys_bpf.prog_test_run(loaded.load_func("probe", SCHED_CLS).fd, bytes(64))
    os.chdir("/")
print(json.dumps([loaded["probed"][ctypes.c_int(i)].value for i in range(len(lines))]))
"""


def place(struct: str, member: str) -> tuple[int, int]:
    """Offset and size of a member as user space encodes it: the bytes that it changes."""
    blank = BLANK[struct].encode()
    changed = replace(BLANK[struct], **MEMBERS[struct][member]).encode()
    moved = [at for at, pair in enumerate(zip(blank, changed, strict=True)) if pair[0] != pair[1]]
    return moved[0], moved[-1] + 1 - moved[0]


def ask_c(expressions: list[str], architecture: str = "") -> dict[str, int]:
    """The values that C gives to constant expressions; `architecture`: by whose rules, as bcc calls it."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(expressions),
        capture_output=True,
        text=True,
        cwd=Path(layout.__file__).parents[1],
        check=False,
        timeout=60,
        env=os.environ | ({"ARCH": architecture} if architecture else {}),
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(expressions, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("architecture", ["", "arm64"], ids=["here", "arm64"])
def test_structs_and_enumerators_are_the_same_in_c(architecture: str) -> None:
    expected = dict(CONSTANTS)
    for struct, members in MEMBERS.items():
        for member in members:
            offset, size = place(struct, member)
            expected[f"__builtin_offsetof(struct {struct}, {member})"] = offset
            expected[f"sizeof(((struct {struct} *)0)->{member})"] = size
    assert ask_c(list(expected), architecture) == expected


def test_what_the_agent_calls_an_encapsulation_is_one_here() -> None:
    assert encapsulations.ENCAPSULATIONS == ENCAPSULATIONS
    assert encapsulations.UDP_ENCAPSULATIONS == UDP_ENCAPSULATIONS
    assert encapsulations.NAMES == ENCAPSULATION_NAMES
    chosen = ["gre", "vxlan", "esp_udp"]
    assert encapsulations.encapsulation_names(encapsulations.encapsulation_bits(chosen)) == chosen


def test_every_member_of_c_is_compared() -> None:
    structs = dict(re.findall(r"^struct (\w+) \{\n(.*?)^\}", HEADER.read_text(), re.MULTILINE | re.DOTALL))
    del structs["addr16"]
    found = {
        name: set(re.findall(r"(\w+)(?:\[\d+\])?;", body)) - {"reserved"} for name, body in structs.items()
    }
    assert found.pop("held_syn") == set(HELD_SYN)
    del found["seen"]  # which user space does not read
    assert found == {name: set(members) for name, members in MEMBERS.items()}


def test_a_record_is_read_where_it_is_written() -> None:
    """One byte at each member's place shows in the field of its order."""
    for number, at in enumerate(HELD_SYN.values()):
        record = bytearray(RECORD.size)
        record[at] = 1
        fields = RECORD.unpack(record)
        assert [n for n, field in enumerate(fields) if any(bytes(field) if n == 5 else [field])] == [number]
    assert (FROM_POD, TO_POD) == (layout.HOOK_FROM_POD, layout.HOOK_TO_POD)


def test_workers_write_members_in_the_form_that_programs_read() -> None:
    assert (member_table.MEMBER.format, member_table.PLACES) == (Member.FORMAT.format, PLACES)


def test_values_come_back_as_they_were() -> None:
    for struct, members in MEMBERS.items():
        for changes in members.values():
            entry = replace(BLANK[struct], **changes)
            assert type(entry).decode(entry.encode()) == entry


@pytest.mark.parametrize("name", MAPS)
def test_pinned_maps_have_the_shape_that_user_space_expects(rig: Rig, name: str) -> None:
    shape, made = MAPS[name], sys_bpf.map_info(rig.maps[name])
    assert (made.type, made.key_size, made.value_size) == (
        KINDS[shape.kind],
        shape.key_bytes,
        shape.value_bytes,
    )
    assert made.max_entries == shape.max_entries


def test_a_pin_directory_is_complete(rig: Rig) -> None:
    assert loader.is_complete(rig.pins)
    assert {path.name for path in rig.pins.iterdir()} == {
        *(f"map_{name}" for name in MAPS),
        *(f"prog_{name}" for name in layout.PINNED),
    }


def test_each_program_is_loaded_under_its_name(rig: Rig) -> None:
    assert {name: sys_bpf.prog_info(fd).name for name, fd in rig.programs.items()} == {
        name: name[:15] for name in rig.programs
    }
