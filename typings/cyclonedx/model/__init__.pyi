from collections.abc import Iterable
from enum import Enum

class ExternalReferenceType(str, Enum):
    DISTRIBUTION = "distribution"

class HashAlgorithm(str, Enum):
    SHA_256 = "SHA-256"

class HashType:
    def __init__(self, *, alg: HashAlgorithm, content: str) -> None: ...

class XsUri:
    def __init__(self, uri: str) -> None: ...

class Property:
    def __init__(self, *, name: str, value: str | None = ...) -> None: ...

class ExternalReference:
    def __init__(
        self, *, type: ExternalReferenceType, url: XsUri, hashes: Iterable[HashType] | None = ...
    ) -> None: ...
    @property
    def url(self) -> XsUri: ...
