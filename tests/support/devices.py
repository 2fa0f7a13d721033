"""Documents of GPUs, as a status has them."""

from __future__ import annotations

from typing import Any


def device(which: str = "cuda:0", **changes: Any) -> dict[str, Any]:
    return {
        "device": which,
        "workers": ["gpu-0"],
        "source": "nvml",
        "name": "NVIDIA H200",
        "error": "",
        "is_idle": False,
        "holds": [],
        "slowdown": 1.0,
        "utilisation_percent": 87.0,
        "temperature_c": 61.0,
        "slow_from_c": 92.0,
        "clock_mhz": 1755.0,
        "max_clock_mhz": 1980.0,
        "memory_clock_mhz": 3201.0,
        "memory_used_bytes": 40 << 30,
        "memory_total_bytes": 140 << 30,
        "power_w": 312.4,
        "power_limit_w": 700.0,
        "ecc_corrected": 0,
        "ecc_uncorrected": 0,
        "xids": 0,
        "last_xid": None,
        "power_mode": None,
        "concerns": [],
        "age_s": 0.1,
        **changes,
    }
