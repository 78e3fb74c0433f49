"""What is late on the simulated device, and what may be relied on all the same."""

import threading
import time

import pytest
import torch
from inside import DEVICE, inside, run_alone

from glm5_hal.conformance.simulated import device


@inside
def test_a_copy_to_the_host_is_late() -> None:
    x = torch.full((4,), 3.0, device=DEVICE)
    goal = torch.zeros(4, pin_memory=True)
    with device.held():
        goal.copy_(x, non_blocking=True)
        assert goal.tolist() == [0.0] * 4  # whoever reads without waiting sees this
        torch.accelerator.synchronize()
        assert goal.tolist() == [3.0] * 4


@inside
def test_a_copy_from_pinned_memory_reads_late() -> None:
    source = torch.ones(4).pin_memory()
    with device.held():
        x = source.to(DEVICE, non_blocking=True)
        source.fill_(2)
        assert x.tolist() == [2.0] * 4


@inside
def test_a_copy_from_pageable_memory_reads_at_once() -> None:
    source = torch.ones(4)
    with device.held():
        x = source.to(DEVICE, non_blocking=True)
        source.fill_(2)
        assert x.tolist() == [1.0] * 4


@inside
def test_kernels_are_late_and_in_order() -> None:
    seen: list[int] = []
    place = torch.device(DEVICE, 0)
    with device.held():
        for number in range(5):
            device.submit(place, seen.append, number)
        assert seen == []
        torch.accelerator.synchronize()
        assert seen == [0, 1, 2, 3, 4]


@inside
def test_they_run_on_a_thread_of_the_device() -> None:
    seen: list[int] = []
    device.submit(torch.device(DEVICE, 0), lambda: seen.append(threading.get_native_id()))
    torch.accelerator.synchronize()
    assert seen != [threading.get_native_id()]


@inside
def test_latency_passes_without_holding() -> None:
    device.set_latency(100_000)
    goal = torch.zeros(4, pin_memory=True)
    x = torch.ones(4, device=DEVICE)
    begin = time.perf_counter()
    goal.copy_(x, non_blocking=True)
    assert goal.tolist() == [0.0] * 4
    torch.accelerator.synchronize()
    assert time.perf_counter() - begin >= 0.1
    assert goal.tolist() == [1.0] * 4


@inside
def test_streams_know_nothing_of_each_other() -> None:
    side = torch.Stream(device=f"{DEVICE}:0")
    results = []
    for careful in (False, True):
        with device.held():
            with side:
                x = torch.full((4,), 5.0, device=DEVICE)
                done = side.record_event()
            if careful:
                torch.accelerator.current_stream().wait_event(done)
            y = x + 1
            torch.accelerator.current_stream().synchronize()
            results.append(y.cpu())
            side.synchronize()
    assert results[0].isnan().all()
    assert (results[1] == 6).all()


@inside
def test_events_tell_where_a_stream_is() -> None:
    first = torch.Event(device=f"{DEVICE}:0", enable_timing=True)
    second = torch.Event(device=f"{DEVICE}:0", enable_timing=True)
    with device.held():
        first.record()
        device.submit(torch.device(DEVICE, 0), time.sleep, 0.02)
        second.record()
        assert not first.query()
        second.synchronize()
    assert first.query()
    assert first.elapsed_time(second) >= 20


@inside
def test_devices_exchange_in_order() -> None:
    with device.held():
        x = torch.ones(4, device=f"{DEVICE}:0")
        y = x.to(f"{DEVICE}:1")
        x.fill_(2)
        assert y.device.index == 1
        assert y.tolist() == [1.0] * 4
        assert x.tolist() == [2.0] * 4


@inside
def test_errors_of_kernels_come_with_the_next_wait() -> None:
    place = torch.tensor([7], device=DEVICE)
    torch.ones(3, device=DEVICE).index_select(0, place)
    with pytest.raises(RuntimeError, match=r"submitted before: aten::index_select: index out of"):
        torch.accelerator.synchronize()
    torch.accelerator.synchronize()  # said once

    def fail() -> None:
        raise KeyError("lost")

    device.submit(torch.device(DEVICE, 0), fail, name="mine")
    with pytest.raises(RuntimeError, match="mine: KeyError: 'lost'"):
        torch.accelerator.synchronize()


@inside
def test_errors_of_shapes_come_at_once() -> None:
    x = torch.ones(3, device=DEVICE)
    with device.held(), pytest.raises(RuntimeError, match="must match the size of tensor b"):
        x + torch.ones(4, device=DEVICE)
    with device.held(), pytest.raises(RuntimeError, match="cannot be multiplied"):
        x.expand(2, 3) @ x.expand(2, 3)


@inside
def test_only_answers_that_depend_on_values_are_waited_for() -> None:
    before = dict(device.waited())
    x = torch.randn(4, 8, device=DEVICE)
    y = torch.nn.functional.rms_norm(x @ x.T, (4,)).softmax(-1).to(torch.bfloat16)
    y = torch.cat((y.sort(dim=-1, stable=True).values, y.topk(2).values), -1)
    y[y > 0.5] = 0
    y.index_add_(0, torch.zeros(4, dtype=torch.long, device=DEVICE), y.clone())
    assert dict(device.waited()) == before
    assert torch.nonzero(y).shape[1] == 2
    assert x.sum().item() == x.cpu().sum().item()
    after = device.waited()
    new = {name for name in after if after[name] != before.get(name, 0)}
    assert new == {"aten::nonzero", "aten::_local_scalar_dense"}


@inside
def test_random_numbers_do_not_depend_on_time() -> None:
    def draw() -> torch.Tensor:
        torch.manual_seed(5)
        return torch.cat((torch.randn(50, device=DEVICE), torch.rand(50, device=DEVICE)))

    early = draw().cpu()
    with device.held():
        late = draw()
        torch.manual_seed(6)
        assert torch.equal(late.cpu(), early)
    own = torch.Generator(device=DEVICE).manual_seed(5)
    assert not torch.equal(early[:50], early[50:])
    state = own.get_state()
    first = torch.randn(5, generator=own, device=DEVICE)
    own.set_state(state)
    assert torch.equal(first, torch.randn(5, generator=own, device=DEVICE))
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(5, generator=torch.Generator(), device=DEVICE)


def test_a_forked_process_is_told(built: None) -> None:
    done = run_alone(
        f"""
        import os, sys
        import torch
        from glm5_hal.conformance.simulated import device
        device.simulate("{DEVICE}")
        torch.ones(2, device="{DEVICE}").cpu()
        child = os.fork()
        if child == 0:
            try:
                torch.ones(2, device="{DEVICE}")
            except RuntimeError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    assert "cannot be used in a forked process: spawn it" in done.stdout, done.stderr
