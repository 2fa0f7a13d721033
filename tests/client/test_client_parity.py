"""Code written for `inferential` 1.4.0 calls our SDK without a change."""

from __future__ import annotations

import inspect
import json
import os
import subprocess

import pytest

import appliance

PEER = os.environ.get("APPLIANCE_PEER_140", "")

REPORT = """
import inspect, json, inferential
print(json.dumps({
    f"{name}.{method}": [
        inspect.iscoroutinefunction(function),
        [[p.name, int(p.kind), repr(p.default)] for p in inspect.signature(function).parameters.values()],
    ]
    for name in ("Connection", "Model", "AsyncConnection", "AsyncModel")
    for method, function in vars(getattr(inferential, name)).items()
    if inspect.isfunction(function) and (not method.startswith("_") or method.startswith("__"))
    and (method != "__init__" or "Connection" in name)
}))
"""  # noqa: E501


@pytest.mark.skipif(not PEER, reason="APPLIANCE_PEER_140 names no Python with inferential 1.4.0")
def test_every_call_of_the_peer_is_accepted() -> None:
    done = subprocess.run([PEER, "-c", REPORT], capture_output=True, text=True, check=True)
    calls = json.loads(done.stdout)
    assert {"Connection.model", "Model.observe", "AsyncModel.get_result"} <= calls.keys()
    for call, (is_async, theirs) in calls.items():
        name, method = call.split(".")
        function = getattr(getattr(appliance, name), method)
        assert inspect.iscoroutinefunction(function) == is_async, call
        ours = list(inspect.signature(function).parameters.values())
        for position, (parameter, kind, default) in enumerate(theirs):
            mine = ours[position]
            assert int(mine.kind) == kind, call
            if mine.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
                assert (mine.name, repr(mine.default)) == (parameter, default), call
        assert all(mine.kind is inspect.Parameter.KEYWORD_ONLY for mine in ours[len(theirs) :]), (
            call
        )
