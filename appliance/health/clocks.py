"""How far a device's clocks are held down, out of its readings. PURE; one for each device.

A low clock alone says little: an idle device has one, and so has one that an administrator has
limited, whose times were measured like that. So the clock is compared only while the device says
that something holds it down, and with the one that it had lately when it was busy and nothing did.
"""

from __future__ import annotations

from attrs import define, field

from appliance.health.reading import DeviceHealth

FALL = 0.05
"""Weight of one reading where the usual clock falls; it rises at once."""

LEAST = 1.05
"""Below, it is how clocks are."""


@define(eq=False)
class Clocks:
    """See the module's docstring. An identity: it learns.

    Attributes:
        slowdown: By the latest reading: how much slower than usual the clock is; 1.0: it is free.
    """

    slowdown: float = field(default=1.0, init=False)
    _usual_mhz: float = field(default=0.0, init=False)

    def read(self, reading: DeviceHealth) -> float:
        """Take in a reading; return the slowdown."""
        clock_mhz = reading.clock_mhz
        if reading.error or not reading.holds:
            self.slowdown = 1.0
            if clock_mhz and not reading.error and not reading.is_idle:
                self._learn(clock_mhz)
        elif clock_mhz and not reading.is_idle:  # else it stays as it was
            usual_mhz = self._usual_mhz or reading.max_clock_mhz or clock_mhz
            slowdown = usual_mhz / clock_mhz
            self.slowdown = slowdown if slowdown >= LEAST else 1.0
        return self.slowdown

    def _learn(self, clock_mhz: float) -> None:
        if clock_mhz >= self._usual_mhz:
            self._usual_mhz = clock_mhz
        else:
            self._usual_mhz += FALL * (clock_mhz - self._usual_mhz)
