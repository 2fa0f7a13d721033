"""Trio edges without policy: ZeroMQ socket and monitor, timerfd, unix listener, sd_notify.

May import trio, zmq and `appliance.errors`; nothing of the house above. Called by the rooms that
own a socket, a listener or a timer: sessions, dispatch, workers, admin and app. An edge moves
bytes or time and counts what it did; what that means is decided by its caller.
"""
