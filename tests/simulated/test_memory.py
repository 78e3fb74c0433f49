"""Memory of the simulated device: out of the host's reach, poisoned, counted."""

import ctypes
import gc

import pytest
import torch
from inside import DEVICE, MEMORY, inside, run_alone

from glm5_hal.conformance.simulated import device

TOUCH = f"""
import ctypes
from glm5_hal.conformance.simulated import device
import torch
device.simulate("{DEVICE}")
x = torch.ones(4, device="{DEVICE}:1")
torch.accelerator.synchronize()
print(x.cpu().tolist(), flush=True)
ctypes.string_at(x.data_ptr(), 4)
print("went on", flush=True)
"""


@inside
def test_fresh_memory_is_poison() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.empty(1000, dtype=dtype, device=DEVICE).isnan().all()
    assert (torch.empty(1000, dtype=torch.int32, device=DEVICE) == -1).all()


def test_the_host_cannot_read_it(built: None) -> None:
    done = run_alone(TOUCH)
    assert done.returncode == -11
    assert "[1.0, 1.0, 1.0, 1.0]" in done.stdout
    assert "went on" not in done.stdout
    assert "the host touched memory of device 1; only kernels and copies may" in done.stderr


@inside
def test_torch_reads_it_for_nobody() -> None:
    x = torch.ones(4, device=DEVICE)
    with pytest.raises(TypeError, match=f"can't convert {DEVICE}:0 device type tensor to numpy"):
        x.numpy()
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(4)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(4, device=f"{DEVICE}:1")
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat((x, torch.ones(4)))
    with pytest.raises(RuntimeError, match="a tensor of cpu"):
        device.build.load().reached(torch.ones(1))


@inside
def test_numbers_of_the_host_go_over() -> None:
    x = torch.ones(2, dtype=torch.bfloat16, device=DEVICE)
    assert (x * 2.5).dtype == torch.bfloat16
    assert (x + torch.tensor(1.0)).dtype == torch.bfloat16
    assert x[torch.tensor([1])].device == x.device
    number = torch.tensor(1.0)
    with device.held():
        late = x + number
        number.fill_(7)
        assert late.tolist() == [2.0, 2.0]


@inside
def test_freed_memory_is_poison_for_another_stream() -> None:
    side = torch.Stream(device=f"{DEVICE}:0")
    results = []
    for recorded in (True, False):
        with device.held():
            x = torch.ones(1 << 18, device=DEVICE)
            ready = torch.Event(device=f"{DEVICE}:0")
            ready.record()
            with side:
                side.wait_event(ready)
                y = torch.empty_like(x)
                torch.accelerator.current_stream().synchronize()
                if recorded:
                    x.record_stream(side)
                y.copy_(x)
            del x
            gc.collect()
            torch.accelerator.current_stream().synchronize()  # the main stream frees x
            side.synchronize()
        results.append(y.cpu())
    assert (results[0] == 1).all()
    assert results[1].isnan().all()


@inside
def test_a_write_behind_the_end_is_reported() -> None:
    x = torch.ones(3, device=DEVICE)
    device.submit(x.device, lambda host: ctypes.memset(host.data_ptr() + 12, 0, 8), x)
    torch.accelerator.synchronize()
    del x
    with pytest.raises(RuntimeError, match="wrote 8 bytes behind the end of 12 bytes"):
        torch.accelerator.synchronize()


@inside
def test_it_is_counted_and_ends() -> None:
    module = torch.get_device_module(DEVICE)
    torch.accelerator.synchronize()
    gc.collect()
    before = module.memory_allocated()
    module.reset_peak_memory_stats()
    x = torch.ones(1 << 20, device=DEVICE)
    assert module.memory_allocated() - before >= 4 << 20
    del x
    torch.accelerator.synchronize()
    assert module.memory_allocated() == before
    assert module.max_memory_allocated() - before >= 4 << 20
    assert module.mem_get_info() == (MEMORY - before, MEMORY)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        torch.empty(MEMORY, dtype=torch.int8, device=DEVICE)
    for _ in range(3):  # what was freed is used again, without waiting for it by hand
        big = torch.empty(MEMORY * 3 // 4, dtype=torch.int8, device=DEVICE)
        assert big.untyped_storage().nbytes() == MEMORY * 3 // 4
        del big


@inside
def test_storage_grows() -> None:
    x = torch.arange(4, device=DEVICE)
    x.resize_(6)
    assert x[:4].tolist() == [0, 1, 2, 3]
    out = torch.empty(0, device=DEVICE)
    torch.add(torch.ones(2, 3, device=DEVICE), 1, out=out)
    assert out.tolist() == [[2.0] * 3] * 2


@inside
def test_pinned_memory_is_known() -> None:
    assert torch.empty(3, pin_memory=True).is_pinned()
    assert torch.ones(3).pin_memory().is_pinned()
    assert not torch.ones(3).is_pinned()
    late = torch.ones(3, device=DEVICE).to("cpu", non_blocking=True)
    assert late.is_pinned()
    torch.accelerator.synchronize()
    assert late.tolist() == [1.0] * 3
