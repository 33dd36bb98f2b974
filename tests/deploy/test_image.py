"""The image, built from the Dockerfile, in a container that may do nothing but serve."""

import json
import re
import signal
from collections.abc import Iterator

import pytest
from container import Container, built, need_tools, podman
from gumball import Client
from gumball.parameter_vectors import PARAMETER_VECTORS
from gumball.vectors import VECTORS
from live_prometheus import until

MOST_BYTES = 700e6
# What a start uses, and so takes where nothing else runs; how long it takes depends on what else does. Compiling the
# kernels would take half a minute of either.
USED_SECONDS, READY_SECONDS = 3.0, 10.0


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    need_tools()
    with built() as name:
        yield name


@pytest.fixture(scope="module")
def container(image) -> Iterator[Container]:
    container = Container(image)
    yield container
    container.stop()


def test_it_is_small(image, capsys):
    """With Debian's Python below it, which is larger than the official one."""
    (size,) = {each["Size"] for each in json.loads(podman("image", "inspect", image))}
    with capsys.disabled():
        print(f"\nimage: {size / 1e6:.0f} MB")
    assert size <= MOST_BYTES


def test_it_starts_quickly(container, capsys):
    """Ready soon after the command that runs it, with what an undisturbed machine does in three seconds."""
    used = container.processor_seconds
    with capsys.disabled():
        print(f"\nimage: ready after {container.ready_seconds:.1f} s, {used:.1f} s of processor time")
    assert used < USED_SECONDS
    assert container.ready_seconds < READY_SECONDS


def test_it_may_do_nothing(container):
    """Its process has a user without a name, no capability, no way to any, and a root that cannot be written."""
    status = dict(re.findall(r"(\w+):\t(.*)", (container.proc / "status").read_text()))
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    mounts = [line.split()[:6] for line in (container.proc / "mountinfo").read_text().splitlines()]
    (root,) = [options.split(",") for *_, place, options in mounts if place == "/"]
    assert "ro" in root


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_it_draws_the_published_bits(container, transport):
    """Every vector, over both transports."""
    with Client(getattr(container, transport)) as client:
        for vector in VECTORS:
            sample = client.sample(vector.logits, **vector.parameters)
            assert sample.index[0, 0] == vector.index
            assert vector.agrees("soft", sample.soft[0, 0])
        for parameters in PARAMETER_VECTORS:
            given = {parameters.source: parameters.values, **parameters.parameters}
            sample = client.sample(outputs=parameters.outputs, **given)
            assert parameters.agrees(sample.outputs), parameters.name


def test_it_compiles_nothing(container):
    """After all of this, what it keeps in its temporary folder is what the image brought, and no kernel more."""
    root = container.proc / "root"
    brought, kept = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.nb?")}
        for folder in (root / "opt/gumball/kernels", *(root / "tmp").glob("gumball-*"))
    )
    assert brought
    assert kept == brought


def test_it_says_that_it_is_well_until_it_stops(container):
    """By the image's health check; on SIGTERM it drains, and ends with status 0."""
    assert container.is_healthy
    container.signal(signal.SIGTERM)
    until(lambda: not container.is_healthy)
    assert container.wait() == 0
