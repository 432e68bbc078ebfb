"""The Vagrantfile has a machine for each kernel of the table; where there is a Vagrant, it takes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernels.table import LINES, kernels

ROOT = Path(__file__).parents[2]
VAGRANTFILE = ROOT / "Vagrantfile"
# What Vagrant would call, in place of Vagrant: every machine, and what is provisioned on it.
LISTED = r"""
require "json"
class Anything
  def initialize(found, name) @found, @name = found, name end
  def vm() self end
  def define(name, **) yield Anything.new(@found, name) end
  def provision(name, **given) (@found[@name] ||= {})[name] = given end
  def provider(_) end
  def method_missing(*) end
  def respond_to_missing?(*) true end
end
module Vagrant
  def self.configure(_) found = {}; yield Anything.new(found, "all"); puts JSON.dump(found) end
end
load ARGV[0]
"""


@pytest.mark.skipif(shutil.which("ruby") is None, reason="needs ruby, which the Vagrantfile is written in")
def test_there_is_a_machine_for_each_kernel() -> None:
    done = subprocess.run(
        ["ruby", "-e", LISTED, str(VAGRANTFILE)], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    assert {name for name in found if name.startswith("kernel-")} == {f"kernel-{name}" for name, _ in LINES}
    for name, kernel in kernels().items():
        given = found[f"kernel-{name}"]["kernel"]
        assert given["args"] == [kernel.suite, *(f"{deb.package}={deb.version}" for deb in kernel.debs)]
        assert os.access(ROOT / given["path"], os.X_OK)


def test_it_takes_its_kernels_from_the_table() -> None:
    text = VAGRANTFILE.read_text()
    assert "tests/kernels/pins.json" in text and '"kernel-#{name}"' in text
    assert "/src/scripts/kernels --only running" in text and (ROOT / "tests/kernels/boot-into.sh").exists()


@pytest.mark.skipif(shutil.which("vagrant") is None, reason="needs vagrant (apt-get install vagrant)")
def test_vagrant_takes_it(tmp_path: Path) -> None:
    environment = os.environ | {
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "machines"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
