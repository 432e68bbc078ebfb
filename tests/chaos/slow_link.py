"""Delays what comes to a node over its uplink, without netem: packets go through this process, and come back later.

`python -m tests.chaos.slow_link IFNAME DELAY_S JITTER_S` in the node's network namespace, until its input ends.
nftables forwards TCP that arrives at IFNAME to a TAP device which has the same MAC address (nft `fwd to`); what is
read there is written back after the delay, and arrives a second time, from the TAP. With jitter packets overtake each
other. ARP and neighbour discovery stay where they are.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress

TAP = "slowlink"
TABLE = "chaos_delay"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCGIFHWADDR = 0x8927
FRAME_BYTES = 65_600


def mac_of(ifname: str) -> str:
    """By ioctl: /sys shows the interfaces of another namespace here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, SIOCGIFHWADDR, struct.pack("16s24x", ifname.encode()))
    return answer[18:24].hex(":")


def open_tap(mac: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), IFF_TAP | IFF_NO_PI))
    for command in (
        f"link set {TAP} address {mac}",
        f"link set {TAP} mtu 9000",
        f"link set {TAP} arp off up",
    ):
        subprocess.run(("ip", *command.split()), check=True)
    return fd


def ruleset(ifname: str) -> str:
    rules = "".join(f"  {family} fwd to {TAP}\n" for family in ("ip protocol tcp", "ip6 nexthdr tcp"))
    hook = f'type filter hook ingress device "{ifname}" priority 0; policy accept;'
    return f"table netdev {TABLE} {{\n chain arriving {{\n  {hook}\n{rules} }}\n}}\n"


def relay(tap: int, delay_s: float, jitter_s: float) -> None:
    chances, waiting, number = random.Random(0), list[tuple[float, int, bytes]](), 0
    poll = select.poll()
    poll.register(tap, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN)
    while True:
        left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        for fd, _ in poll.poll(left_s * 1000):
            if fd != tap:
                return
            with suppress(BlockingIOError):
                while True:
                    frame, number = os.read(tap, FRAME_BYTES), number + 1
                    due_s = time.monotonic() + delay_s + chances.random() * jitter_s
                    heapq.heappush(waiting, (due_s, number, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(tap, heapq.heappop(waiting)[2])


def main(argv: list[str]) -> None:
    ifname, delay_s, jitter_s = argv[0], float(argv[1]), float(argv[2])
    tap = open_tap(mac_of(ifname))
    subprocess.run(("nft", "-f", "-"), input=ruleset(ifname), text=True, check=True)
    try:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        relay(tap, delay_s, jitter_s)
    finally:
        subprocess.run(("nft", "delete", "table", "netdev", TABLE), check=True)
        os.close(tap)


if __name__ == "__main__":
    main(sys.argv[1:])
