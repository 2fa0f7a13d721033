"""Status documents as the app builds them."""

from __future__ import annotations

from typing import Any

STAGES = ("age", "queue", "batch", "execute", "reply", "total", "slack", "lateness")

Document = dict[str, Any]


def latency(count: int = 100, p50: int = 1200, p99: int = 3400) -> Document:
    return {"count": count, "p50": p50, "p90": p50, "p99": p99, "p99_9": p99, "max": p99}


def model(name: str = "policy", **changes: Any) -> Document:
    return {
        "name": name,
        "version": "3",
        "state": "ready",
        "error": None,
        "workers": ["cpu-0"],
        "resident": ["cpu-0"],
        "memory_bytes": 64 << 20,
        "loads": 0,
        "evictions": 0,
        "queued": 4,
        "rows": 120,
        "batch_size_mean": 1.5,
        "latency_us": {stage: latency() for stage in STAGES},
        "outcomes": {"OK": 120},
        **changes,
    }


def worker(slot: str = "cpu-0", **changes: Any) -> Document:
    return {
        "slot": slot,
        "device": "cpu",
        "generation": 1,
        "state": "ready",
        "pid": 4321,
        "models": ["policy"],
        "restarts": 0,
        "last_cause": None,
        "rows_started": 121,
        "rows_finished": 120,
        "rows_failed": 1,
        "busy": True,
        "resident": ["policy"],
        "resident_bytes": 64 << 20,
        "budget_bytes": 0,
        "remarks": [],
        "rss_bytes": 50 << 20,
        **changes,
    }


def status(**changes: Any) -> Document:
    return {
        "state": "ready",
        "reasons": [],
        "appliance_id": "hall-2",
        "version": "0.1.0",
        "instance": "beef",
        "pid": 99,
        "uptime_s": 3720.0,
        "config_error": "",
        "pending": [],
        "binds": ["tcp://127.0.0.1:5555"],
        "requests": {
            "asked": 125,
            "answered": 120,
            "in_flight": 2,
            "queued": 1,
            "per_second": 45.21,
            "late": 7,
        },
        "outcomes": {"SUPERSEDED": 3, "OK": 120},
        "replies_lost": {},
        "latency_us": {stage: latency() for stage in STAGES},
        "models": [model()],
        "workers": [worker()],
        "devices": [],
        "connections_refused": {},
        "clients": {
            "connected": 12,
            "known": 15,
            "disconnects": 3,
            "first_dry": {"id": "arm-4", "runs_dry_in_ms": 35.2},
        },
        "arena": {"bytes": 256 << 20, "used": 3 << 20, "peak": 9 << 20},
        "timer_lateness_us": latency(p50=74, p99=210),
        "ledger": {
            "asked": 125,
            "ended": 123,
            "in_flight": 2,
            "rows_finished": 120,
            "ok": 120,
            "wasted": {},
            "balanced": True,
        },
        **changes,
    }


def client(name: str = "arm-1", **changes: Any) -> Document:
    return {
        "id": name,
        "door": "robots",
        "session": "00ff",
        "type": "arm",
        "protocol": 1,
        "tier": 1,
        "connected": True,
        "cadence_hz": 49.96,
        "jitter_ms": 0.4,
        "observations": 1000,
        "answered": 990,
        "late": 5,
        "misses": 6,
        "last_outcome": "OK",
        "slack_ms": 12.5,
        "runs_dry_in_ms": 35.0,
        "overdue_ms": None,
        "silent_s": 0.01,
        "queued": 1,
        "address": "tcp://10.0.0.7",
        **changes,
    }
