"""Whether the node's firewall is in the way of HBONE: rules of nftables and iptables that drop what goes to 15008.

Rules that name the port are found, not what sets of addresses, eBPF or policies by default come to. Reading is of the
commands `nft` and `iptables-save`, because kernels have many ways to say the same; the judgement is pure.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import PATIENCE_S, Site
from agent.model.listener import HBONE
from redirect import nf_tables

PORT = HBONE.port
REFUSALS = ("drop", "reject")

TUNNEL_PORT = Subject("tunnel port", f"rules of nftables and iptables about port {PORT}")


def tunnel_port(_: Site) -> Check:
    found: list[tuple[str, str]] = []
    missing = []
    nft = _output("nft", "-j", "-a", "list", "ruleset")
    if nft is None:
        missing += ["nft"] if nf_tables.chains() else []
    else:
        found += blocked_by_nftables(json.loads(nft or "{}"))
    for command in ("iptables", "ip6tables"):
        text = _output(f"{command}-save")
        found += blocked_by_iptables(command, text or "")
    if found:
        return TUNNEL_PORT.failed(
            "; ".join(words for words, _ in found),
            f"let TCP to port {PORT} pass between pods, as NetworkPolicies for a mesh have to",
            "; ".join(dict.fromkeys(command for _, command in found)),
        )
    if missing:
        return TUNNEL_PORT.cannot_tell(
            "there are rules, and no command to read them", "install it", "apt-get install -y nftables"
        )
    return TUNNEL_PORT.ok(
        f"no rule that drops it names port {PORT}; what is decided by sets of addresses or by eBPF is not seen"
    )


def blocked_by_nftables(ruleset: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(words, the command that takes it away) of each rule of `nft -j -a list ruleset` in the way."""
    rows: list[dict[str, Any]] = ruleset.get("nftables", [])
    yield from _closed_chains(rows)
    sets = {
        (row["set"]["family"], row["set"]["table"], row["set"]["name"]): row["set"].get("elem", [])
        for row in rows
        if "set" in row
    }
    for row in rows:
        rule = row.get("rule")
        if rule is None:
            continue
        where = (rule["family"], rule["table"])

        def is_named(right: Any, where: tuple[str, str] = where) -> bool:
            if isinstance(right, str) and right.startswith("@"):
                right = {"set": sets.get((*where, right[1:]), [])}
            return _has_port(right)

        expressions = rule.get("expr", [])
        is_about = any(
            _is_dport(each.get("match", {})) and is_named(each["match"]["right"]) for each in expressions
        )
        if is_about and any(verdict in each for each in expressions for verdict in REFUSALS):
            place = f"{rule['family']} {rule['table']} {rule['chain']}"
            yield (
                f"a rule of nftables in chain {place} drops port {PORT}",
                f"nft delete rule {place} handle {rule['handle']}",
            )


def _closed_chains(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Chains that everything forwarded meets, which let nothing pass."""
    used = {
        (row["rule"]["family"], row["rule"]["table"], row["rule"]["chain"]) for row in rows if "rule" in row
    }
    for chain in (row["chain"] for row in rows if "chain" in row):
        place = (chain["family"], chain["table"], chain["name"])
        if (chain.get("hook"), chain.get("policy")) == ("forward", "drop") and place not in used:
            named = " ".join(place)
            yield (
                f"chain {named} of nftables drops all that is forwarded",
                f"nft chain {named} '{{ policy accept; }}'",
            )


def _is_dport(match: dict[str, Any]) -> bool:
    left = match.get("left")
    payload = left.get("payload", {}) if isinstance(left, dict) else {}
    return (
        match.get("op") in ("==", "in")
        and payload.get("field") == "dport"
        and payload.get("protocol") in ("tcp", "th")
    )


def _has_port(right: Any) -> bool:
    if isinstance(right, int):
        return right == PORT
    if isinstance(right, dict) and "range" in right:
        low, high = right["range"]
        return isinstance(low, int) and isinstance(high, int) and low <= PORT <= high
    if isinstance(right, dict) and "set" in right:
        elements = right["set"]
        return any(_has_port(each) for each in (elements if isinstance(elements, list) else [elements]))
    if isinstance(right, dict) and "elem" in right:
        return _has_port(right["elem"].get("val"))
    return False


def blocked_by_iptables(command: str, saved: str) -> Iterator[tuple[str, str]]:
    """The same of `iptables-save` or `ip6tables-save`."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        if not line.startswith("-A "):
            continue
        words = shlex.split(line)
        if words[-2:] and _target(words) in ("DROP", "REJECT") and _names_port(words):
            yield (
                f"a rule of {command} in chain {words[1]} of table {table} drops port {PORT}",
                f"{command} -t {table} -D {shlex.join(words[1:])}",
            )


def _target(words: list[str]) -> str:
    return words[words.index("-j") + 1] if "-j" in words[:-1] else ""


def _names_port(words: list[str]) -> bool:
    for option in ("--dport", "--dports", "--destination-port", "--destination-ports"):
        if option in words[:-1]:
            at = words.index(option)
            is_inverse = words[at - 1] == "!"
            return not is_inverse and any(_in_range(part) for part in words[at + 1].split(","))
    return False


def _in_range(part: str) -> bool:
    low, colon, high = part.partition(":")
    first, last = int(low or 0), int(high or 65535) if colon else int(low)
    return first <= PORT <= last


def _output(*command: str) -> str | None:
    """What a command prints; None where there is no such command. Raises OSError where it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"`{shlex.join(command)}` has not answered within {PATIENCE_S:g} s") from error
    if done.returncode:
        raise OSError(f"`{shlex.join(command)}`: {done.stderr.strip()}")
    return done.stdout


CHECKS = (Examination(TUNNEL_PORT, tunnel_port, is_of_network=True),)
