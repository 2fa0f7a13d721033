"""Images are slow and need root: `make test-image` tries them, `make test` leaves them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vm.box import what_is_missing
from vm.workshop import Workshop, open_workshop

WHEELS, ANSIBLE = "APPLIANCE_WHEELS", "APPLIANCE_ANSIBLE"
"""Environment variables: the appliance's wheels, and the directory of `ansible-playbook`."""

IMAGES = Path(__file__).parents[2] / ".build/images"

collect_ignore = [] if {WHEELS, ANSIBLE} <= {*os.environ} else ["test_image.py"]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """What makes images and bundles."""
    missing = what_is_missing()
    if missing:
        pytest.fail(missing, pytrace=False)
    wheels, ansible = (Path(os.environ[name]) for name in (WHEELS, ANSIBLE))
    return open_workshop(tmp_path_factory.mktemp("images"), IMAGES, wheels, ansible)
