"""Which devices a setting names, on a machine that has no GPU."""

import pytest
from gumball_server.devices import CudaDevices, DeviceError
from gumball_server.settings import Settings, SettingsError

torch = pytest.importorskip("torch")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7,cuda:0"])
def test_a_cuda_device_that_is_not_there_is_refused_by_name(device: str):
    """Whether one is asked for, some, or all."""
    with pytest.raises(DeviceError, match=device):
        CudaDevices().names(device)


@no_gpu
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_cpu_is_used_where_it_is_asked_for_or_there_is_nothing_else(device: str):
    """It is no device beside the CPU."""
    assert CudaDevices().names(device) == []


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "cuda:1,cuda:0"])
def test_a_device_can_be_set(device: str):
    """As auto, cpu, cuda, or a list of GPUs."""
    assert Settings(device=device).device == device


@pytest.mark.parametrize(
    "device",
    [
        "",
        "gpu",
        "cuda:",
        "cuda:-1",
        "cuda:x",
        "cpu:0",
        "cuda:16",
        "cuda:0,",
        "cuda:0,cpu",
        "cuda:0,cuda:0",
        "cuda,cuda",
    ],
)
def test_what_is_no_device_is_refused(device: str):
    """The message names the setting."""
    with pytest.raises(SettingsError, match="device"):
        Settings(device=device)
