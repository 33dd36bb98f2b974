"""The command line, as a process."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from gumball import contract

LOGITS = np.array([[0.5, 2.0, -1.0], [0.0, -np.inf, 1.0]], np.float32)
JSON = b"[[0.5, 2.0, -1.0], [0.0, null, 1.0]]"


def gumball(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gumball.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def refusal(ended) -> str:
    """The one line it says."""
    assert ended.stdout == b""
    (line,) = ended.stderr.decode().splitlines()
    return line


@pytest.mark.parametrize("stdin", [JSON, npy(LOGITS), npy(LOGITS.astype(">f8"))], ids=["json", "npy", "npy-float64"])
def test_logits_are_recognised_by_their_content(server, stdin):
    """JSON and .npy give the same answer, in the members of the service's JSON."""
    ended = gumball("sample", "-", "--mode=straight_through", "--seed=7", f"--url={server.http}", stdin=stdin)
    assert (ended.returncode, ended.stderr) == (0, b"")
    answer = json.loads(ended.stdout)
    expected = contract.straight_through(LOGITS, 7, [0, 1])
    assert list(answer) == ["contract", "seed", "tau", "shape", "index", "soft", "timings"]
    assert (answer["contract"], answer["seed"], answer["tau"]) == ("gumball/1", "7", [1.0])
    assert answer["shape"] == {"rows": 2, "draws": 1, "categories": 3}
    assert answer["index"] == expected.index[:, None].tolist()
    np.testing.assert_array_equal(np.array(answer["soft"], np.float32)[:, 0], expected.soft)


def test_every_parameter_reaches_the_sampler(server, tmp_path):
    """From a file, by gRPC, to an .npz file."""
    (tmp_path / "logits.npy").write_bytes(npy(LOGITS))
    output = tmp_path / "sample.npz"
    ended = gumball(
        "sample",
        str(tmp_path / "logits.npy"),
        f"--url={server.grpc}",
        "--outputs=soft,index",
        "--seed=18446744073709551615",
        "--draws=2",
        "--first-draw=3,5",
        "--first-row=8",
        "--tau=0.5,2",
        "--temperature=0.7",
        "--timeout=30",
        "--format=npy",
        f"--output={output}",
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    arrays = np.load(output)
    for draw in range(2):
        expected = contract.straight_through(LOGITS, 2**64 - 1, [8, 9], np.array([3, 5]) + draw, 0.7, [0.5, 2])
        np.testing.assert_array_equal(arrays["index"][:, draw], expected.index)
        np.testing.assert_array_equal(arrays["soft"][:, draw], expected.soft)


def test_one_output_is_an_npy_on_standard_output_drawn_in_process():
    """Without --url, no service is needed."""
    ended = gumball("sample", "-", "--seeds=3,4", "--format=npy", stdin=JSON)
    assert ended.returncode == 0, ended.stderr
    index = np.load(io.BytesIO(ended.stdout))
    np.testing.assert_array_equal(index[:, 0], contract.hard(LOGITS, [3, 4]))


@pytest.mark.parametrize(
    ("arguments", "stdin", "named"),
    [
        ((), b"[[1, 2], [3]]", "logits"),
        ((), b"[[1, NaN]]", "logits"),
        ((), b'[[1, "2"]]', "logits"),
        ((), b'{"logits": [[1]]}', "logits"),
        ((), b"[[1, 2]", "logits"),
        ((), b"[[1e39, 0]]", "logits[0][0]"),
        ((), npy(LOGITS)[:-1], "logits"),
        (("--seed=-1",), JSON, "seed"),
        (("--seed=1", "--seeds=1,2"), JSON, "seeds"),
        (("--seeds=1,x",), JSON, "--seeds"),
        (("--tau=warm",), JSON, "--tau"),
        (("--mode=firm",), JSON, "--mode"),
        (("--outputs=nonsense",), JSON, "outputs"),
        (("--url=ftp://there",), JSON, "address"),
        (("--colour=red",), JSON, "arguments"),
    ],
)
def test_bad_input_is_one_line_that_names_the_field(arguments, stdin, named):
    """And exit status 2."""
    ended = gumball("sample", "-", "--url=http://127.0.0.1:9", *arguments, stdin=stdin)
    assert f" {named}: " in refusal(ended)
    assert ended.returncode == 2


def test_a_field_that_the_service_refuses_is_named(server):
    """Its words, its field."""
    ended = gumball("sample", "-", "--tau=0", f"--url={server.http}", stdin=JSON)
    assert refusal(ended).startswith("gumball: tau: ")
    assert ended.returncode == 2


def test_a_missing_file_is_named(tmp_path):
    """It is bad input, too."""
    ended = gumball("sample", str(tmp_path / "none.npy"))
    assert "none.npy: No such file or directory" in refusal(ended)
    assert ended.returncode == 2


def test_a_service_that_is_not_there_is_exit_status_1(unused_tcp_port):
    """Nothing is wrong with the input."""
    ended = gumball("sample", "-", f"--url=http://127.0.0.1:{unused_tcp_port}", stdin=JSON)
    assert "127.0.0.1" in refusal(ended)
    assert ended.returncode == 1


def test_versions_are_those_of_product_and_contract():
    """One line."""
    assert gumball("version").stdout.decode().strip().endswith(f"(contract {contract.VERSION})")


def test_serve_hands_its_options_to_the_server():
    """Its help is the server's own."""
    ended = gumball("serve", "--help")
    assert ended.returncode == 0
    assert b"--grpc-port" in ended.stdout


@pytest.mark.parametrize("command", [("serve",), ("sample", "-")])
def test_without_the_server_the_commands_say_what_to_install(command):
    """An interpreter that finds no server."""
    program = (
        "import sys; sys.modules['gumball_server'] = None; "
        f"from gumball.cli import main; sys.exit(main({list(command)}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], input=JSON, capture_output=True, check=False)
    assert "pip install 'gumball[server]'" in refusal(ended)
    assert ended.returncode == 1
