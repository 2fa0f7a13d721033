"""What goes wrong with a deploy: it says so, and the robot still serves what it served."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.playbooks import PLAYBOOKS

from deploy.lab import Lab, Robot, recap
from deploy.serving import FIRST, is_healthy, refuses, served
from deploy.signed_releases import new_key, sign
from deploy.workshop import Workshop
from tools.release.archive import write_sums

SECOND = "1.1.0"
SWITCHES_S = 60
ROOM_MB = 150
NEVER_LOADS = (
    '        self.state = "standby"\n',
    '        raise RuntimeError("it cannot stand by")\n',
)
IMPORTS_WHAT_IS_NOT_THERE = ("import structlog\n", "import structlog\nimport not_there\n")
Damage = Callable[[Path, Path], None]


@pytest.fixture
def second(workshop: Workshop) -> Path:
    return workshop.release(SECOND)


def switches(robot: Robot) -> bool:
    """Return whether the next one stands by, or serves on trial."""
    words = ("systemctl", "is-active", "--quiet", "appliance-next")
    return robot.machine.run(*words, check=False).returncode == 0


def rename_tar(release: Path, before: str, after: str) -> None:
    (tar,) = release.glob("*.tar")
    write_sums(release, [tar.rename(release / tar.name.replace(before, after))])


def other_architecture(release: Path, key: Path) -> None:
    rename_tar(release, "x86_64", "aarch64")
    sign(release, key)


def other_python(release: Path, key: Path) -> None:
    rename_tar(release, "cp311", "cp310")
    sign(release, key)


def flipped_byte(release: Path, _: Path) -> None:
    (tar,) = release.glob("*.tar")
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.unlink()
    tar.write_bytes(content)


def unsigned(release: Path, _: Path) -> None:
    (release / "SHA256SUMS.sig").unlink()


def signed_by_another(release: Path, _: Path) -> None:
    sign(release, new_key(release.parent / "another"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (other_architecture, "wrong architecture: this robot is x86_64 with cp311"),
        (other_python, "wrong Python: this robot is x86_64 with cp311, the release is for cp310"),
        (flipped_byte, "was damaged or changed"),
        (unsigned, "is not signed"),
        (signed_by_another, "is signed by a key that"),
    ],
)
def test_a_bad_release(
    network: Lab,
    robot: Robot,
    workshop: Workshop,
    second: Path,
    tmp_path: Path,
    damage: Damage,
    words: str,
) -> None:
    bad = Path(shutil.copytree(second, tmp_path / second.name))
    damage(bad, workshop.key)
    refuses(network, robot, workshop.variables(bad), words)


def test_a_box_that_was_installed_by_hand(
    network: Lab, robot: Robot, workshop: Workshop, second: Path
) -> None:
    run, current = robot.machine.run, "/opt/appliance/current"
    configuration = robot.machine.root / "etc/appliance/appliance.toml"
    release, deployment = (
        run("readlink", "--canonicalize", path).stdout.strip()
        for path in (f"{current}/release", current)
    )
    text = run("cat", f"{current}/appliance.toml").stdout
    run("rm", current, "/etc/appliance/appliance.toml")
    run("mkdir", current)
    run("ln", "--symbolic", release, f"{current}/release")
    configuration.write_text(text)
    refuses(network, robot, workshop.variables(second), "This box was installed by hand")
    assert not configuration.is_symlink()
    assert configuration.read_text() == text

    run("rm", "--recursive", current)
    run("ln", "--symbolic", deployment.replace("/opt/appliance/", ""), current)
    done = network.play("deploy.yml", workshop.variables(second))
    assert done.returncode == 0, done.stdout
    assert is_healthy(robot, SECOND)
    kept = configuration.with_name("appliance.toml.before")
    assert kept.read_text() == text
    kept.unlink()


def test_a_configuration_that_cannot_be_used(
    network: Lab, robot: Robot, workshop: Workshop, second: Path
) -> None:
    variables = workshop.variables(second, appliance_config_extra='[arena]\nbytes = "many"\n')
    refuses(network, robot, variables, 'arena.bytes: found "many"')


def test_a_release_that_cannot_be_imported(network: Lab, robot: Robot, workshop: Workshop) -> None:
    broken = workshop.release("1.2.0", app=IMPORTS_WHAT_IS_NOT_THERE)
    words = "the appliance does not start in it"
    refuses(network, robot, workshop.variables(broken), words)


def test_a_release_that_never_loads(network: Lab, robot: Robot, workshop: Workshop) -> None:
    broken = workshop.release("1.3.0", app=NEVER_LOADS)
    refuses(network, robot, workshop.variables(broken), "has served all the while")


def test_a_new_model_that_is_not_good(
    network: Lab, robot: Robot, workshop: Workshop, second: Path, tmp_path: Path
) -> None:
    models = Path(shutil.copytree(workshop.models, tmp_path / "models"))
    shutil.copytree(models / "clock", models / "broken")
    (models / "broken/1/policy.py").write_text("import not_there\n")
    variables = workshop.variables(second, appliance_models=str(models))
    refuses(network, robot, variables, "No module named 'not_there'")
    repository = robot.machine.root / "var/lib/appliance/models"
    assert not [*repository.glob("broken"), *repository.glob(".incoming/*")]


def test_what_other_runs_carry_stays_until_it_is_old(
    network: Lab, robot: Robot, workshop: Workshop, tmp_path: Path
) -> None:
    models = Path(shutil.copytree(workshop.models, tmp_path / "models"))
    shutil.copytree(models / "clock", models / "second-clock")
    root, run = robot.machine.root, robot.machine.run
    places = ("opt/appliance/incoming", "var/lib/appliance/models/.incoming")
    for place in places:
        run("mkdir", "--parents", f"/{place}/under-way", f"/{place}/cut-off")
        run("touch", f"/{place}/under-way/half", f"/{place}/cut-off/half")
        run("touch", "--date=2 days ago", f"/{place}/cut-off")
    release = workshop.release("1.6.0")
    done = network.play("deploy.yml", workshop.variables(release, appliance_models=str(models)))
    assert done.returncode == 0, done.stdout
    assert is_healthy(robot, "1.6.0")
    for place in places:
        left = [str(each.relative_to(root / place)) for each in (root / place).rglob("*")]
        assert sorted(left) == ["under-way", "under-way/half"]
        run("rm", "--recursive", f"/{place}/under-way")


def test_a_full_disk(network: Lab, robot: Robot, workshop: Workshop) -> None:
    """What is written to the folder of releases goes to a small file system over it."""
    run, releases = robot.machine.run, "/opt/appliance/releases"
    run("mkdir", "/mnt/small")
    run("mount", "-t", "tmpfs", "-o", f"size={ROOM_MB}m", "small", "/mnt/small")
    run("mkdir", "/mnt/small/upper", "/mnt/small/work")
    how = f"lowerdir={releases},upperdir=/mnt/small/upper,workdir=/mnt/small/work"
    run("mount", "-t", "overlay", "-o", how, "small", releases)
    try:
        release = workshop.release("1.4.0")
        refuses(network, robot, workshop.variables(release), "the disk is full")
    finally:
        run("umount", releases)
        run("umount", "/mnt/small")
        run("rmdir", "/mnt/small")


@pytest.fixture
def under_way(
    network: Lab, robot: Robot, workshop: Workshop, second: Path
) -> Iterator[Future[subprocess.CompletedProcess[str]]]:
    """A deploy whose switch has begun, and is held up."""
    variables = workshop.variables(second, appliance_hold_s=10)
    with ThreadPoolExecutor(1) as pool:
        deploy = pool.submit(network.play, "deploy.yml", variables)
        robot.machine.wait_until(
            lambda: switches(robot) or deploy.done(), SWITCHES_S, "the switch begins"
        )
        assert not deploy.done(), deploy.result().stdout
        yield deploy


def test_two_deploys_at_once(
    network: Lab,
    robot: Robot,
    workshop: Workshop,
    under_way: Future[subprocess.CompletedProcess[str]],
) -> None:
    late = network.play("rollback.yml", workshop.variables(workshop.release(FIRST)))
    assert late.returncode != 0
    assert "another deploy is under way here" in late.stdout
    assert under_way.result().returncode == 0, under_way.result().stdout
    assert is_healthy(robot, SECOND)


def test_a_robot_that_drops_off(
    network: Lab,
    robot: Robot,
    workshop: Workshop,
    second: Path,
    under_way: Future[subprocess.CompletedProcess[str]],
) -> None:
    with network.unplugged(robot):
        lost = under_way.result()
        assert lost.returncode != 0
        assert recap(lost.stdout)[robot.name]["unreachable"] == 1, lost.stdout
        robot.machine.wait_until(
            lambda: is_healthy(robot, SECOND), SWITCHES_S, "it finishes by itself"
        )
    again = network.play("deploy.yml", workshop.variables(second))
    assert again.returncode == 0, again.stdout
    assert recap(again.stdout)[robot.name]["changed"] == 0, again.stdout


def test_a_power_cut_before_it_is_proven(
    robot: Robot, under_way: Future[subprocess.CompletedProcess[str]]
) -> None:
    box, root = robot.machine, robot.machine.root / "opt/appliance"

    def is_current() -> bool:
        return (root / "current").readlink().name.startswith(f"{SECOND}-")

    box.wait_until(is_current, SWITCHES_S, "the next one is current")
    box.cut_power()
    assert under_way.result().returncode != 0
    assert (root / "trial").exists()
    assert is_current()
    box.boot()
    took_s = box.wait_until(lambda: is_healthy(robot, FIRST), SWITCHES_S, "the proven one serves")
    print(f"\nserves {took_s:.1f} s after it has booted")
    assert "the machine went down before its deployment was proven" in box.run("journalctl").stdout
    assert not is_current()
    assert not (root / "trial").exists()


def test_one_that_is_to_see_the_systems_packages_is_installed_beside(
    network: Lab, robot: Robot, workshop: Workshop
) -> None:
    first = workshop.release(FIRST)
    for sees in (True, False):
        variables = workshop.variables(first, appliance_system_site_packages=sees)
        done = network.play("deploy.yml", variables)
        assert done.returncode == 0, done.stdout
        assert recap(done.stdout)[robot.name]["changed"] > 0
        name = f"{FIRST}-system" if sees else FIRST
        release = robot.machine.run("readlink", "--canonicalize", "/opt/appliance/current/release")
        assert release.stdout == f"/opt/appliance/releases/{name}\n"
        assert is_healthy(robot, FIRST)


def test_with_a_door_for_grpc(network: Lab, robot: Robot, workshop: Workshop, second: Path) -> None:
    """The next one takes both doors over; paths are named from the playbooks."""
    for release in (workshop.release(FIRST), second):
        variables = workshop.variables(release, appliance_grpc_bind="127.0.0.1:8001")
        for name in ("appliance_release", "appliance_allowed_signers", "appliance_models"):
            variables[name] = os.path.relpath(variables[name], PLAYBOOKS)
        variables["appliance_release"] += "/"
        done = network.play("deploy.yml", variables)
        assert done.returncode == 0, done.stdout
    assert is_healthy(robot, SECOND)
    assert "grpc://127.0.0.1:8001" in served(robot)["binds"]
