"""Runs an unmodified `tritonclient` against an address; prints what it got as JSON.

Executed by that client's own interpreter: `python triton_client.py ADDRESS MODEL INPUT OUTPUT`.
Reads float32 rows as JSON lists from standard input, one a line.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, shared_memory

address, model, key, name = sys.argv[1:]
rows = np.array([json.loads(line) for line in sys.stdin], np.float32)


def inputs(values: np.ndarray, datatype: str = "FP32") -> list[triton.InferInput]:
    made = triton.InferInput(key, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return [made]


def output(result: triton.InferResult) -> list:
    return result.as_numpy(name).tolist()


def status(call) -> str:
    try:
        call()
    except InferenceServerException as error:
        return error.status()
    return "OK"


def repository() -> dict:
    """Change what is served."""
    client = triton.InferenceServerClient(address)

    def served() -> dict:
        index = client.get_model_repository_index(as_json=True)["models"]
        return {each["name"]: each["state"] for each in index}

    client.load_model("extra")
    loaded, answered = served(), output(client.infer("extra", inputs(rows[:1])))
    client.unload_model("extra")
    return {
        "loaded": loaded,
        "answered": answered,
        "unloaded": served(),
        "gone": status(lambda: client.infer("extra", inputs(rows[:1]))),
        "nowhere": status(lambda: client.load_model("nonesuch")),
    }


def sync() -> dict:
    client = triton.InferenceServerClient(address)
    unary = [output(client.infer(model, inputs(row[None]), request_id="7")) for row in rows]
    batch = client.infer(
        model, inputs(rows[:8]), request_id="batch", outputs=[triton.InferRequestedOutput(name)]
    )
    largest = client.infer(
        model, inputs(rows[:1]), outputs=[triton.InferRequestedOutput(name, class_count=2)]
    )
    heard: queue.Queue = queue.Queue()
    for index, row in enumerate(rows):
        client.async_infer(
            model,
            inputs(row[None]),
            lambda result, error, index=index: heard.put((index, result, error)),
        )
    answered = sorted((heard.get(timeout=10) for _ in rows), key=lambda each: each[0])
    metadata = client.get_model_metadata(model, as_json=True)
    config = client.get_model_config(model, as_json=True)["config"]
    statistics = client.get_inference_statistics(model, as_json=True)["model_stats"][0]
    index = client.get_model_repository_index(as_json=True)["models"]
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "other_ready": status(lambda: client.is_model_ready("nonesuch")),
        "server": client.get_server_metadata(as_json=True),
        "metadata": metadata,
        "config": config,
        "statistics": statistics,
        "index": index,
        "unary": unary,
        "batch": output(batch),
        "batch_id": batch.get_response().id,
        "classes": [each.decode() for each in largest.as_numpy(name).reshape(-1)],
        "async": [output(result) for _, result, _ in answered],
        "wrong_model": status(lambda: client.infer("nonesuch", inputs(rows[:1]))),
        "wrong_shape": status(lambda: client.infer(model, inputs(rows[:1, :3]))),
        "wrong_type": status(
            lambda: client.infer(model, inputs(rows[:1].astype(np.float64), "FP64"))
        ),
        "wrong_output": status(
            lambda: client.infer(
                model, inputs(rows[:1]), outputs=[triton.InferRequestedOutput("nonesuch")]
            )
        ),
        "too_many": status(lambda: client.infer(model, inputs(np.tile(rows, (9, 1))))),
    }


def stream() -> dict:
    client = triton.InferenceServerClient(address)
    heard: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)))
    for index, row in enumerate(rows):
        client.async_stream_infer(model, inputs(row[None]), request_id=str(index))
    client.async_stream_infer("nonesuch", inputs(rows[:1]), request_id="bad")
    client.async_stream_infer(model, inputs(rows[:1]), request_id="after")
    results = [heard.get(timeout=10) for _ in range(len(rows) + 2)]
    client.stop_stream()
    good = [result for result, error in results if error is None]
    return {
        "ids": [result.get_response().id for result in good],
        "outputs": [output(result) for result in good],
        "finals": all(
            result.get_response().parameters["triton_final_response"].bool_param for result in good
        ),
        "errors": [str(error) for _, error in results if error is not None],
    }


async def aio() -> dict:
    async with triton_aio.InferenceServerClient(address) as client:
        results = await asyncio.gather(*(client.infer(model, inputs(row[None])) for row in rows))

        async def requests() -> AsyncIterator[dict]:
            for index, row in enumerate(rows):
                yield {"model_name": model, "inputs": inputs(row[None]), "request_id": str(index)}

        streamed = [output(result) async for result, _ in client.stream_infer(requests())]
    return {"unary": [output(result) for result in results], "stream": streamed}


def shared() -> dict:
    client = triton.InferenceServerClient(address)
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    size = rows[:8].nbytes
    source = shared_memory.create_shared_memory_region("source", "/triton-source", size)
    target = shared_memory.create_shared_memory_region("target", "/triton-target", size)
    try:
        shared_memory.set_shared_memory_region(source, [rows[:8]])
        client.register_system_shared_memory("source", "/triton-source", size)
        client.register_system_shared_memory("target", "/triton-target", size)
        status_then = client.get_system_shared_memory_status(as_json=True)
        asks = triton.InferInput(key, [8, rows.shape[1]], "FP32")
        asks.set_shared_memory("source", size)
        wants = triton.InferRequestedOutput(name)
        wants.set_shared_memory("target", size)
        result = client.infer(model, [asks], outputs=[wants])
        given = result.get_output(name)
        got = shared_memory.get_contents_as_numpy(target, np.float32, list(given.shape)).tolist()
        twice = status(
            lambda: client.register_system_shared_memory("source", "/triton-source", size)
        )
        asks.set_shared_memory("nonesuch", size)
        unknown = status(lambda: client.infer(model, [asks]))
        asks.set_shared_memory("source", size, 4)
        beyond = status(lambda: client.infer(model, [asks]))
        client.unregister_system_shared_memory("source")
        client.unregister_system_shared_memory("target")
    finally:
        shared_memory.destroy_shared_memory_region(source)
        shared_memory.destroy_shared_memory_region(target)
    return {
        "status": sorted(status_then["regions"]),
        "batch": got,
        "twice": twice,
        "unknown": unknown,
        "beyond": beyond,
    }


found = {
    "shared": shared(),
    "sync": sync(),
    "stream": stream(),
    "aio": asyncio.run(aio()),
    "repository": repository(),
}
print(json.dumps(found))
