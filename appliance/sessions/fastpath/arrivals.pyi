from collections.abc import Callable

import zmq

from appliance.dispatch.intake import Intake
from appliance.io.zmq_socket import Part
from appliance.sessions.table import Session

class Arrivals:
    received: int
    fast: int
    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        take: Callable[[list[Part], int, str], None],
        sessions: dict[bytes, Session],
        intake: Intake,
        clock: Callable[[], int],
        keyed: bool = False,
    ) -> None: ...
    def take_some(self, most: int, until_ns: int) -> int: ...
