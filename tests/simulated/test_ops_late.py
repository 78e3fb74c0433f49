"""torch's ops on the simulated device give the host's bytes when nothing is unusual."""

from collections.abc import Callable

import pytest
import torch
from inside import DEVICE, inside
from torch import Tensor, nn

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "matmul": lambda x: x @ x.T,
    "add": lambda x: x + x[0] + 1,
    "cat": lambda x: torch.cat((x, x[:1])),
    "rms_norm": lambda x: nn.functional.rms_norm(x, (x.shape[-1],)),
    "softmax": lambda x: x.softmax(-1),
    "cumsum": lambda x: x.cumsum(0),
    "sum": lambda x: x.sum((0, 1)),
    "topk": lambda x: x.topk(3)[1],
    "sort": lambda x: x.sort(dim=-1, descending=True, stable=True)[1],
    "masked": lambda x: x[x > 0],
    "nonzero": lambda x: (x > 0).nonzero(),
    "view": lambda x: x.view(torch.int32) >> 3,
    "strided": lambda x: x.t()[1:, ::2].contiguous(),
    "unfold": lambda x: x.unfold(1, 2, 2).sum(-1),
    "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.view(5, 4, 2)).conj() * 1j),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "gather": lambda x: x.gather(1, (x > 0).long()),
    "index_put": lambda x: x.clone().index_put_((x[:, 0] > 0,), torch.tensor(7.0)),
    "scatter": lambda x: torch.zeros_like(x).scatter_add(1, (x > 0).long(), x),
    "embedding": lambda x: nn.functional.embedding((x > 0).long(), x),
    "bfloat16": lambda x: x.bfloat16() @ x.bfloat16().T,
    "attention": lambda x: nn.functional.scaled_dot_product_attention(*[x.view(1, 5, 8)] * 3),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "unique": lambda x: (x > 0).int().unique(),
    "roll": lambda x: x.roll(2, 1).flip(0).tril(),
    "split": lambda x: torch.stack(x.split(4, 1)).amax(0),
    "repeat": lambda x: x.repeat_interleave(torch.tensor([1, 0, 2, 1, 3], device=x.device), 0),
    "arange": lambda x: torch.arange(5, device=x.device) * torch.full((5,), 2, device=x.device),
    "item": lambda x: torch.tensor([x.max().item(), float(x.argmax())]),
    "float64": lambda x: (x.double() / 3).sum(),
}


@inside
@pytest.mark.parametrize("name", CALLS)
def test_the_bytes_are_those_of_the_host(name: str) -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    wanted = CALLS[name](x)
    got = CALLS[name](x.to(DEVICE)).cpu()
    assert got.dtype == wanted.dtype
    assert torch.equal(got, wanted)


@inside
def test_gradients_are_near_those_of_the_host() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 11))
    ids = torch.randint(11, (20,))

    def gradients(place: str) -> list[Tensor]:
        model.zero_grad()
        model.to(place)
        logits = model(ids.to(place))
        nn.functional.cross_entropy(logits, ids.to(place)).backward()
        return [one.grad.cpu() for one in model.parameters() if one.grad is not None]

    wanted, got = gradients("cpu"), gradients(DEVICE)
    assert len(wanted) == len(got) == 5
    for a, b in zip(wanted, got, strict=True):  # backward, the host has formulas of its own
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@inside
def test_the_module_has_what_such_modules_have() -> None:
    module = torch.get_device_module(DEVICE)
    assert module.is_available()
    assert module.device_count() == 2
    module.set_device(1)
    assert module.current_device() == 1
    assert torch.ones(1, device=DEVICE).device.index == 1
    with module.device(0):
        assert module.current_device() == 0
    module.set_device(0)
    stream = module.Stream()
    with module.stream(stream):
        assert module.current_stream() == stream
        event = module.Event(enable_timing=True)
        event.record()
    event.synchronize()
    assert module.current_stream() == module.default_stream() != stream
    assert module.get_device_name(1) == f"simulated {DEVICE}"
    module.manual_seed_all(3)
    first = torch.rand(3, device=DEVICE)
    module.manual_seed(3)
    assert torch.equal(first, torch.rand(3, device=DEVICE))
    state = module.get_rng_state()
    second = torch.rand(3, device=DEVICE)
    module.set_rng_state(state)
    assert torch.equal(second, torch.rand(3, device=DEVICE))
    with pytest.raises(ValueError, match="there are 2"):
        module.get_device_properties(2)
    with pytest.raises(RuntimeError, match="there are 2"):
        module.set_device(2)
    assert torch.accelerator.current_accelerator() == torch.device(DEVICE)
