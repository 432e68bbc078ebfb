"""The programs and maps of this layout, held open by whoever works with them, besides their pins.

So a map is read and a program attached also when somebody has removed the pins, and they are pinned again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from redirect.kept_pins import KeptPins
from redirect.layout import PINNED
from redirect.maps import Maps
from redirect.neighbourhood import Neighbourhood
from redirect.pins import Pins


class Generation:
    """Opened from the pins. Close it; what is attached lives on."""

    def __init__(self, pins: Pins) -> None:
        """Raises FileNotFoundError for what is not pinned, LayoutMismatch for a map of another size."""
        self._pins = pins
        self._kept = KeptPins(lambda: pins.generation)
        self._programs: dict[str, int] = {}
        self.maps = Maps(pins.generation)
        self.neighbourhood = Neighbourhood(self.maps)
        try:
            for name in PINNED:
                self._programs[name] = pins.open_program(name)
            for pin in self._by_pin():
                self._kept.found(pin)
        except BaseException:
            self.close()
            raise

    def program_fd(self, name: str) -> int:
        return self._programs[name]

    @property
    def programs(self) -> Mapping[str, int]:
        """Descriptors of this generation's, by name."""
        return self._programs

    def lost_pins(self) -> list[str]:
        """Names of programs and maps without a pin of theirs."""
        return self._kept.lost(self._by_pin())

    def restore_pins(self) -> list[str]:
        """Pins again what lost its pin; the names. Raises OSError."""
        self._pins.generation.mkdir(exist_ok=True)
        return self._kept.restore(self._by_pin())

    def _by_pin(self) -> dict[str, int]:
        # Programs last: a directory that has all of them is complete.
        held = {f"map_{name}": fd for name, fd in self.maps.fds.items()}
        return held | {f"prog_{name}": fd for name, fd in self._programs.items()}

    def close(self) -> None:
        self.maps.close()
        while self._programs:
            os.close(self._programs.popitem()[1])
