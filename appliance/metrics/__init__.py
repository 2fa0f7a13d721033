"""What the appliance knows about itself: latencies, counters with causes, its own ledger.

`registry.py` is what the hot path records into, `ledger.py` counts requests and outcomes,
`client_record.py` those of one client,
`status.py` is the shape of the documents operators read, `exposition.py` writes OpenMetrics.
Time is passed in; imports only `appliance.errors`, numpy and attrs. The app records into it and
builds the status document from it; admin serves what it says; the CLI reads the documents.
"""
