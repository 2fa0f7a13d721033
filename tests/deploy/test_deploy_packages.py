"""Debian packages on a box that knows of none, as it comes from many clouds."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from deploy.lab import Lab, Robot, recap
from deploy.serving import FIRST
from deploy.workshop import Workshop

CONTROL = """\
Package: greeting
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: says nothing
"""


def make_source(folder: Path) -> None:
    """Make a source of packages that has one."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "greeting/DEBIAN").mkdir(parents=True)
    (folder / "greeting/DEBIAN/control").write_text(CONTROL)
    made = folder / "greeting.deb"
    subprocess.run(["dpkg-deb", "--build", folder / "greeting", made], check=True, timeout=60)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    about = f"Filename: ./{made.name}\nSize: {made.stat().st_size}\nSHA256: {digest}\n"
    (folder / "Packages").write_text(CONTROL + about)


def test_lists_of_packages_are_fetched_where_there_are_none(
    network: Lab, robot: Robot, workshop: Workshop
) -> None:
    make_source(robot.machine.root / "srv/source")
    robot.machine.write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/source ./\n")
    run = robot.machine.run
    run("rm", "--recursive", "--force", "/etc/apt/sources.list.d")
    run("find", "/var/lib/apt/lists", "-type", "f", "-delete")
    variables = workshop.variables(
        workshop.release(FIRST), base_install_packages=True, base_packages=["greeting"]
    )

    def installed() -> str:
        return run("dpkg-query", "--show", "greeting", check=False).stdout

    for options in (("--check",), (), ()):
        done = network.play("site.yml", variables, *options)
        assert done.returncode == 0, done.stdout
        assert bool(installed()) == (not options)
    counts = recap(done.stdout)[robot.name]
    assert (counts["changed"], counts["rescued"]) == (0, 0), done.stdout
