"""PURE: what both doors do to a request before it may cost anything.

Identify the client, find the model, check every tensor against the model's spec, fill in what
the client left out (tier, budget, deadline), limit its rate. A refusal is a `Rejected` with its
outcome. Called by `appliance.dispatch`'s intake; imports `wire`, `config` and `errors` only.
"""
