"""Files that are not whole yet: nothing that is there is written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.io.partial import give_name, open_partial


def test_it_gets_its_name(tmp_path: Path) -> None:
    partial, path = tmp_path / "a.partial", tmp_path / "a"
    os.close(open_partial(partial, 0o600))
    assert partial.stat().st_mode & 0o777 == 0o600
    give_name(partial, path)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_nothing_is_written_over_or_followed(tmp_path: Path) -> None:
    victim, partial = tmp_path / "victim", tmp_path / "a.partial"
    victim.write_text("precious")
    partial.symlink_to(victim)
    with pytest.raises(FileExistsError):
        open_partial(partial)
    with pytest.raises(FileExistsError):
        give_name(partial, victim)
    assert victim.read_text() == "precious"
    assert partial.is_symlink()
