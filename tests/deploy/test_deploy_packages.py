"""Debian packages on boxes of which one knows of none, as it comes from many clouds."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from deploy.lab import Robot, lab, recap
from deploy.machines import Machine
from deploy.serving import FIRST, served
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


def begin(box: Machine, *, knows: bool) -> None:
    """Give a box that source alone; only if it knows, it has its lists of packages, too."""
    make_source(box.root / "srv/source")
    box.write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/source ./\n")
    box.run("rm", "--recursive", "--force", "/etc/apt/sources.list.d")
    box.run("find", "/var/lib/apt/lists", "-type", "f", "-delete")
    if knows:
        box.run("apt-get", "update")


def has_package(robot: Robot) -> bool:
    asked = robot.machine.run("dpkg-query", "--show", "greeting", check=False)
    return asked.returncode == 0


def test_lists_of_packages_are_fetched_where_there_are_none(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Of two boxes one has them already, and is deployed to like the other."""
    variables = workshop.variables(
        workshop.release(FIRST), base_install_packages=True, base_packages=["greeting"]
    )
    with lab(2, workshop.layers, tmp_path, workshop.ansible, workshop.ssh) as network:
        canary, other = network.robots
        begin(canary.machine, knows=False)
        begin(other.machine, knows=True)

        # What is let pass on a box that knows no packages is not let pass on one that is away.
        with network.unplugged(other):
            done = network.play("site.yml", variables)
        assert done.returncode != 0, done.stdout
        assert not served(canary)

        for options in (("--check",), (), ()):
            done = network.play("site.yml", variables, *options)
            assert done.returncode == 0, done.stdout
            for robot in network.robots:
                assert has_package(robot) == (not options), done.stdout
                assert bool(served(robot)) == (not options), done.stdout
        assert {each["changed"] for each in recap(done.stdout).values()} == {0}, done.stdout
        assert "with new lists" not in done.stdout
