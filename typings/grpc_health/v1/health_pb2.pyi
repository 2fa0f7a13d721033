class HealthCheckRequest:
    service: str

class HealthCheckResponse:
    SERVING: int
    NOT_SERVING: int
    SERVICE_UNKNOWN: int
    def __init__(self, *, status: int) -> None: ...
