from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_HARD: _ClassVar[Mode]
    MODE_SOFT: _ClassVar[Mode]
    MODE_STRAIGHT_THROUGH: _ClassVar[Mode]

class Output(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_UNSPECIFIED: _ClassVar[Output]
    OUTPUT_INDEX: _ClassVar[Output]
    OUTPUT_ONE_HOT: _ClassVar[Output]
    OUTPUT_SOFT: _ClassVar[Output]
    OUTPUT_LOG_SOFT: _ClassVar[Output]
    OUTPUT_SCORE: _ClassVar[Output]
    OUTPUT_LOG_PROB: _ClassVar[Output]
    OUTPUT_PROBS: _ClassVar[Output]
    OUTPUT_ENTROPY: _ClassVar[Output]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_INT32: DataType
MODE_UNSPECIFIED: Mode
MODE_HARD: Mode
MODE_SOFT: Mode
MODE_STRAIGHT_THROUGH: Mode
OUTPUT_UNSPECIFIED: Output
OUTPUT_INDEX: Output
OUTPUT_ONE_HOT: Output
OUTPUT_SOFT: Output
OUTPUT_LOG_SOFT: Output
OUTPUT_SCORE: Output
OUTPUT_LOG_PROB: Output
OUTPUT_PROBS: Output
OUTPUT_ENTROPY: Output

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TauSchedule(_message.Message):
    __slots__ = ("kind", "initial", "rate", "floor", "step")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[TauSchedule.Kind]
        KIND_CONSTANT: _ClassVar[TauSchedule.Kind]
        KIND_LINEAR: _ClassVar[TauSchedule.Kind]
        KIND_EXPONENTIAL: _ClassVar[TauSchedule.Kind]
        KIND_COSINE: _ClassVar[TauSchedule.Kind]
    KIND_UNSPECIFIED: TauSchedule.Kind
    KIND_CONSTANT: TauSchedule.Kind
    KIND_LINEAR: TauSchedule.Kind
    KIND_EXPONENTIAL: TauSchedule.Kind
    KIND_COSINE: TauSchedule.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    kind: TauSchedule.Kind
    initial: float
    rate: float
    floor: float
    step: float
    def __init__(self, kind: _Optional[_Union[TauSchedule.Kind, str]] = ..., initial: _Optional[float] = ..., rate: _Optional[float] = ..., floor: _Optional[float] = ..., step: _Optional[float] = ...) -> None: ...

class LogitBias(_message.Message):
    __slots__ = ("category", "bias")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    category: int
    bias: float
    def __init__(self, category: _Optional[int] = ..., bias: _Optional[float] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("id", "logits", "probs", "mode", "outputs", "seed", "seeds", "first_row", "draws", "first_draw", "tau", "temperature", "tau_schedule", "top_k", "top_p", "min_p", "logit_bias", "without_replacement", "top_log_probs", "timeout_seconds", "trace")
    ID_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    PROBS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    FIRST_DRAW_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TAU_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_REPLACEMENT_FIELD_NUMBER: _ClassVar[int]
    TOP_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    id: int
    logits: Tensor
    probs: Tensor
    mode: Mode
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    seed: int
    seeds: _containers.RepeatedScalarFieldContainer[int]
    first_row: int
    draws: int
    first_draw: _containers.RepeatedScalarFieldContainer[int]
    tau: _containers.RepeatedScalarFieldContainer[float]
    temperature: _containers.RepeatedScalarFieldContainer[float]
    tau_schedule: TauSchedule
    top_k: _containers.RepeatedScalarFieldContainer[int]
    top_p: _containers.RepeatedScalarFieldContainer[float]
    min_p: _containers.RepeatedScalarFieldContainer[float]
    logit_bias: _containers.RepeatedCompositeFieldContainer[LogitBias]
    without_replacement: int
    top_log_probs: int
    timeout_seconds: float
    trace: TraceContext
    def __init__(self, id: _Optional[int] = ..., logits: _Optional[_Union[Tensor, _Mapping]] = ..., probs: _Optional[_Union[Tensor, _Mapping]] = ..., mode: _Optional[_Union[Mode, str]] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ..., seed: _Optional[int] = ..., seeds: _Optional[_Iterable[int]] = ..., first_row: _Optional[int] = ..., draws: _Optional[int] = ..., first_draw: _Optional[_Iterable[int]] = ..., tau: _Optional[_Iterable[float]] = ..., temperature: _Optional[_Iterable[float]] = ..., tau_schedule: _Optional[_Union[TauSchedule, _Mapping]] = ..., top_k: _Optional[_Iterable[int]] = ..., top_p: _Optional[_Iterable[float]] = ..., min_p: _Optional[_Iterable[float]] = ..., logit_bias: _Optional[_Iterable[_Union[LogitBias, _Mapping]]] = ..., without_replacement: _Optional[int] = ..., top_log_probs: _Optional[int] = ..., timeout_seconds: _Optional[float] = ..., trace: _Optional[_Union[TraceContext, _Mapping]] = ...) -> None: ...

class TraceContext(_message.Message):
    __slots__ = ("traceparent", "tracestate")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("id", "contract", "seed", "seeds", "tau", "shape", "timings", "index", "one_hot", "soft", "log_soft", "score", "log_prob", "probs", "entropy", "top_index", "top_log_prob", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ONE_HOT_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    LOG_SOFT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    PROBS_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    TOP_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOP_LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    contract: str
    seed: int
    seeds: _containers.RepeatedScalarFieldContainer[int]
    tau: _containers.RepeatedScalarFieldContainer[float]
    shape: Shape
    timings: Timings
    index: Tensor
    one_hot: Tensor
    soft: Tensor
    log_soft: Tensor
    score: Tensor
    log_prob: Tensor
    probs: Tensor
    entropy: Tensor
    top_index: Tensor
    top_log_prob: Tensor
    error: Error
    def __init__(self, id: _Optional[int] = ..., contract: _Optional[str] = ..., seed: _Optional[int] = ..., seeds: _Optional[_Iterable[int]] = ..., tau: _Optional[_Iterable[float]] = ..., shape: _Optional[_Union[Shape, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., index: _Optional[_Union[Tensor, _Mapping]] = ..., one_hot: _Optional[_Union[Tensor, _Mapping]] = ..., soft: _Optional[_Union[Tensor, _Mapping]] = ..., log_soft: _Optional[_Union[Tensor, _Mapping]] = ..., score: _Optional[_Union[Tensor, _Mapping]] = ..., log_prob: _Optional[_Union[Tensor, _Mapping]] = ..., probs: _Optional[_Union[Tensor, _Mapping]] = ..., entropy: _Optional[_Union[Tensor, _Mapping]] = ..., top_index: _Optional[_Union[Tensor, _Mapping]] = ..., top_log_prob: _Optional[_Union[Tensor, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("rows", "draws", "categories")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    rows: int
    draws: int
    categories: int
    def __init__(self, rows: _Optional[int] = ..., draws: _Optional[int] = ..., categories: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ns", "compute_ns")
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    queue_ns: int
    compute_ns: int
    def __init__(self, queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("reason", "field", "detail", "retry_after_seconds")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    field: str
    detail: str
    retry_after_seconds: float
    def __init__(self, reason: _Optional[str] = ..., field: _Optional[str] = ..., detail: _Optional[str] = ..., retry_after_seconds: _Optional[float] = ...) -> None: ...

class SampleStreamRequest(_message.Message):
    __slots__ = ("requests", "withdrawn")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SampleRequest]
    withdrawn: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, requests: _Optional[_Iterable[_Union[SampleRequest, _Mapping]]] = ..., withdrawn: _Optional[_Iterable[int]] = ...) -> None: ...

class SampleStreamResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[SampleResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[SampleResponse, _Mapping]]] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("version", "contracts", "devices", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTRACTS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    contracts: _containers.RepeatedScalarFieldContainer[str]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    limits: Limits
    def __init__(self, version: _Optional[str] = ..., contracts: _Optional[_Iterable[str]] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("name", "threads")
    NAME_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    name: str
    threads: int
    def __init__(self, name: _Optional[str] = ..., threads: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_request_bytes", "max_response_bytes", "max_categories", "max_queue_elements", "max_queue_requests")
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    max_request_bytes: int
    max_response_bytes: int
    max_categories: int
    max_queue_elements: int
    max_queue_requests: int
    def __init__(self, max_request_bytes: _Optional[int] = ..., max_response_bytes: _Optional[int] = ..., max_categories: _Optional[int] = ..., max_queue_elements: _Optional[int] = ..., max_queue_requests: _Optional[int] = ...) -> None: ...
