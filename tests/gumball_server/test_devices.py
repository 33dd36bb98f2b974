"""Which device a setting names, on a machine that has no GPU."""

from pathlib import Path

import pytest
from gumball_server.devices import DeviceError, open_device
from gumball_server.settings import Settings, SettingsError

torch = pytest.importorskip("torch")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_cuda_device_that_is_not_there_is_refused_by_name(device: str, tmp_path: Path):
    """Before anything is loaded."""
    with pytest.raises(DeviceError, match=device):
        open_device(device, tmp_path, threads=1)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_can_be_set(device: str):
    """As auto, cpu, cuda or cuda:N."""
    assert Settings(device=device).device == device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0"])
def test_what_is_no_device_is_refused(device: str):
    """The message names the setting."""
    with pytest.raises(SettingsError, match="device"):
        Settings(device=device)
