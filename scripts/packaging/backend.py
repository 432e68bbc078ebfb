"""The build backend of pyproject.toml: setuptools, and on demand mypyc over the modules that setup.cfg lists.

    pip wheel .                                    a pure wheel
    pip wheel . --config-settings compiled=true    one with extensions for this Python

A setup.py has no place at the top level; setuptools runs the one that lies here.
"""

from __future__ import annotations

import configparser
import os
from typing import Any

from setuptools.build_meta import _BuildMetaBackend

SETTING = "compiled"
COMPILED = "ZTUN_BUILD_COMPILED"
"""Tells setup.py, which takes no arguments here."""
Settings = dict[str, Any] | None


class Backend(_BuildMetaBackend):  # type: ignore[misc]
    """As setuptools documents it for builds that a setup.py alone cannot express."""

    def run_setup(self, setup_script: str = "setup.py") -> None:
        super().run_setup(setup_script=os.path.join(os.path.dirname(__file__), setup_script))

    def get_requires_for_build_wheel(self, config_settings: Settings = None) -> list[str]:
        return [
            *super().get_requires_for_build_wheel(without_ours(config_settings)),
            *_compiler(config_settings),
        ]

    def get_requires_for_build_editable(self, config_settings: Settings = None) -> list[str]:
        return [
            *super().get_requires_for_build_editable(without_ours(config_settings)),
            *_compiler(config_settings),
        ]

    def build_wheel(
        self, wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
    ) -> str:
        choose(config_settings)
        return super().build_wheel(wheel_directory, without_ours(config_settings), metadata_directory)

    def build_editable(
        self, wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
    ) -> str:
        choose(config_settings)
        # The tree by a line of a .pth and not by a finder, which every start of a Python here would load: 25 ms.
        settings = {"editable_mode": "compat"} | without_ours(config_settings)
        return super().build_editable(wheel_directory, settings, metadata_directory)


def _compiler(settings: Settings) -> list[str]:
    """With the libraries that the code is typed by: what mypyc cannot see it treats as unknown."""
    if not is_compiled(settings):
        return []
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    lines = config["options"]["install_requires"] + config["options.extras_require"][SETTING]
    return [line for line in lines.splitlines() if line and not line.startswith("#")]


def choose(settings: Settings) -> None:
    os.environ[COMPILED] = "1" if is_compiled(settings) else ""


def is_compiled(settings: Settings) -> bool:
    """Whether the one setting there is asks for extensions. Anything that would do nothing is refused."""
    value = (settings or {}).get(SETTING, "false")
    if value not in ("true", "false"):
        raise ValueError(f"--config-settings {SETTING}={value}: want true or false")
    return bool(value == "true")


def without_ours(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in (settings or {}).items() if name != SETTING}


_backend = Backend()
build_editable = _backend.build_editable
build_sdist = _backend.build_sdist
build_wheel = _backend.build_wheel
get_requires_for_build_editable = _backend.get_requires_for_build_editable
get_requires_for_build_sdist = _backend.get_requires_for_build_sdist
get_requires_for_build_wheel = _backend.get_requires_for_build_wheel
prepare_metadata_for_build_editable = _backend.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = _backend.prepare_metadata_for_build_wheel
