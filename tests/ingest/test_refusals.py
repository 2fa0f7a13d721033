"""How refusals are told through the gRPC door."""

from __future__ import annotations

from appliance.errors import Outcome, Rejected
from appliance.ingest.status import message_of


def test_a_refusal_that_names_what_is_no_text_is_told_with_escapes() -> None:
    refused = Rejected(Outcome.INVALID, "/models/caf\udce9: é cannot be read")
    assert message_of(refused) == "/models/caf\\udce9: é cannot be read"
