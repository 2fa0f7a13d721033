"""Keys: who a client is, by the CURVE key its connection proves to hold.

`files` is what a key file holds, and who may be able to read it; `directory` is where the
appliance's own keys and its clients' public ones lie; `keyring` decides who may come; `zap` is how
libzmq asks (RFC 27); `z85` is how a key is written. No socket, no clock and no key is made here.
The server, the command line and the SDK use it; it imports `errors` only.
"""
