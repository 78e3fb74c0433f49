"""Faults of moe_route."""

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


def _best(keys: Tensor, k: int) -> Tensor:
    """Columns of the k largest of each row, in order of key, ties to the lowest: [T, k]."""
    return torch.sort(keys, dim=-1, descending=True, stable=True).indices[:, :k]


def _weights(scores: Tensor, ids: Tensor, normalize: bool, scale: float) -> Tensor:
    """Combine weights [T, k] of chosen experts."""
    weights = scores.gather(1, ids.long())
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * scale


@mutant(
    "route-bf16-scores",
    "ROUTE-1",
    "Sigmoid and bias stay in the dtype of the router's linear.",
)
class NarrowScoresRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        narrow = logits.bfloat16().float()
        return super().moe_route(narrow, bias, k, n_group, topk_group, normalize, scale)


@mutant(
    "route-no-bias",
    "ROUTE-1",
    "The correction bias is loaded and left out of the choice.",
)
class NoBiasRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        none = Weight(bias.role, bias.shape, bias.dtype, torch.zeros_like(bias.tensor))
        return super().moe_route(logits, none, k, n_group, topk_group, normalize, scale)


@mutant(
    "route-weights-with-bias",
    "ROUTE-1",
    "The weights are gathered from the corrected scores that made the choice.",
)
class WeightsWithBiasRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ids, _ = super().moe_route(logits, bias, k, n_group, topk_group, normalize, scale)
        corrected = torch.sigmoid(logits) + bias.tensor
        return ids, _weights(corrected, ids, normalize, scale)


@mutant(
    "route-groups-ignored",
    "ROUTE-2",
    "The kernel was written for one group, which is all that GLM-5 itself has.",
)
class GroupsIgnoredRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return super().moe_route(logits, bias, k, 1, 1, normalize, scale)


@mutant(
    "route-group-by-best-expert",
    "ROUTE-2",
    "A group is scored by its best expert, as DeepSeek-V2 did, not by the sum of its best two.",
)
class GroupByBestRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        scores = torch.sigmoid(logits)
        groups = (scores + bias.tensor).unflatten(1, (n_group, -1))
        kept = torch.zeros(groups.shape[:2], dtype=torch.bool)
        kept.scatter_(1, _best(groups.amax(-1), topk_group), True)
        choice = groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)
        ids = _best(choice, k).sort(-1).values.int()
        return ids, _weights(scores, ids, normalize, scale)


@mutant(
    "route-highest-index",
    "ROUTE-3",
    "A tournament of comparisons keeps the right-hand side of a tie.",
)
class HighestIndexRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        turned = Weight(bias.role, bias.shape, bias.dtype, bias.tensor.flip(0))
        ids, weights = super().moe_route(
            logits.flip(1), turned, k, n_group, topk_group, normalize, scale
        )
        return (logits.shape[1] - 1 - ids).flip(1), weights.flip(1)


@mutant(
    "route-weights-by-score",
    "ROUTE-4",
    "The ids are sorted after the top-k, the weights stay in order of score.",
)
class WeightsByScoreRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ids, weights = super().moe_route(logits, bias, k, n_group, topk_group, normalize, scale)
        return ids, weights.sort(-1, descending=True).values


@mutant(
    "route-normalised-over-all",
    "ROUTE-5",
    "The weights are divided by the sum over all experts instead of the chosen ones.",
)
class NormalisedOverAllRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ids, weights = super().moe_route(logits, bias, k, n_group, topk_group, False, scale)
        return ids, weights / torch.sigmoid(logits).sum(-1, keepdim=True)


@mutant(
    "route-always-normalised",
    "ROUTE-5",
    "The flag is not passed on: every model that the kernel had seen normalises.",
)
class AlwaysNormalisedRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return super().moe_route(logits, bias, k, n_group, topk_group, True, scale)


@mutant(
    "route-full-experts-avoided",
    "ROUTE-6",
    "An expert that has its share of the batch is closed to the tokens behind.",
)
class FullExpertsRoute(CpuBackend):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        experts = logits.shape[1]
        room = torch.full((experts,), 2 * logits.shape[0] * k // experts + 1)
        open_logits = logits.clone()
        for token in range(logits.shape[0]):
            open_logits[token, room <= 0] = -torch.inf
            ids, _ = super().moe_route(
                open_logits[token : token + 1], bias, k, n_group, topk_group, normalize, scale
            )
            room[ids[0].long()] -= 1
        return super().moe_route(open_logits, bias, k, n_group, topk_group, normalize, scale)
