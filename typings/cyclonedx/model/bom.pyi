from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from cyclonedx.model import Property
from cyclonedx.model.component import Component

class BomMetaData:
    def __init__(
        self,
        *,
        component: Component | None = ...,
        timestamp: datetime | None = ...,
        properties: Iterable[Property] | None = ...,
    ) -> None: ...

class Bom:
    def __init__(
        self,
        *,
        components: Iterable[Component] | None = ...,
        serial_number: UUID | None = ...,
        metadata: BomMetaData | None = ...,
    ) -> None: ...
    def register_dependency(
        self, target: Component, depends_on: Iterable[Component] | None = ...
    ) -> None: ...
