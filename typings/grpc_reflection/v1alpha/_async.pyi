from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

import grpc.aio

class ReflectionServicer:
    def __init__(self, service_names: Iterable[str]) -> None: ...
    def ServerReflectionInfo(
        self,
        request_iterator: AsyncIterator[Any],
        unused_context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncGenerator[Any]: ...
