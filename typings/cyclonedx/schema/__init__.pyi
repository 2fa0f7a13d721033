from enum import Enum

class OutputFormat(Enum):
    JSON = ...

class SchemaVersion(Enum):
    V1_6 = ...
