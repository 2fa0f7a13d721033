import grpc.aio
from grpc_reflection.v1alpha._async import ReflectionServicer

def add_ServerReflectionServicer_to_server(
    servicer: ReflectionServicer, server: grpc.aio.Server
) -> None: ...
