#!/usr/bin/env bash
# pyroute2 0.9.7: IPRoute().rule("del", ...) does not find a rule that is named by all but its priority.
#
# `ip rule del fwmark 0x111/0xfff lookup 100` removes the rule that `ip rule add fwmark 0x111/0xfff lookup 100` made:
# the kernel compares the attributes that a request carries. The same request by pyroute2 answers ENOENT, because the
# library adds a priority of its own to it; with the priority that the kernel gave the rule it works.
# Matters to whoever cleans up rules of other programs, whose priorities the kernel chose.
#
# Needs root (it makes a network namespace). Seen on Linux 6.18, Python 3.11; exits non-zero when that changes.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
/usr/bin/python3 -m venv "$where/env"
"$where/env/bin/pip" -q --disable-pip-version-check install pyroute2==0.9.7
cat >"$where/show.py" <<'PYTHON'
import subprocess

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

RULE = {"family": 2, "fwmark": 0x111, "fwmask": 0xFFF, "table": 100}


def rules() -> str:
    return subprocess.run(["ip", "rule"], capture_output=True, text=True, check=True).stdout


def is_there() -> bool:
    return "fwmark 0x111/0xfff lookup 100" in rules()


def by_pyroute2(**more: int) -> str:
    with IPRoute() as ip:
        try:
            ip.rule("del", **RULE, **more)
        except NetlinkError as error:
            return f"error {error.code}"
    return "removed"


subprocess.run("ip rule add fwmark 0x111/0xfff lookup 100", shell=True, check=True)
with IPRoute() as ip:
    priority = next(rule.get("priority") for rule in ip.get_rules(family=2) if rule.get("fwmark") == 0x111)
without, still = by_pyroute2(), is_there()
print(f"without a priority: {without}; the rule is still there: {still}")
with_it, gone = by_pyroute2(priority=priority), not is_there()
print(f"with the priority {priority} of the kernel: {with_it}; it is gone: {gone}")
subprocess.run("ip rule add fwmark 0x111/0xfff lookup 100", shell=True, check=True)
subprocess.run("ip rule del fwmark 0x111/0xfff lookup 100", shell=True, check=True)
print(f"iproute2 without a priority: it is gone: {not is_there()}")
assert (without, still, with_it, gone) == ("error 2", True, "removed", True), "the behaviour has changed"
PYTHON
unshare -n "$where/env/bin/python" "$where/show.py"
echo "as described"
