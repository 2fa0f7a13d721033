class HealthCheckRequest:
    service: str

class HealthCheckResponse:
    SERVING: int
    NOT_SERVING: int
