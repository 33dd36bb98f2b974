"""What the Open Inference Protocol tells of the server and its one model, for both transports to send."""

from typing import Any

from gumball_server.domain import Output
from gumball_server.info import VERSION
from gumball_server.lifecycle import Lifecycle, State
from gumball_server.metrics import Metrics
from gumball_server.wire import oip

EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters", "statistics"]

Told = dict[str, Any]
Tensor = tuple[str, str, list[int]]  # name, datatype, shape; -1 is any length

_INPUTS: list[Tensor] = [(name, types[0], [-1] * oip.input_dimensions(name)) for name, types in oip.INPUTS.items()]
_OUTPUTS: list[Tensor] = [(o.value, oip.datatype_of(o), [-1] * oip.output_dimensions(o)) for o in Output]


class Model:
    """Its answers are the protocol's messages. All but `ready` refuse a model that is not this one."""

    def __init__(self, lifecycle: Lifecycle, metrics: Metrics) -> None:
        self._lifecycle = lifecycle
        self._metrics = metrics

    def server(self) -> Told:
        return {"name": oip.MODEL, "version": VERSION, "extensions": EXTENSIONS}

    def ready(self, name: str = oip.MODEL, version: str = "") -> bool:
        known = name == oip.MODEL and version in ("", oip.VERSION)
        return known and self._lifecycle.state is State.READY

    def metadata(self, name: str, version: str = "") -> Told:
        oip.check_model(name, version)
        return {
            "name": oip.MODEL,
            "versions": [oip.VERSION],
            "platform": oip.MODEL,
            "inputs": [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in _INPUTS],
            "outputs": [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in _OUTPUTS],
        }

    def config(self, name: str, version: str = "") -> Told:
        oip.check_model(name, version)
        return {
            "name": oip.MODEL,
            "platform": oip.MODEL,
            "backend": oip.MODEL,
            "max_batch_size": 0,  # shapes have the rows themselves
            "input": [
                {"name": name, "data_type": f"TYPE_{datatype}", "dims": dims, "optional": name != "logits"}
                for name, datatype, dims in _INPUTS
            ],
            "output": [
                {"name": name, "data_type": f"TYPE_{datatype}", "dims": dims} for name, datatype, dims in _OUTPUTS
            ],
        }

    def statistics(self, name: str = "", version: str = "") -> Told:
        """Of all requests, whichever the transport: a batch may hold some of each.

        Inferences are rows, executions are batches. compute_infer is that of batches, compute_input and compute_output
        are decoding and encoding. The time of success is that of every request that was understood.
        """
        oip.check_model(name or oip.MODEL, version)
        samples = [sample for metric in self._metrics.registry.collect() for sample in metric.samples]

        def total(name: str, label: str = "", *values: str) -> float:
            return sum(
                sample.value
                for sample in samples
                if sample.name == f"gumball_{name}" and (not label or sample.labels[label] in values)
            )

        def duration(name: str) -> Told:
            return _duration(total(f"{name}_duration_seconds_count"), total(f"{name}_duration_seconds_sum"))

        succeeded, seconds = total("requests_total", "code", "OK"), "request_duration_seconds_sum"
        invalid = total(seconds, "mode", "invalid")
        statistics = {
            "name": oip.MODEL,
            "version": oip.VERSION,
            "inference_count": int(total("rows_total")),
            "execution_count": int(total("batch_requests_count")),
            "inference_stats": {
                "success": _duration(succeeded, total(seconds) - invalid),
                "fail": _duration(total("requests_total") - succeeded, invalid),
                "queue": duration("queue"),
                "compute_input": duration("decode"),
                "compute_infer": duration("compute"),
                "compute_output": duration("encode"),
            },
        }
        return {"model_stats": [statistics]}

    def index(self) -> list[Told]:
        """The models that are ready."""
        return [{"name": oip.MODEL, "version": oip.VERSION, "state": "READY", "reason": ""}] if self.ready() else []


def _duration(count: float, seconds: float) -> Told:
    return {"count": int(count), "ns": round(seconds * 1e9)}
