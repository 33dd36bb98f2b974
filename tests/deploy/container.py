"""The image built from the Dockerfile without a registry of images, and containers of it that may do nothing."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from conftest import Server
from helm_chart import ROOT
from live_prometheus import free_port

TOOLS = ("podman", "runc", "mmdebstrap")
# Debian's Python in place of the official image, without manuals as that is.
SLIM = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "locale", "man")]
BASE = ("--variant=apt", "--include=python3,python3-pip", *SLIM, "bookworm")
BASE_PYTHON = "3.11"
# Whatever a registry of packages needs here, the image is built without, from files on this empty folder.
WHEELS = "/mnt"
PIP_CONF = f"[global]\nno-index = true\nfind-links = {WHEELS}\n"
RESTRICTED = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"),
    "--network=host",
    "--health-interval=disable",  # it would want systemd
    # Podman's own are higher than root may set where it lacks CAP_SYS_RESOURCE.
    *("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"),
)


def need_tools() -> None:
    """Without them a test fails, unless WITHOUT_IMAGE is set."""
    if os.environ.get("WITHOUT_IMAGE"):
        pytest.skip("WITHOUT_IMAGE is set")
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.fail(f"the image needs root and {', '.join(missing or TOOLS)} (Debian packages); or set WITHOUT_IMAGE=1")


def podman(*arguments: str | Path) -> str:
    """What it says, with runc: crun refuses some machines' control groups."""
    return subprocess.check_output(["podman", "--runtime=runc", *arguments], text=True)


@contextmanager
def built() -> Iterator[str]:
    """The name of an image of this tree, for as long as the block lasts."""
    name, base = (f"localhost/gumball-{part}:{uuid4()}" for part in ("test", "base"))
    try:
        with TemporaryDirectory(prefix="gumball-") as folder:
            build(name, base, Path(folder))
        yield name
    finally:
        podman("rmi", "--force", name, base)


def build(name: str, base: str, folder: Path) -> None:
    wheels, root, pip_conf = folder / "wheels", folder / "root.tar", folder / "pip.conf"
    pip_conf.write_text(PIP_CONF)
    with subprocess.Popen(["mmdebstrap", "--quiet", *BASE, root]) as making_root:
        download_wheels(wheels)
    assert making_root.returncode == 0
    podman("import", "--quiet", root, base)
    flags = (
        *("--isolation=chroot", "--network=host", "--pull-never", "--layers=false", f"--build-arg=BASE={base}"),
        *(f"--volume={wheels}:{WHEELS}:ro", f"--secret=id=pip.conf,src={pip_conf}"),
    )
    subprocess.run(["make", "image", "ENGINE=podman", f"TAG={name}", f"ARGS={' '.join(flags)}"], cwd=ROOT, check=True)


def download_wheels(folder: Path) -> None:
    """Of the image's versions, and of what builds ours."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--python-version={BASE_PYTHON}"]
    pins = ROOT / "deploy/image/constraints.txt"
    subprocess.run([*pip, "--dest", folder, "--requirement", pins, "hatchling"], check=True)


class Container(Server):
    """A container that has no root, no capability and no writable file system but /tmp."""

    def __init__(self, image: str) -> None:
        self.name = f"gumball-{uuid4()}"
        port = str(free_port())  # its health check knows the variable, not the flag
        options = ("--rm", f"--name={self.name}", *RESTRICTED, f"--env=GUMBALL_HTTP_PORT={port}")
        self.command = ("podman", "--runtime=runc", "run", *options, "--env=GUMBALL_GRACE_SECONDS=1", image)
        started = time.monotonic()
        super().__init__("--http-port", port)
        self.ready_seconds = time.monotonic() - started

    @property
    def processor_seconds(self) -> float:
        """That its process has used."""
        times = (self.proc / "stat").read_text().rpartition(")")[2].split()[11:15]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    @property
    def proc(self) -> Path:
        """What this machine tells of its process."""
        return Path("/proc", podman("inspect", "--format={{.State.Pid}}", self.name).strip())

    @property
    def is_healthy(self) -> bool:
        """By the health check of the image."""
        return (
            subprocess.run(["podman", "--runtime=runc", "healthcheck", "run", self.name], check=False).returncode == 0
        )
