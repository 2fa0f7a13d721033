import zmq

from appliance.dispatch.endings import Endings
from appliance.dispatch.results import BatchResult
from appliance.scheduling.events import Answer, Batch

class Answers:
    sent: int
    def __init__(self, socket: zmq.Socket[bytes], *, endings: Endings, instance: int) -> None: ...
    def send(
        self, answers: list[Answer], result: BatchResult, batch: Batch, now_ns: int
    ) -> list[Answer]: ...
