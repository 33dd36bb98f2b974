"""Messages of the Open Inference Protocol (proto/inference), in a pool of their own.

The stubs of tritonclient and of KServe define the same names in the default pool, where each can be defined once; so
this process may hold those as well.
"""

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_pool = DescriptorPool()
(_file,) = FileDescriptorSet.FromString(files(__package__).joinpath("inference.binpb").read_bytes()).file
_pool.AddSerializedFile(_file.SerializeToString())

DESCRIPTOR: Any = _pool.FindFileByName(_file.name)
SERVICE: Any = DESCRIPTOR.services_by_name["GRPCInferenceService"]


def message(name: str) -> Any:
    """The class of a message."""
    return GetMessageClass(DESCRIPTOR.message_types_by_name[name])


InferParameter = message("InferParameter")
ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
