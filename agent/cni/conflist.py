"""A node's CNI configuration with ztun-cni chained in, or taken out of it again: pure, from text to text.

Runtimes read the first file of their directory, in the order of names, that is a valid network configuration. Ours is
put last in its `plugins`, where everything else that makes the pod's interface is done; all other plugins and keys stay
as they are. A file of one plugin (`.conf`) becomes a list of two.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

PLUGIN_TYPE = "ztun-cni"
OWN_NAME = "00-ztun.conflist"
"""In the variant of its own: before every other in the order of names."""
SUFFIXES = (".conf", ".conflist", ".json")
_OLDEST = "0.3.1"


class NoConfiguration(Exception):
    """A file that is no network configuration; the text says why."""


def parsed(text: str) -> dict[str, Any]:
    """A configuration as a list of plugins. Raises NoConfiguration."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise NoConfiguration(f"it is no JSON: {error}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise NoConfiguration("it has no name")
    if "plugins" not in raw:
        if not isinstance(raw.get("type"), str):
            raise NoConfiguration("it has neither plugins nor a type")
        version = raw.get("cniVersion", _OLDEST)
        alone = {key: value for key, value in raw.items() if key not in ("cniVersion", "name")}
        return {"cniVersion": version, "name": raw["name"], "plugins": [alone]}
    plugins = raw["plugins"]
    if not isinstance(plugins, list) or not plugins or not all(_is_plugin(each) for each in plugins):
        raise NoConfiguration("its plugins are no list of objects with a type")
    return raw


def chained(text: str, plugin: Mapping[str, Any]) -> str:
    """With ours as the last plugin; the text itself where that is so already. Raises NoConfiguration."""
    config = parsed(text)
    others = [each for each in config["plugins"] if each["type"] != PLUGIN_TYPE]
    if not others:
        raise NoConfiguration(
            f"it has no plugin besides {PLUGIN_TYPE}: which one makes the pods' interfaces?"
        )
    wanted = config | {"plugins": [*others, {"type": PLUGIN_TYPE, **plugin}]}
    return text if wanted == json.loads(text) else _written(wanted)


def unchained(text: str) -> str:
    """Without ours, empty where nothing else is in there. Raises NoConfiguration."""
    config = parsed(text)
    others = [each for each in config["plugins"] if each["type"] != PLUGIN_TYPE]
    return _written(config | {"plugins": others}) if others else ""


def is_chained(text: str) -> bool:
    try:
        return any(each["type"] == PLUGIN_TYPE for each in parsed(text)["plugins"])
    except NoConfiguration:
        return False


def first(files: Mapping[str, str], passed_over: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """The name of the configuration that a runtime uses, and what is wrong with each before it.

    `files`: name -> text. Empty: there is none.
    """
    broken: dict[str, str] = {}
    for name in sorted(files.keys() - set(passed_over)):
        if not name.endswith(SUFFIXES):
            continue
        try:
            parsed(files[name])
        except NoConfiguration as error:
            broken[name] = str(error)
        else:
            return name, broken
    return "", broken


def _is_plugin(raw: object) -> bool:
    return isinstance(raw, dict) and isinstance(raw.get("type"), str)


def _written(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2) + "\n"
