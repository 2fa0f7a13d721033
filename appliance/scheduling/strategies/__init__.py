"""Other ways to choose than the default, and a user's own; by name.

A strategy says which requests of one lane a worker runs next (`scheduling.choice`); everything else
is the scheduler's, and `scheduling.guard` holds back what breaks its rules. `loading` finds one by
name and may import a user's module for it: not on the event loop. The others are PURE. Imports
`scheduling`'s vocabulary, `structure`, `errors` and `values`.
"""

from appliance.scheduling.strategies import (
    batch_optimized,
    priority_tiered,
    round_robin,
)
from appliance.scheduling.strategies.loading import GROUP, load_strategy
from appliance.scheduling.strategies.registry import register_policy, register_scheduler
from appliance.scheduling.strategies.scored import PolicyRequest, Said

__all__ = [
    "GROUP",
    "PolicyRequest",
    "Said",
    "batch_optimized",
    "load_strategy",
    "priority_tiered",
    "register_policy",
    "register_scheduler",
    "round_robin",
]
