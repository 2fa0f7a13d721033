"""TensorRT: engines are built here from the `model.onnx` of a version, and run.

`flavour` finds TensorRT, whichever there is, and knows what differs; `order` says what is built of
a version, and for which GPUs; `building` makes an engine, of a file that `precision` may have
converted; `progress` (pure) says how far that is. Building needs no GPU with TensorRT for RTX. What
was built lies in a `models.engine_cache`; `choice` (pure) and `loading` find it there. `runtime`
holds TensorRT's own objects, `engine` runs batches with them on a `cuda.ports.Cuda`, `places` is
where their tensors lie, `tensors` (pure) knows shapes, `remedies` (pure) what to do about an engine
that is refused. Only `flavour`, `log`, `building` and `runtime` know TensorRT, and import it where
it is used. Called by `appliance models build` and, in a worker, by `registry`.
"""
