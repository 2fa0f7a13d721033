"""Images are slow and need root: `make test` leaves them out.

`make test-image` tries the one for x86, `make test-arm64` the one for Jetson.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vm.box import what_is_missing
from vm.workshop import Workshop, open_workshop

WHEELS, ANSIBLE = "APPLIANCE_WHEELS", "APPLIANCE_ANSIBLE"
"""Environment variables: the appliance's wheels, and the directory of `ansible-playbook`."""

ARM64_RELEASE = "APPLIANCE_ARM64_RELEASE"
"""Environment variable: a release for arm64 and the Python of Debian 12, signed or not."""

IMAGES = Path(__file__).parents[2] / ".build/images"

collect_ignore = [] if {WHEELS, ANSIBLE} <= {*os.environ} else ["test_image.py"]
if not {ARM64_RELEASE, ANSIBLE} <= {*os.environ}:
    collect_ignore += ["test_arm64.py"]


@pytest.fixture(scope="session")
def kept() -> Path:
    """Where what was fetched is kept from run to run."""
    return IMAGES


@pytest.fixture(scope="session")
def arm64_release() -> Path:
    """The folder of a release for arm64."""
    return Path(os.environ[ARM64_RELEASE])


@pytest.fixture(scope="session")
def workshop(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """What makes images and bundles."""
    missing = what_is_missing()
    if missing:
        pytest.fail(missing, pytrace=False)
    wheels, ansible = (Path(os.environ[name]) for name in (WHEELS, ANSIBLE))
    return open_workshop(tmp_path_factory.mktemp("images"), kept, wheels, ansible)
