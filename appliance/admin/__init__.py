"""The local admin door: HTTP and JSON on a unix socket, and the client that asks there.

`routes` says what can be asked, `http` speaks HTTP/1.1 over any Trio stream, `server` opens the
sockets; `page` is for browsers, with its files in `static/`. They know the house only through
`AdminSources`, which app fills in from `documents` and `timeline`. `client` is what the CLI calls:
standard library only, so that a command starts quickly. May import `appliance.io`.
"""
