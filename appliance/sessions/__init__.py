"""Door 1, the robots': a ZeroMQ ROUTER, its sessions, the session wire.

`ZmqDoor` receives, decodes and hands on to `dispatch`'s intake, and sends replies, never waiting
for anyone. `SessionTable` is who is there. `fastpath` does the same for observations like ones that
passed before. Called by the app only; imports `dispatch`, `wire`, `io`, `config` and `errors`.
"""
