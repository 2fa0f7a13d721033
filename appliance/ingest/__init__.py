"""Door 2: the Open Inference Protocol over gRPC, for clients that exist already.

`bridge` runs grpc.aio in the one thread of this package and carries calls to Trio and responses
back; `service` is what runs in that thread; `door` is Trio's side, where calls become requests like
those of the robots. May import dispatch and what is below it; `app` starts it.
"""
