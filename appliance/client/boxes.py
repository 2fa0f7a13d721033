"""Which of several appliances to use: the first in the list that answers. PURE.

One is used until it says nothing for two heartbeats, its connection is over, or it drains. Then it
rests, longer each time, and the first one in the list that does not rest is next. What ranks before
the one in use is asked for a sign of life once in a heartbeat; after two in a row it is used again.
"""

from __future__ import annotations

from attrs import define, field

SILENT_HEARTBEATS = 2
LONGEST_RESTS = 8
SIGNS = 2
"""Heartbeats in a row that one has to answer before it is gone back to."""


@define(eq=False)
class Box:
    """What is known of one.

    Attributes:
        rests_until_ns: It is not gone to before, if another is not resting.
        rest_ns: How long it rests next time.
        signs: Heartbeats that it answered in a row, while another was in use.
    """

    address: str
    rest_ns: int
    rests_until_ns: int = 0
    signs: int = 0


@define(eq=False)
class Boxes:
    """See the module's docstring.

    Args:
        addresses: Best first.
        now_ns: The first one is used from now on.

    Attributes:
        current: Index of the one in use.
    """

    addresses: tuple[str, ...]
    heartbeat_ns: int
    now_ns: int
    current: int = field(default=0, init=False)
    _boxes: list[Box] = field(init=False)
    _joined_ns: int = field(init=False)
    _first_rest_ns: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        # So long that each of the others is tried before it, also if they say nothing.
        self._first_rest_ns = (SILENT_HEARTBEATS + 1) * self.heartbeat_ns * len(self.addresses)
        self._boxes = [Box(address, self._first_rest_ns) for address in self.addresses]
        self._joined_ns = self.now_ns

    @property
    def address(self) -> str:
        """Of the one in use."""
        return self.addresses[self.current]

    @property
    def better(self) -> tuple[str, ...]:
        """Those that rank before the one in use."""
        return self.addresses[: self.current]

    def is_silent(self, asked_ns: int | None, now_ns: int, *, up: bool) -> bool:
        """Return whether the one in use has said nothing for too long.

        Args:
            asked_ns: Since when something was sent and nothing heard; None: there is nothing to be
                said.
            up: The connection is there; if not, its silence began when it was joined.
        """
        since_ns = asked_ns if up else self._joined_ns
        return since_ns is not None and now_ns - since_ns >= SILENT_HEARTBEATS * self.heartbeat_ns

    def has_another(self, now_ns: int) -> bool:
        """Return whether another one does not rest."""
        return any(
            index != self.current and box.rests_until_ns <= now_ns
            for index, box in enumerate(self._boxes)
        )

    def leave(self, now_ns: int) -> None:
        """Let the one in use rest, and use the next."""
        left = self._boxes[self.current]
        left.rests_until_ns = now_ns + left.rest_ns
        left.rest_ns = min(2 * left.rest_ns, LONGEST_RESTS * self._first_rest_ns)
        left.signs = 0
        others = [box for box in self._boxes if box is not left] or [left]
        awake = [box for box in others if box.rests_until_ns <= now_ns]
        chosen = awake[0] if awake else min(others, key=lambda box: box.rests_until_ns)
        self._use(self._boxes.index(chosen), now_ns)

    def sign(self, address: str, now_ns: int, *, alive: bool) -> bool:
        """Note whether a better one answered a heartbeat; return whether it is used from now on."""
        index = self.addresses.index(address)
        box = self._boxes[index]
        box.signs = box.signs + 1 if alive else 0
        if index >= self.current or box.signs < SIGNS:
            return False
        self._use(index, now_ns)
        return True

    def _use(self, index: int, now_ns: int) -> None:
        self.current = index
        self._joined_ns = now_ns
        box = self._boxes[index]
        box.signs = 0

    def proved(self) -> None:
        """The one in use answers: its next rest is short again."""
        self._boxes[self.current].rest_ns = self._first_rest_ns
