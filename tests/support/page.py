"""An appliance with its page on a free port, for browsers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.box import Box, box
from support.ports import free_ports

CONFIG = """
{head}

[transport]
bind = ["tcp://127.0.0.1:{door}"]

[admin]
listen = "127.0.0.1:{page}"

[[workers]]
name = "policies"
models = ["arm"]

[[workers]]
name = "senses"
models = ["detector"]
{tail}
"""


@contextmanager
def page_box(models: Path, *, head: str = "", tail: str = "") -> Iterator[Box]:
    """Run an appliance that serves the models `arm` and `detector`; its page is at `url`."""
    door, page = free_ports()
    config = CONFIG.format(head=head, tail=tail, door=door, page=page)
    with box(models, config=config) as running:
        running.address = f"tcp://127.0.0.1:{door}"
        running.url = f"http://127.0.0.1:{page}/"
        yield running
