"""Door 2: the Open Inference Protocol over gRPC, for clients that exist already.

`bridge` runs grpc.aio, which is asyncio's, inside Trio and carries calls one way and responses the
other; `service` is what asyncio runs; `door` is Trio's side, where calls become requests like those
of the robots. May import dispatch and what is below it; `app` starts it.
"""
