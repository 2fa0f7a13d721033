"""CUDA, as little of it as an engine needs. The only room that knows pycuda and cuda-bindings.

`driver` says whether there is a GPU, before anything else is loaded; `ports` is what engines see,
so that a test can put something else in its place; `device` is the real one; `failures` (pure)
tells errors that cost a call from those that cost the process. `compiler` makes kernels of CUDA C;
`images` is the one that there is.

pycuda gives the context, device memory and pinned memory. cuda-bindings gives what pycuda has not:
graphs, capture, priorities, registered memory, and with them the streams, events and copies, which
have to be of one kind. Both act on the device's primary context, as TensorRT does.

Called by `engines.tensorrt`, in a worker process, from its one thread.
"""
