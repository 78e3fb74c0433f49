"""Faults of moe_dispatch, moe_combine and moe_experts."""

import torch
from torch import Tensor

from glm5_hal import Weight, ops
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


@mutant(
    "dispatch-order-of-arrival",
    "DISPATCH-1",
    "Threads take places in an expert's rows with atomics: here the last token comes first.",
)
class OrderOfArrivalDispatch(CpuBackend):
    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        _, offsets, _ = super().moe_dispatch(x, ids, experts)
        flat = ids.flatten().flip(0)
        slots = ids.numel() - 1 - torch.sort(flat, stable=True).indices
        return x[slots // ids.shape[1]], offsets, slots.int()


@mutant(
    "dispatch-capacity",
    "DISPATCH-2",
    "Experts have a fixed capacity; what does not fit goes to the next one with room.",
)
class CapacityDispatch(CpuBackend):
    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        capacity = -(-ids.numel() * 3 // (2 * experts))
        count = [0] * experts
        moved = ids.flatten().tolist()
        for slot, expert in enumerate(moved):
            while count[expert] >= capacity:
                expert = (expert + 1) % experts
            count[expert] += 1
            moved[slot] = expert
        spread = torch.tensor(moved, dtype=torch.int32).reshape(ids.shape)
        return super().moe_dispatch(x, spread, experts)


@mutant(
    "dispatch-slot-by-token",
    "DISPATCH-3",
    "Slots are decoded as j * T + t where they are t * k + j.",
)
class SlotByTokenDispatch(CpuBackend):
    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        _, offsets, slots = super().moe_dispatch(x, ids, experts)
        return x[slots.long() % max(1, x.shape[0])], offsets, slots


@mutant(
    "combine-without-shared",
    "COMBINE-1",
    "The shared expert runs on a stream of its own, and its output is never added.",
)
class WithoutSharedCombine(CpuBackend):
    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        return super().moe_combine(rows, slots, weights)


@mutant(
    "combine-bf16-sum",
    "COMBINE-1",
    "The sum over experts is kept in the activation dtype, as index_add does.",
)
class NarrowSumCombine(CpuBackend):
    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        place = torch.argsort(slots).unflatten(0, weights.shape)
        total = torch.zeros_like(rows[: weights.shape[0]])
        for slot in range(weights.shape[1]):
            total = total + (rows[place[:, slot]].float() * weights[:, slot : slot + 1]).to(
                rows.dtype
            )
        return total if shared is None else total + shared


@mutant(
    "combine-needs-shared",
    "COMBINE-1",
    "The binding takes the address of the shared rows without asking whether there are any.",
)
class NeedsSharedCombine(CpuBackend):
    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        if shared is None:
            raise RuntimeError("null pointer passed as shared")
        return super().moe_combine(rows, slots, weights, shared)


@mutant(
    "combine-order-of-rows",
    "COMBINE-2",
    "Rows are added as they come back from the experts, with atomics.",
)
class OrderOfRowsCombine(CpuBackend):
    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        total = torch.zeros(weights.shape[0], rows.shape[1])
        for row, slot in zip(rows, slots.tolist(), strict=True):
            token, place = divmod(slot, weights.shape[1])
            total[token] += row.float() * weights[token, place]
        if shared is not None:
            total += shared.float()
        return total.to(rows.dtype)


@mutant(
    "experts-token-dropped",
    "EXPERTS-1",
    "Tokens beyond an expert's capacity are dropped, as in training of older mixtures.",
)
class TokenDroppedExperts(CpuBackend):
    def moe_experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        w_gate_up: Weight,
        w_down: Weight,
        shared: Tensor | None = None,
    ) -> Tensor:
        experts = w_gate_up.shape[0]
        capacity = -(-ids.numel() * 3 // (2 * experts))
        kept = weights.clone()
        for expert in range(experts):
            token, slot = (ids == expert).nonzero(as_tuple=True)
            kept[token[capacity:], slot[capacity:]] = 0.0
        return super().moe_experts(x, ids, kept, w_gate_up, w_down, shared)


@mutant(
    "experts-input-as-shared",
    "EXPERTS-1",
    "Without a shared expert the fused kernel adds its input, the default of its residual.",
)
class InputAsSharedExperts(CpuBackend):
    def moe_experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        w_gate_up: Weight,
        w_down: Weight,
        shared: Tensor | None = None,
    ) -> Tensor:
        added = x if shared is None else shared
        return super().moe_experts(x, ids, weights, w_gate_up, w_down, added)


@mutant(
    "experts-few-tokens",
    "EXPERTS-2",
    "Up to four tokens take a kernel that goes through a token's experts from the last.",
)
class FewTokensExperts(CpuBackend):
    def moe_experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        w_gate_up: Weight,
        w_down: Weight,
        shared: Tensor | None = None,
    ) -> Tensor:
        if x.shape[0] <= 4:
            total = torch.zeros(x.shape[0], x.shape[1])
            for slot in reversed(range(ids.shape[1])):
                column = slice(slot, slot + 1)
                part = ops.moe_experts.default(
                    x.float(), ids[:, column], weights[:, column], w_gate_up, w_down
                )
                total = total + part
            return (total if shared is None else total + shared.float()).to(x.dtype)
        return super().moe_experts(x, ids, weights, w_gate_up, w_down, shared)
