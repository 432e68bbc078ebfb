"""Addresses from where somebody has proven who it is: the last ones, and those that the programs know.

The programs' table outlives workers, so that after a restart who comes back is no stranger. It counts for an hour, as
the address may be another's later.
"""

from __future__ import annotations

from collections import OrderedDict

from agent.model.address import IP
from agent.net.member_table import MemberTable

REMEMBERED = 4096
MEMBER_S = 3600.0


class Proven:
    """Of one worker. `members` is the table, once it was given one."""

    def __init__(self) -> None:
        self.members: MemberTable | None = None
        self._last: OrderedDict[IP, None] = OrderedDict()

    def has(self, ip: IP) -> bool:
        return ip in self._last or (self.members is not None and self.members.knows(ip))

    def note(self, ip: IP) -> None:
        """Here, and where the programs look."""
        self._last[ip] = None
        self._last.move_to_end(ip)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        if self.members is not None:
            self.members.note(ip, MEMBER_S)

    def note_in(self, members: MemberTable) -> None:
        """From now on (this object's from now on)."""
        if self.members is not None:
            self.members.close()
        self.members = members
