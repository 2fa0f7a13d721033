"""What the protocol says of the server and its models."""

from __future__ import annotations

from appliance import __version__
from appliance.admission.catalog import Catalog, Served
from appliance.wire.inference import METADATA, NAMES, input_name, is_file
from appliance.wire.pb import inference_pb2
from appliance.wire.spec import InputSpec, ModelSpec
from appliance.wire.types import DType

EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_configuration",
    "statistics",
)
PLATFORM = "appliance"
BATCH = -1
"""The batch dimension in metadata, which any request may choose."""

CONFIG_TYPES: dict[str, str] = {"BYTES": "TYPE_STRING"}
"""Types that have another name in a model's configuration."""


def server_metadata(*, shared_memory: bool) -> inference_pb2.ServerMetadataResponse:
    """Return what there is to know of the server."""
    extensions = [*EXTENSIONS, "system_shared_memory"] if shared_memory else EXTENSIONS
    return inference_pb2.ServerMetadataResponse(
        name="appliance", version=__version__, extensions=extensions
    )


def model_metadata(spec: ModelSpec) -> inference_pb2.ModelMetadataResponse:
    """Return what a model takes and gives, with the batch dimension in front."""
    metadata = inference_pb2.ModelMetadataResponse.TensorMetadata
    return inference_pb2.ModelMetadataResponse(
        name=spec.model_id,
        versions=[spec.version],
        platform=PLATFORM,
        inputs=[
            metadata(name=input_name(each), datatype=_datatype(each), shape=(BATCH, *_dims(each)))
            for each in spec.inputs
        ],
        outputs=[
            metadata(name=each.name, datatype=NAMES[each.dtype], shape=(BATCH, *each.shape))
            for each in spec.outputs
        ],
    )


def model_config(spec: ModelSpec) -> inference_pb2.ModelConfigResponse:
    """Return a model's configuration as Triton's clients read it."""
    config = inference_pb2.ModelConfig(
        name=spec.model_id,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=spec.max_batch,
        input=[
            inference_pb2.ModelInput(
                name=input_name(each),
                data_type=_config_type(_datatype(each)),
                dims=_dims(each),
                optional=each.optional,
            )
            for each in spec.inputs
        ],
        output=[
            inference_pb2.ModelOutput(
                name=each.name, data_type=_config_type(NAMES[each.dtype]), dims=each.shape
            )
            for each in spec.outputs
        ],
    )
    if spec.recurrent:
        config.sequence_batching.SetInParent()
    else:
        config.dynamic_batching.SetInParent()
    return inference_pb2.ModelConfigResponse(config=config)


def repository_index(catalog: Catalog, *, ready: bool) -> inference_pb2.RepositoryIndexResponse:
    """Return the models there are; only those that can answer, if `ready`."""
    return inference_pb2.RepositoryIndexResponse(
        models=[
            inference_pb2.RepositoryIndexResponse.ModelIndex(
                name=served.name,
                version=served.version,
                state="READY" if served.workers else "UNAVAILABLE",
                reason=_reason(served),
            )
            for served in catalog.models.values()
            if served.workers or not ready
        ]
    )


def _reason(served: Served) -> str:
    if served.workers:
        return ""
    return served.error or ("loading" if served.spec is None else "its workers are restarted")


def _datatype(wanted: InputSpec) -> str:
    """Return what is best sent: of what may come as a file, that."""
    return "BYTES" if is_file(wanted) or wanted.source.startswith(METADATA) else NAMES[wanted.dtype]


def _dims(wanted: InputSpec) -> tuple[int, ...]:
    if is_file(wanted) or wanted.source.startswith(METADATA):
        return (1,)
    return wanted.shape if wanted.dtype is not DType.STRING else wanted.shape or (1,)


def _config_type(datatype: str) -> inference_pb2.DataType:
    return getattr(inference_pb2, CONFIG_TYPES.get(datatype, f"TYPE_{datatype}"))
