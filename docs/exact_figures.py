"""Measures what docs/exact.md says of accuracy and cost: ``python docs/exact_figures.py``.

Times are medians of alternating calls in one process; compare them with each other, not with those
of another machine.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from glm5_hal import PagedContext, Runtime, WeightRole, open_runtime, ops

BF16 = torch.bfloat16


def relative(found: Tensor, exact: Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return float((found.double() - exact).norm() / exact.norm())


def linear_accuracy(runtime: Runtime) -> list[str]:
    """One linear, K = 6144, without and with outlier channels, against float64."""
    rows = ["| outliers | exact, float32 out | bf16 rounding alone |", "|---|---|---|"]
    generator = torch.Generator().manual_seed(1)
    for factor in (1, 60, 1000):
        x = torch.randn(256, 6144, generator=generator)
        x[:, 77] *= factor
        x = x.to(BF16)
        w = (torch.randn(256, 6144, generator=generator) * 6144**-0.5).to(BF16)
        exact = x.double() @ w.double().T
        with runtime:
            found = ops.linear(x, runtime.prepare_weight(WeightRole.LINEAR, w), torch.float32)
        floor = relative(exact.to(BF16), exact)
        label = "none" if factor == 1 else f"one channel x{factor}"
        rows.append(f"| {label} | {relative(found, exact):.2e} | {floor:.2e} |")
    return rows


def attention_accuracy(runtime: Runtime) -> list[str]:
    """2,048 selected rows, 16 heads, latent 512 + 64, against float64."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(2048, 576, generator=generator).to(BF16)
    query = torch.randn(4, 16, 576, generator=generator).to(BF16)
    scale = 256**-0.5
    wide = rows.double()
    exact = torch.softmax(query.double() @ wide.T * scale, -1) @ wide[:, :512]
    scores = (query @ rows.T).float() * scale
    usual = torch.softmax(scores, -1).to(BF16) @ rows[:, :512]
    found = _attend(runtime, query, rows, scale)
    order = torch.randperm(2048, generator=generator)
    shuffled = _attend(runtime, query, rows[order], scale)
    return [
        "| | relative error |",
        "|---|---|",
        f"| bf16 rounding of the exact result | {relative(exact.to(BF16), exact):.4e} |",
        f"| exact profile | {relative(found, exact):.4e} |",
        f"| bf16 softmax and matmul | {relative(usual, exact):.4e} |",
        f"| exact profile, rows permuted: same bytes | {torch.equal(found, shuffled)} |",
    ]


def _attend(runtime: Runtime, query: Tensor, rows: Tensor, scale: float) -> Tensor:
    tokens, count = query.shape[0], rows.shape[0]
    cache = runtime.allocate_cache(count // 64, 64, rows.shape[1], BF16)
    context = PagedContext(
        page_table=torch.arange(count // 64, dtype=torch.int32)[None],
        sequence=torch.zeros(tokens, dtype=torch.int32),
        lengths=torch.full((tokens,), count, dtype=torch.int32),
        max_length=count,
    )
    with runtime:
        ops.cache_write(cache, rows.contiguous(), torch.arange(count, dtype=torch.int32))
        return ops.latent_attention(
            query[..., :512].contiguous(), query[..., 512:].contiguous(), cache, context, scale
        )


def linear_speed(runtime: Runtime) -> list[str]:
    """K = 6144, N = 2048 against torch's own products on the same machine."""
    rows = [
        "| M | exact | torch bf16 | torch fp32 | exact / bf16 | exact / fp32 |",
        "|---|---|---|---|---|---|",
    ]
    w = torch.randn(2048, 6144).to(BF16)
    prepared, wide = runtime.prepare_weight(WeightRole.LINEAR, w), w.float()
    for tokens in (1, 8, 64, 512):
        x = torch.randn(tokens, 6144).to(BF16)
        x_wide = x.float()
        with runtime:
            ours, narrow, full = paired(
                [
                    lambda x=x: ops.linear(x, prepared),
                    lambda x=x: torch.nn.functional.linear(x, w),
                    lambda x=x_wide: torch.nn.functional.linear(x, wide),
                ]
            )
        times = " | ".join(f"{1e3 * t:.2f} ms" for t in (ours, narrow, full))
        rows.append(f"| {tokens} | {times} | {ours / narrow:.2f} | {ours / full:.2f} |")
    return rows


def paired(calls: list[Callable[[], object]], rounds: int = 15) -> list[float]:
    """Median seconds of each call, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 2):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if number >= 2:  # the first ones warm caches and threads
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def main() -> None:
    """Print every table."""
    runtime = open_runtime("cpu", "exact")
    print(f"plan: {runtime.plan.versions}, mode {runtime.plan.mode or 'none'}")
    print(f"threads: {torch.get_num_threads()}\n")
    for title, table in (
        ("Linear, accuracy", linear_accuracy),
        ("Attention, accuracy", attention_accuracy),
        ("Linear, time", linear_speed),
    ):
        print(f"## {title}\n")
        print("\n".join(table(runtime)) + "\n")


if __name__ == "__main__":
    main()
