from collections.abc import Iterable
from enum import Enum

from cyclonedx.contrib.license.factories import License
from cyclonedx.model import ExternalReference, Property
from packageurl import PackageURL

class ComponentType(str, Enum):
    APPLICATION = "application"
    LIBRARY = "library"

class Component:
    type: ComponentType
    external_references: set[ExternalReference]
    properties: set[Property]
    def __init__(
        self,
        *,
        name: str,
        version: str | None = ...,
        type: ComponentType = ...,
        bom_ref: str | None = ...,
        licenses: Iterable[License] | None = ...,
        purl: PackageURL | None = ...,
    ) -> None: ...
    @property
    def version(self) -> str | None: ...
