"""Speed of the service beside its floor and its rivals, in one run: requests a second, latency, CPU time a request.

python tests/bench/service.py --mixed --write        everything, into README.md; some fifteen minutes
python tests/bench/service.py --servers gumball,echo --k 10 --connections 64 --forms json --modes hard --seconds 2
python tests/bench/service.py --mixed --forms ""     only small requests between bodies of 10 MB

gumball is the service; echo its floor, the same body sent back by the same servers (uvicorn, and our own for gRPC);
-aio both with grpcio's for gRPC; naive a typed FastAPI route and a grpc.aio method that call PyTorch's gumbel_softmax;
mosec a server that batches, with PyTorch. Each has one core (all its processes), and h2load (Debian: nghttp2-client)
the other. Servers take turns, `--repeats` times, and the best of each figure counts, for what else the machine does
only ever adds. CPU time a request is what noise spares most. A request that fails ends the benchmark.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent))

from cases import Case, Form, Mode
from contestants import CONTESTANTS, Contestant, Running
from figures import Bench, Figures, best
from mixed import Latencies, small_between_large
from report import Results, machine, tables, write

T = TypeVar("T")

CATEGORIES = (10, 1_000, 32_000)
CONNECTIONS = (1, 16, 64)


@contextlib.contextmanager
def running(contestants: Iterable[Contestant], core: int) -> Iterator[list[Running]]:
    """All of them at once; those whose turn it is not are idle."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Running(each, core)) for each in contestants]


def compare(benches: dict[str, Bench], repeats: int) -> dict[str, Figures]:
    """The best figures of each, all of them in turn."""
    runs = [{name: bench.run() for name, bench in benches.items()} for _ in range(repeats)]
    return {name: best([run[name] for run in runs]) for name in benches}


def closed_loop(servers: list[Running], options: argparse.Namespace, folder: Path) -> Results:
    """Every case at every number of connections, each of which asks again when it is answered."""
    results: Results = {}
    for form, categories, mode, connections in product(options.forms, options.k, options.modes, options.connections):
        case = Case(form, categories, mode)
        able = [server for server in servers if form in server.contestant.forms]
        benches = {server.contestant.name: Bench(server, case, connections, options.seconds, folder) for server in able}
        print(f"{case}, {connections} connections")
        results[case, connections] = compare(benches, options.repeats)
        for name, figures in results[case, connections].items():
            print(f"  {name:8} {figures}", flush=True)
    return results


def mixed_load(servers: list[Running], folder: Path) -> dict[str, Latencies]:
    """What bodies of 10 MB do to small requests, for all that take JSON."""
    print("small requests alone, and between bodies of 10 MB")
    results = {}
    for server in servers:
        if Form.JSON in server.contestant.forms:
            results[server.contestant.name] = small_between_large(server, folder)
            print(f"  {server.contestant.name:8} {results[server.contestant.name]}", flush=True)
    return results


def comma_separated(convert: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(convert(each) for each in text.split(",") if each)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = tuple(each.name for each in CONTESTANTS)
    parser.add_argument("--servers", type=comma_separated(str), default=names, help=f"of {','.join(names)}")
    parser.add_argument("--forms", type=comma_separated(Form), default=tuple(Form), help=f"of {','.join(Form)}")
    parser.add_argument("--modes", type=comma_separated(Mode), default=tuple(Mode), help=f"of {','.join(Mode)}")
    parser.add_argument("--k", type=comma_separated(int), default=CATEGORIES, help="categories of the row")
    parser.add_argument("--connections", type=comma_separated(int), default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mixed", action="store_true", help="also small requests between bodies of 10 MB")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    if unknown := set(options.servers) - set(names):
        parser.error(f"no server {unknown}")
    return options


def main() -> int:
    options = parse_arguments()
    server_core, load_core = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {load_core})  # h2load inherits it
    contestants = [each for each in CONTESTANTS if each.name in options.servers]
    with tempfile.TemporaryDirectory(prefix="gumball-bench-") as name, running(contestants, server_core) as servers:
        results = closed_loop(servers, options, Path(name))
        mixed = mixed_load(servers, Path(name)) if options.mixed else {}
    text = "\n\n".join([machine(), *tables(results, mixed)])
    print(f"\n{text}")
    if options.write:
        write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
