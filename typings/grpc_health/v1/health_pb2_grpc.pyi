import grpc.aio
from grpc_health.v1._aio import HealthServicer

def add_HealthServicer_to_server(servicer: HealthServicer, server: grpc.aio.Server) -> None: ...
