"""The gRPC door beside a bare grpc.aio handler and Triton, under NVIDIA's perf_analyzer.

`make bench-grpc` fetches both (see `tools`). Each server has processes of its own; nothing here
imports the appliance's door.
"""
