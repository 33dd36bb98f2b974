"""The command line: ``gumball sample | verify | serve | version``."""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np
import numpy.typing as npt

import gumball
from gumball import contract
from gumball._codec import OUTPUTS, OUTPUTS_OF_MODE, Sample, TauSchedule
from gumball.client import Client
from gumball.errors import GumballError, InvalidArgument
from gumball.receipt import array_of_json, receipt_of, verify_answer, verify_receipt


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is for --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 2 for bad input, 1 for any other failure."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["serve"]:  # its options are the server's own
        return _report(_serve, given[1:])
    options = _parser().parse_args(given)
    return _report(options.run, options)


def _report(command: Callable[[Any], int], options: Any) -> int:
    """Run a command, and say in one line what went wrong."""
    try:
        return command(options)
    except GumballError as error:
        print(f"gumball: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1
    except (OSError, ModuleNotFoundError) as error:
        print(f"gumball: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gumball", description="Reproducible categorical samples.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    sample = commands.add_parser("sample", help="draw samples", description="Draw samples for every row of logits.")
    _add_sample_options(sample)
    sample.set_defaults(run=_sample)
    commands.add_parser("serve", help="run the service (its options: gumball serve --help)", add_help=False)
    verify = commands.add_parser(
        "verify",
        help="redo a sample and compare",
        description="Redo a sample by the NumPy contract and compare: status 0 if equal, 1 if not.",
    )
    verify.add_argument("document", metavar="RECEIPT", help="of gumball sample --receipt; or a JSON request")
    verify.add_argument("file", metavar="FILE", help="the logits as .npy or JSON; or the JSON answer to the request")
    verify.set_defaults(run=_verify)
    version = commands.add_parser("version", help="print the versions of product and contract")
    version.set_defaults(run=_version)
    return parser


def _add_sample_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="logits as .npy or as a JSON list (null masks); - reads them")
    # A parameter that is not given is left to the client, which has the defaults.
    parameter = parser.add_argument_group("parameters", argument_default=argparse.SUPPRESS).add_argument
    parameter("--mode", choices=OUTPUTS_OF_MODE, help="default hard")
    parameter("--outputs", type=names, metavar="NAMES", help=f"of {', '.join(OUTPUTS)}, instead of the mode's")
    parameter("--seed", type=int, help="default: drawn, and in the answer")
    parameter("--seeds", type=integers, help="one a row, comma-separated, instead of --seed")
    parameter("--draws", type=int, help="samples a row, default 1")
    parameter("--first-draw", type=integers, metavar="DRAW", help="one number or one a row, default 0")
    parameter("--first-row", type=int, metavar="ROW", help="default 0")
    parameter("--tau", type=numbers, help="one number or one a row, default 1")
    parameter("--temperature", type=numbers, help="one number or one a row, default 1; 0 is argmax")
    parameter("--tau-schedule", type=schedule, metavar="JSON", help='instead of --tau: {"kind": "exponential", ...}')
    parameter("--top-k", type=integers, metavar="K", help="keep the k most likely; one number or one a row")
    parameter("--top-p", type=numbers, metavar="P", help="then keep the most likely that hold this share")
    parameter("--min-p", type=numbers, metavar="P", help="then drop those less likely than this share of the best")
    parameter("--logit-bias", type=biases, metavar="K:X,...", help="added to the logits of categories; null masks")
    parameter("--without-replacement", type=int, metavar="K", help="draw k distinct categories")
    parameter("--top-log-probs", type=int, metavar="N", help="also answer the n most likely categories")
    parser.add_argument("--probs", action="store_true", help="FILE holds weights, not logits")
    parameter("--timeout", type=float, metavar="SECONDS", help="default: wait")
    parser.add_argument("--url", default="local:", help="where to draw, default in this process (local:)")
    parameter("--token-file", metavar="FILE", help="a token to show to the service; default: GUMBALL_TOKEN, if set")
    parameter("--ca", metavar="FILE", help="authorities (PEM) to believe, for https:// and grpcs://")
    parameter("--cert", metavar="FILE", help="a certificate (PEM) of one's own, for a service that wants one")
    parameter("--key", metavar="FILE", help="its private key")
    parser.add_argument("--format", choices=("json", "npy"), default="json", help="npy: .npz where there are several")
    parser.add_argument("--receipt", metavar="FILE", help="also write what gumball verify needs to redo the sample")
    parser.add_argument("--output", metavar="FILE", help="default: standard output")


def _sample(options: argparse.Namespace) -> int:
    parameters = vars(options)
    file, url, form, output, receipt = (parameters.pop(name) for name in ("file", "url", "format", "output", "receipt"))
    source = "probs" if parameters.pop("probs") else "logits"
    parameters.pop("run")
    logits = parameters[source] = _numbers(file, -np.inf if source == "logits" else 0.0)
    shown: dict[str, Any] = {name: parameters.pop(name) for name in ("ca", "cert", "key") if name in parameters}
    if "token_file" in parameters:
        shown["token"] = _content(parameters.pop("token_file")).decode("latin-1").strip()
    with Client(url, **shown) as client:
        sample = client.sample(**parameters)
    encoded = _json(sample) if form == "json" else _npy(sample)
    with _writable(output) as destination:
        destination.write(encoded)
    if receipt is not None:
        Path(receipt).write_text(json.dumps(receipt_of(sample, logits), indent=1) + "\n")
    return 0


def _verify(options: argparse.Namespace) -> int:
    document = _object(options.document)
    if "receipt" in document:
        differences = verify_receipt(document, _numbers(options.file))
    else:
        differences = verify_answer(document, _object(options.file))
    print("\n".join(differences) or "equal")
    return 1 if differences else 0


def _serve(arguments: Sequence[str]) -> int:
    try:
        from gumball_server.__main__ import main as serve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"serving needs {error.name}: pip install 'gumball[server]'") from error
    return serve(arguments)


def _version(options: argparse.Namespace) -> int:
    print(f"gumball {gumball.__version__} (contract {contract.VERSION})")
    return 0


def _numbers(file: str, null: float = -np.inf) -> npt.NDArray[Any]:
    """Logits or probs of a file, or of standard input: .npy by its first bytes, or else JSON."""
    content = _content(file)
    try:
        if content.startswith(b"\x93NUMPY"):
            array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
            return array
        return array_of_json(json.loads(content, parse_constant=_refuse), null)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(str(error), "logits") from error


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(error.strerror or str(error), file) from error


def _object(file: str) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        document = json.loads(_content(file), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(str(error), file) from error
    if not isinstance(document, dict):
        raise InvalidArgument("must hold a JSON object", file)
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON; null stands for -infinity")


def _json(sample: Sample) -> bytes:
    """The answer in the members of the service's JSON."""
    document: dict[str, Any] = {"contract": sample.contract}
    if sample.seeds is None:
        document["seed"] = str(sample.seed)  # beyond 2^53 a number would not survive JavaScript
    else:
        document["seeds"] = [str(seed) for seed in sample.seeds]
    document["tau"] = sample.tau.tolist()
    document["shape"] = sample.shape._asdict()
    document.update((name, _shortest(array).tolist()) for name, array in sample.outputs.items())
    document["timings"] = sample.timings._asdict()
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _shortest(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, its float32 written with the fewest digits that give every bit back to a reader."""
    if array.dtype != np.float32:
        return array
    short = array.astype(str).astype(np.float64)
    return short if np.array_equal(short.astype(np.float32), array) else array


def _npy(sample: Sample) -> bytes:
    """One output as .npy, several as .npz."""
    file = io.BytesIO()
    match list(sample.outputs.values()):
        case [array]:
            np.save(file, array)
        case _:
            np.savez(file, allow_pickle=False, **sample.outputs)
    return file.getvalue()


def _writable(output: str | None) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdout.buffer) if output is None else Path(output).open("wb")


# Without underscores, because argparse shows their names: "invalid integers value: 'x'".
def names(text: str) -> list[str]:
    return text.split(",")


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def biases(text: str) -> dict[int, float | None]:
    items = [item.partition(":") for item in text.split(",")]
    return {int(category): None if amount == "null" else float(amount) for category, _, amount in items}


def schedule(text: str) -> TauSchedule:
    return cast(TauSchedule, json.loads(text))


if __name__ == "__main__":
    sys.exit(main())
