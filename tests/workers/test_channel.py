from __future__ import annotations

import pytest

from appliance.wire.worker import MAX_DATAGRAM
from appliance.workers.channel import Channel, open_channel


def test_messages_stay_whole_and_in_order() -> None:
    ours, theirs = open_channel()
    with theirs:
        assert ours.receive() is None
        assert not ours.closed
        for message in (b"one", b"two", b"x" * MAX_DATAGRAM):
            theirs.send(message)
        assert [ours.receive() for _ in range(4)] == [b"one", b"two", b"x" * MAX_DATAGRAM, None]
        ours.send(b"back")
        assert theirs.recv(MAX_DATAGRAM) == b"back"
    assert ours.receive() is None
    assert ours.closed
    ours.close()


def test_a_message_that_is_too_long_shows() -> None:
    ours, theirs = open_channel()
    with theirs:
        theirs.send(b"x" * (MAX_DATAGRAM + 100))
        message = ours.receive()
        assert message is not None
        assert len(message) == MAX_DATAGRAM + 1
    ours.close()


def test_what_was_said_is_heard_though_the_other_did_not_listen() -> None:
    ours, theirs = open_channel()
    theirs.send(b"last words")
    ours.send(b"unread")
    theirs.close()
    assert ours.receive() == b"last words"
    assert ours.receive() is None
    assert ours.closed
    ours.close()


def send_forever(channel: Channel) -> None:
    while True:
        channel.send(b"x" * 1000)


def test_sending_to_nobody_is_silent_and_to_a_full_socket_is_not() -> None:
    ours, theirs = open_channel()
    with theirs, pytest.raises(BlockingIOError):
        send_forever(ours)
    ours.send(b"nobody")
    ours.close()
