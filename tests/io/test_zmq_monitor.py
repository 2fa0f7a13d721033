"""ConnectionMonitor against real connections, good and bad."""

import socket

import trio
import zmq
from attrs import asdict

from appliance.io.zmq_monitor import ConnectionMonitor


async def wait_for(monitor: ConnectionMonitor, **expected: int) -> None:
    """Wait until the counts named are reached; connections are libzmq's thread's business."""
    with trio.fail_after(10):
        while any(  # noqa: ASYNC110  # libzmq's thread tells no Trio event
            asdict(monitor.statistics())[name] < count for name, count in expected.items()
        ):
            await trio.sleep(0.005)


async def test_counts_peers_that_come_go_and_are_none() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        monitor = ConnectionMonitor(router)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        async with trio.open_nursery() as nursery:
            await nursery.start(monitor.run)
            with context.socket(zmq.DEALER) as peer:
                peer.connect(f"tcp://127.0.0.1:{port}")
                await wait_for(monitor, accepted=1, handshakes=1)
            await wait_for(monitor, disconnected=1)
            assert monitor.statistics().open == 0
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"\xff" * 64)
                await wait_for(monitor, accepted=2, handshakes_failed=1, disconnected=2)
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await wait_for(monitor, accepted=3)
            await wait_for(monitor, disconnected=3)
            router.close(linger=0)  # ends the monitor's task
        monitor.close()
        counts = monitor.statistics()
    assert counts.handshakes == 1
    assert counts.handshakes_refused == counts.accept_failed == 0


async def test_close_stops_watching() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        monitor = ConnectionMonitor(router)
        ended = []
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                try:
                    await monitor.run()
                except trio.ClosedResourceError:
                    ended.append(True)

            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            monitor.close()
        assert ended == [True]
        monitor.close()
