"""TensorRT: engines are built here, from the `model.onnx` of a version.

`flavour` finds TensorRT, whichever there is, and knows what differs; `building` makes an engine;
`progress` (pure) says how far that is. Building needs no GPU with TensorRT for RTX. What was built
lies in a `models.engine_cache`. Only these modules know TensorRT, and import it where it is used.
Called by `appliance models build`.
"""
