from grpc_health.v1 import _aio as aio

SERVICE_NAME: str
__all__ = ["SERVICE_NAME", "aio"]
