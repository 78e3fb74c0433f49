"""Kernels with a vendor's habits, in the place of the host's.

Each is a function of the op's arguments in the order of its schema, as tensors of the host on the
device's memory; it runs on the device's thread and writes to the op's outputs. Whether it is taken
is decided when the op is submitted: flags set later do not reach it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm5_hal.conformance.simulated.habits import Habits
from glm5_hal.conformance.simulated.rounding import nudged, rounded
from glm5_hal.conformance.simulated.switch import variable

Kernel = Callable[..., Any]

BLOCK = 32
"""Inner elements that a coarse sum adds before it rounds."""
MANY_ROWS = 8
"""Rows from which on a product whose sums depend on its rows is summed in parts."""
PARTS = 3
FUNCTIONS = ("exp", "exp2", "log", "log2", "rsqrt", "sigmoid", "sin", "cos", "tanh", "erf", "silu")
"""Ops of one float argument whose results may be approximate."""

_habits = Habits()
_calls = itertools.count(1)


def use(habits: Habits) -> None:
    """Take these habits from the next op on."""
    global _habits
    _habits = habits


def install(extension: Any) -> None:
    """Have every op that a habit can change ask before it runs."""
    for name, choose in _CHOICES.items():
        extension.replace(f"aten::{name}", choose)


def permutation(count: int, call: int) -> Tensor:
    """An order of `count` things that differs from call to call: [count] int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(call))


def next_call() -> int:
    """A number that no other call has."""
    return next(_calls)


# --- matrix products ---


@dataclass(frozen=True)
class Products:
    """How a product is summed.

    Attributes:
        bits: of the significand that float32 operands keep; None for all.
        coarse: whether bfloat16 sums are rounded between blocks.
        by_rows: whether the order depends on the number of rows.
        call: seed of the order; None for the usual one.
    """

    bits: int | None
    coarse: bool
    by_rows: bool
    call: int | None

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """a [.., M, K] times b [.., K, N]: [.., M, N]."""
        if not a.is_floating_point():
            return a @ b
        if self.bits is not None and a.dtype == torch.float32:
            a, b = rounded(a, self.bits), rounded(b, self.bits)
        inner = a.shape[-1]
        if self.call is not None:
            order = permutation(inner, self.call)
            a, b = a.index_select(-1, order), b.index_select(-2, order)
        if self.coarse and a.dtype == torch.bfloat16:
            return self._summed(a, b, BLOCK)
        if self.by_rows and a.shape[-2] >= MANY_ROWS:
            return self._summed(a, b, -(-inner // PARTS))
        return a @ b

    @staticmethod
    def _summed(a: Tensor, b: Tensor, block: int) -> Tensor:
        """The product in blocks of the inner dimension, added in the operands' dtype."""
        total = torch.zeros(*a.shape[:-1], b.shape[-1], dtype=a.dtype)
        for begin in range(0, a.shape[-1], max(block, 1)):
            part = slice(begin, begin + block)
            total = total + (a[..., part].float() @ b[..., part, :].float()).to(a.dtype)
        return total


def _products() -> Products | None:
    """How products are summed now; None where nothing is special."""
    habits = _habits
    need = habits.products_need
    if need and torch.are_deterministic_algorithms_enabled() and not variable(need):
        raise RuntimeError(
            f"deterministic algorithms are on, but {need} is not set; "
            f"set {need}=:4096:8 before the device is used"
        )
    made = Products(
        habits.product_bits if habits.rounds_products.on() else None,
        habits.coarse_sums.on(),
        habits.rows_change_products.on(),
        next_call() if habits.unordered_sums.on() else None,
    )
    return None if made == Products(None, False, False, None) else made


def _product_kernel(kernel: Kernel) -> Callable[[], Kernel | None]:
    """Asks for `kernel(products, *arguments)`."""

    def choose() -> Kernel | None:
        products = _products()
        return None if products is None else lambda *arguments: kernel(products, *arguments)

    return choose


def _mm(products: Products, a: Tensor, b: Tensor, out: Tensor) -> None:
    out.copy_(products(a, b))


def _addmm(
    products: Products, x: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, out: Tensor
) -> None:
    made = products(a, b)
    made = made if alpha == 1 else made * alpha
    out.copy_(made if beta == 0 else made + (x if beta == 1 else x * beta))


def _addmv(
    products: Products, x: Tensor, a: Tensor, v: Tensor, beta: float, alpha: float, out: Tensor
) -> None:
    _addmm(products, x.unsqueeze(-1), a, v.unsqueeze(-1), beta, alpha, out.unsqueeze(-1))


def _dot(products: Products, a: Tensor, b: Tensor) -> Tensor:
    return products(a.unsqueeze(0), b.unsqueeze(1)).reshape(())


# --- sums ---


def _unordered_sum(kernel: Kernel) -> Callable[[], Kernel | None]:
    """Asks for `kernel(call, *arguments)` while sums have no order."""

    def choose() -> Kernel | None:
        if not _habits.unordered_sums.on():
            return None
        call = next_call()
        return lambda *arguments: kernel(call, *arguments)

    return choose


def _shuffled(x: Tensor, dims: Sequence[int] | None, call: int) -> Tensor:
    """x with its elements along dims, or along all of them, in another order."""
    for dim in dims or range(x.dim()):
        x = x.index_select(dim, permutation(x.shape[dim], call)) if x.dim() else x
    return x


def _sum(
    call: int, x: Tensor, dims: list[int] | None, keep: bool, dtype: int | None, out: Tensor
) -> None:
    every = tuple(dims) if dims else tuple(range(x.dim()))
    out.copy_(torch.sum(_shuffled(x, every, call), every, keepdim=keep, dtype=out.dtype))


def _mean(
    call: int, x: Tensor, dims: list[int] | None, keep: bool, dtype: int | None, out: Tensor
) -> None:
    every = tuple(dims) if dims else tuple(range(x.dim()))
    out.copy_(torch.mean(_shuffled(x, every, call), every, keepdim=keep, dtype=out.dtype))


def _cumsum(call: int, x: Tensor, dim: int, dtype: int | None, out: Tensor) -> None:
    """In two parts, the second on top of the first's last sum, cut where chance says."""
    length = x.shape[dim] if x.dim() else 0
    if length < 2:
        out.copy_(torch.cumsum(x, dim, dtype=out.dtype))
        return
    cut = 1 + int(permutation(length - 1, call)[0])
    low, high = x.split((cut, length - cut), dim)
    low = torch.cumsum(low, dim, dtype=out.dtype)
    high = torch.cumsum(high, dim, dtype=out.dtype) + low.narrow(dim, cut - 1, 1)
    out.copy_(torch.cat((low, high), dim))


def _softmax(call: int, x: Tensor, dim: int, to_float: bool, out: Tensor) -> None:
    if x.dim() == 0:
        out.fill_(1)
        return
    order = permutation(x.shape[dim], call)
    made = torch.softmax(x.index_select(dim, order), dim, dtype=out.dtype)
    out.index_copy_(dim, order, made)


# --- updates ---


def _unordered_update(kernel: Kernel) -> Callable[[], Kernel | None]:
    """Asks for `kernel(call, *arguments)` while updates have no order."""

    def choose() -> Kernel | None:
        if not _habits.unordered_updates.on():
            return None
        call = next_call()
        return lambda *arguments: kernel(call, *arguments)

    return choose


def _index_add(
    call: int, x: Tensor, dim: int, index: Tensor, source: Tensor, alpha: float, out: Tensor
) -> None:
    order = permutation(index.numel(), call)
    source = source.index_select(dim, order) if source.dim() else source
    out.copy_(torch.index_add(x, dim, index.reshape(-1)[order], source, alpha=alpha))


def _scatter_add(
    call: int, x: Tensor, dim: int, index: Tensor, source: Tensor, out: Tensor
) -> None:
    if index.dim() == 0:
        out.copy_(torch.scatter_add(x, dim, index, source))
        return
    source = source[tuple(slice(size) for size in index.shape)]
    order = permutation(index.shape[dim], call)
    made = torch.scatter_add(
        x, dim, index.index_select(dim, order), source.index_select(dim, order)
    )
    out.copy_(made)


def _index_put(
    call: int,
    x: Tensor,
    indices: list[Tensor | None],
    values: Tensor,
    accumulate: bool,
    unsafe: bool,
) -> None:
    given = [index for index in indices if index is not None]
    simple = indices[: len(given)] == given and all(i.dtype != torch.bool for i in given)
    if not given or not simple:  # masks write every place once
        torch.ops.aten._index_put_impl_(x, indices, values, accumulate, unsafe)
        return
    places = torch.broadcast_tensors(*given)
    rest = x.shape[len(given) :]
    values = values.expand(*places[0].shape, *rest).reshape(-1, *rest)
    order = permutation(values.shape[0], call)
    shuffled = [place.reshape(-1)[order] for place in places]
    torch.ops.aten._index_put_impl_(x, shuffled, values[order], accumulate, unsafe)


def _embedding_backward(
    call: int, grad: Tensor, ids: Tensor, rows: int, padding: int, by_count: bool
) -> Tensor:
    order = permutation(ids.numel(), call)
    made: Tensor = torch.ops.aten.embedding_dense_backward(
        grad.reshape(ids.numel(), -1)[order], ids.reshape(-1)[order], rows, padding, by_count
    )
    return made


# --- choices among equals ---


def _topk() -> Kernel | None:
    if not _habits.unstable_choice.on():
        return None
    call = next_call()

    def kernel(
        x: Tensor, k: int, dim: int, largest: bool, ordered: bool, values: Tensor, indices: Tensor
    ) -> None:
        if x.dim() == 0:
            torch.topk(x, k, dim, largest, ordered, out=(values, indices))
            return
        order = permutation(x.shape[dim], call)
        found = torch.topk(x.index_select(dim, order), k, dim, largest, ordered)
        values.copy_(found.values)
        indices.copy_(order[found.indices])

    return kernel


def _sort() -> Kernel | None:
    if not _habits.unstable_choice.on():
        return None
    call = next_call()

    def kernel(
        x: Tensor, stable: bool | None, dim: int, descending: bool, values: Tensor, indices: Tensor
    ) -> None:
        ordered = torch.arange(x.shape[dim] if x.dim() else 1)
        order = ordered if stable else permutation(ordered.numel(), call)
        chosen = x.index_select(dim, order) if x.dim() else x
        found = torch.sort(chosen, stable=True, dim=dim, descending=descending)
        values.copy_(found.values)
        indices.copy_(order[found.indices])

    return kernel


# --- approximations ---


def _approximate(name: str, division: bool) -> Callable[[], Kernel | None]:
    """Asks for the op with some results off by one place."""
    op = getattr(torch.ops.aten, name).out

    def kernel(*arguments: Any) -> None:
        *operands, out = arguments
        op(*operands, out=out)
        out.copy_(nudged(out))

    def choose() -> Kernel | None:
        habits = _habits
        switch = habits.approximate_division if division else habits.approximate_functions
        return kernel if switch.on() else None

    return choose


_CHOICES: dict[str, Callable[[], Kernel | None]] = {
    "mm.out": _product_kernel(_mm),
    "bmm.out": _product_kernel(_mm),
    "addmm.out": _product_kernel(_addmm),
    "baddbmm.out": _product_kernel(_addmm),
    "addmv.out": _product_kernel(_addmv),
    "dot": _product_kernel(_dot),
    "sum.IntList_out": _unordered_sum(_sum),
    "mean.out": _unordered_sum(_mean),
    "cumsum.out": _unordered_sum(_cumsum),
    "_softmax.out": _unordered_sum(_softmax),
    "index_add.out": _unordered_update(_index_add),
    "scatter_add.out": _unordered_update(_scatter_add),
    "_index_put_impl_": _unordered_update(_index_put),
    "embedding_dense_backward": _unordered_update(_embedding_backward),
    "topk.values": _topk,
    "sort.values_stable": _sort,
    "div.out": _approximate("div", division=True),
    "reciprocal.out": _approximate("reciprocal", division=True),
    **{f"{name}.out": _approximate(name, division=False) for name in FUNCTIONS},
}
