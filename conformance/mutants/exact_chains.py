"""Faults of elementwise operations and of orders, in the exact profile."""

from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight
from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    Fixed,
    contract,
    digits_of,
    divide,
    exact_sums,
    exp,
    exp2_fraction,
    fixed,
    power,
    read,
    sigmoid,
    square_root,
    square_sum,
    write,
)
from glm5_hal.ops.latent_attention import CLAMP, LOG2_E
from glm5_hal.ops.moe_route import TINY_TOTAL

# --- rope ---


class Turning(Portable):
    """Rope by its definition, each step of which a mutant changes."""

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        cos, sin = self._read(table.tensor[positions.long()]).unsqueeze(1).chunk(2, dim=-1)
        wide = self._read(x)
        a, b = (wide[..., 0::2], wide[..., 1::2]) if interleaved else wide.chunk(2, dim=-1)
        turned = self._pair(a, -b, cos, sin), self._pair(b, a, cos, sin)
        joined = (
            torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
        )
        return self._write(joined, x.dtype)

    def _read(self, x: Tensor) -> Tensor:
        return read(x)

    def _write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return write(x, dtype)

    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return a * cos + b * sin


@mutant(
    "operands-not-flushed",
    "EXACT-READ-1",
    "Operands are taken as they are: the threshold was thought to be about subnormal values.",
)
class OperandsNotFlushed(Turning):
    def _read(self, x: Tensor) -> Tensor:
        return x.float()


@mutant(
    "threshold-itself-flushed",
    "EXACT-READ-1",
    "The threshold is compared the other way: 2^-50 itself reads as zero.",
)
class ThresholdItselfFlushed(Turning):
    def _read(self, x: Tensor) -> Tensor:
        return torch.where(x.float().abs() <= 2.0**-50, 0.0, x.float())


@mutant(
    "negative-zero-kept",
    "EXACT-WRITE-1",
    "Small results are flushed and keep their sign.",
)
class NegativeZeroKept(Turning):
    def _write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        out = write(x, dtype)
        return torch.where((out == 0) & x.signbit(), -0.0, out)


@mutant(
    "small-results-kept",
    "EXACT-WRITE-1",
    "Results are stored as they come.",
)
class SmallResultsKept(Turning):
    def _write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.where(x.isnan(), torch.nan, x + 0.0).to(dtype)


@mutant(
    "rope-contracted",
    "EXACT-ROUNDING-1",
    "The compiler contracts a product and a sum into one fused multiply-add.",
)
class ContractedRope(Turning):
    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return ((b * sin).double() + a.double() * cos.double()).float()


@mutant(
    "rope-in-double",
    "ROPE-EXACT-1",
    "The rotation is computed wider than the definition says, and rounded once.",
)
class DoubleRope(Turning):
    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return (a.double() * cos.double() + b.double() * sin.double()).float()


# --- sums in an order ---


@mutant(
    "combine-backwards",
    "COMBINE-EXACT-1",
    "Slots are added from the last to the first.",
)
class BackwardsCombine(Portable):
    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        k = weights.shape[1]
        turned = slots // k * k + (k - 1 - slots % k)
        return super().moe_combine(rows, turned.int(), weights.flip(-1), shared)


@mutant(
    "heads-backwards",
    "INDEX-SCORES-EXACT-2",
    "Heads are added from the last to the first.",
)
class BackwardsIndexScores(Portable):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return super().index_scores(q.flip(1), w.flip(1), keys, context, scale)


@mutant(
    "index-scores-one-exponent",
    "INDEX-SCORES-EXACT-1",
    "All heads of a query are fixed with the largest exponent among them.",
)
class OneExponentIndexScores(Portable):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        own = fixed(q, ACTIVATION_DIGITS)
        largest = own.exponent.amax(-1, keepdim=True).expand_as(own.exponent)
        shared = fixed(q, ACTIVATION_DIGITS, largest)
        kept = shared.integers * power(shared.exponent - shared.bits).unsqueeze(-1)
        kept = torch.where(shared.finite.unsqueeze(-1), kept, torch.nan)
        return super().index_scores(kept.to(q.dtype), w, keys, context, scale)


# --- division and roots ---


def _near_reciprocal(x: Tensor) -> Tensor:
    """1 / x one unit too small where the quotient was rounded up, as a Newton step leaves it."""
    right = 1.0 / x
    above = right.double() * x.double() > 1
    return torch.where(above, torch.nextafter(right, torch.zeros_like(right)), right)


class Normed(Portable):
    """RMSNorm by its definition, each step of which a mutant changes."""

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = x if residual is None else self._sum(x, residual)
        rows = fixed(h, ACTIVATION_DIGITS)
        mean = divide(square_sum(rows).float(), torch.tensor(float(h.shape[-1])))
        square = write(mean.double() * power(2 * (rows.exponent - rows.bits)), torch.float32)
        scale = torch.where(rows.finite, self._inverse(square + torch.tensor(eps)), torch.nan)
        return self._scaled(h, scale.unsqueeze(-1), w.tensor, x.dtype), h

    def _sum(self, x: Tensor, residual: Tensor) -> Tensor:
        return write(read(x) + read(residual), x.dtype)

    def _inverse(self, square: Tensor) -> Tensor:
        return divide(torch.ones(()), square_root(square))

    def _scaled(self, h: Tensor, scale: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
        return write((read(h) * scale) * read(w), dtype)


@mutant(
    "reciprocal-root",
    "EXACT-DIVIDE-1",
    "One instruction gives 1 / sqrt(x), correctly rounded at best: one rounding instead of two.",
)
class ReciprocalRoot(Normed):
    def _inverse(self, square: Tensor) -> Tensor:
        return torch.rsqrt(square.double()).float()


@mutant(
    "approximate-reciprocal",
    "EXACT-DIVIDE-1",
    "The reciprocal is a table and one Newton step.",
)
class ApproximateReciprocal(Normed):
    def _inverse(self, square: Tensor) -> Tensor:
        return _near_reciprocal(square_root(square))


@mutant(
    "rms-norm-residual-not-flushed",
    "RMS-NORM-EXACT-1",
    "The sum with the residual is a plain addition.",
)
class PlainResidual(Normed):
    def _sum(self, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual


@mutant(
    "rms-norm-weight-first",
    "RMS-NORM-EXACT-2",
    "Scale and weight are multiplied first, which saves a product a row.",
)
class WeightFirst(Normed):
    def _scaled(self, h: Tensor, scale: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
        return write(read(h) * (scale * read(w)), dtype)


@mutant(
    "layer-norm-float-mean",
    "LAYER-NORM-EXACT-1",
    "The mean is rounded to float32 and subtracted from the values.",
)
class FloatMeanLayerNorm(Portable):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.float()
        mean = wide.double().mean(-1, keepdim=True).float()
        return super().layer_norm(wide - mean, w, b, eps).to(x.dtype)


@mutant(
    "layer-norm-variance-of-squares",
    "LAYER-NORM-EXACT-2",
    "The variance is the mean of squares less the square of the mean, in float64.",
)
class VarianceOfSquares(Portable):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.double()
        mean = wide.mean(-1, keepdim=True)
        variance = (wide.square().mean(-1, keepdim=True) - mean.square()).clamp(min=0.0)
        scale = divide(torch.ones(()), square_root(variance.float() + torch.tensor(eps)))
        value = (read((wide - mean).float()) * scale) * read(w.tensor) + read(b.tensor)
        return write(value, x.dtype)


# --- exponentials ---


class Gated(Portable):
    """SwiGLU by its definition, whose sigmoid a mutant changes."""

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = read(gate_up).chunk(2, dim=-1)
        return write((gate * self._sigmoid(gate)) * up, gate_up.dtype)

    def _sigmoid(self, x: Tensor) -> Tensor:
        return sigmoid(x)


@mutant(
    "library-exponential",
    "EXACT-EXP-1",
    "The library's exponential: as good as the contract's, and another one.",
)
class LibraryExponential(Gated):
    def _sigmoid(self, x: Tensor) -> Tensor:
        small = torch.where(x.abs() > 80.0, 0.0, torch.exp(-x.abs()))
        large = 1.0 / (small + 1.0)
        return torch.where(x >= 0, large, small * large)


@mutant(
    "exponential-to-the-end",
    "EXACT-EXP-1",
    "The exponential goes on below -80, where its results are still normal numbers.",
)
class ExponentialToTheEnd(Gated):
    def _sigmoid(self, x: Tensor) -> Tensor:
        far = (-x.abs() < -80.0) & (x < 0)
        return torch.where(far, torch.exp(x.double()).float(), sigmoid(x))


@mutant(
    "sigmoid-one-formula",
    "EXACT-SIGMOID-1",
    "Negative gates take e^x / (1 + e^x), a quotient instead of a product of one.",
)
class OneFormulaSigmoid(Gated):
    def _sigmoid(self, x: Tensor) -> Tensor:
        small = exp(-x.abs())
        quotient = divide(small, small + 1.0)  # e^-|x| / (1 + e^-|x|), one rounding less
        return torch.where(x >= 0, divide(torch.ones_like(x), small + 1.0), quotient)


@mutant(
    "swiglu-other-order",
    "SWIGLU-EXACT-1",
    "The product of gate and up comes first, then the sigmoid.",
)
class OtherOrderSwiglu(Portable):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = read(gate_up).chunk(2, dim=-1)
        return write((gate * up) * sigmoid(gate), gate_up.dtype)


# --- routing and sampling ---


@mutant(
    "route-choice-unrounded",
    "ROUTE-EXACT-1",
    "Scores and bias are added, and compared, in float64.",
)
class UnroundedChoice(Portable):
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
        scores = read(sigmoid(logits))
        if n_group > 1 or not bool(scores.isfinite().all()):
            return super().moe_route(logits, bias, k, n_group, topk_group, normalize, scale)
        choice = scores.double() + read(bias.tensor).double()
        ranked = torch.sort(choice, dim=-1, descending=True, stable=True).indices
        ids = ranked[:, :k].sort(dim=-1).values
        weights = scores.gather(1, ids)
        if normalize:
            total = torch.zeros_like(weights[:, 0])
            for slot in range(k):
                total = total + weights[:, slot]
            weights = divide(weights, (total + TINY_TOTAL).unsqueeze(1))
        return ids.int(), write(weights * torch.tensor(scale), torch.float32)


@mutant(
    "route-scale-over-total",
    "ROUTE-EXACT-2",
    "The quotient scale / total is taken once a row, then multiplied by each score.",
)
class ScaleOverTotal(Portable):
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
        ids, weights = super().moe_route(logits, bias, k, n_group, topk_group, False, 1.0)
        if not normalize:
            return ids, write(weights * torch.tensor(scale), torch.float32)
        total = torch.zeros_like(weights[:, 0])
        for slot in range(k):
            total = total + weights[:, slot]
        factor = divide(torch.tensor(scale), (total + TINY_TOTAL).unsqueeze(1))
        return ids, write(weights * factor, torch.float32)


@mutant(
    "sample-cold-by-zero",
    "SAMPLE-EXACT-1",
    "Only a temperature of zero is greedy; a tiny one divides.",
)
class ColdByZero(Portable):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        cold = (temperature > 0) & (temperature < 2.0**-50)
        warm = torch.where(cold, 1.0, temperature)
        return super().sample(logits, warm, top_p, draws)


@mutant(
    "sample-float-mass",
    "SAMPLE-EXACT-2",
    "The mass is summed in float32.",
)
class FloatMass(Portable):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        out = super().sample(logits, temperature, top_p, draws)
        for row in range(logits.shape[0]):
            if temperature[row] > 0 and bool(logits[row].isfinite().all()):
                out[row] = _float_draw(logits[row], temperature[row], top_p[row], draws[row])
        return out


def _float_draw(row: Tensor, temperature: Tensor, top_p: Tensor, draw: Tensor) -> int:
    weights, order = torch.sort(
        torch.softmax((row - row.max()) / temperature, -1), descending=True, stable=True
    )
    mass = weights.cumsum(0)
    kept = (mass - weights) < top_p
    kept[0] = True
    target = (draw + 0.5) / 2**24 * mass[int(kept.nonzero()[-1])]
    return int(order[min(int((mass <= target).sum()), row.shape[0] - 1)])


# --- attention ---


class Attending(Portable):
    """Attention by its definition; a mutant changes the scores' weights or their integers."""

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        latent = q_latent.shape[-1]
        digits = digits_of(cache.dtype)
        out = super().latent_attention(q_latent, q_rope, cache, context, scale, indices)
        for token in range(q_latent.shape[0]):
            rows = cache.tensor[context.slots(token, cache.page_size, indices)]
            if rows.shape[0] and bool(rows.isfinite().all()):
                query = [fixed(q[token], ACTIVATION_DIGITS) for q in (q_latent, q_rope)]
                parts = [fixed(part, digits) for part in (rows[:, :latent], rows[:, latent:])]
                scores = contract(query[0], parts[0]) + contract(query[1], parts[1])
                scores = (scores * torch.tensor(scale * LOG2_E)).clamp(-CLAMP, CLAMP)
                value = self._weighted(scores, rows[:, :latent])
                out[token] = torch.where(out[token].isnan(), out[token], value.to(out.dtype))
        return out

    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        """Weighted rows [H, C] of scores [H, S] in powers of two."""
        rows = fixed(content, digits_of(content.dtype))
        whole = torch.round(scores)
        part = exp2_fraction(scores - whole).double()
        whole = whole.nan_to_num().long()
        lifted = whole + rows.exponent
        top, top_lifted = whole.amax(-1, keepdim=True), lifted.amax(-1, keepdim=True)
        mass = self._integers(part, whole, top, 23).sum(-1, keepdim=True).long()
        weights = self._integers(part, lifted, top_lifted, 21)
        finite = torch.ones(scores.shape[0], dtype=torch.bool)
        columns = Fixed(rows.integers.mT, rows.exponent, rows.finite, rows.digits)
        sums = exact_sums(Fixed(weights, top_lifted, finite, 3), columns).float()
        value = (sums * divide(torch.ones(()), mass.float())).double()
        return write(value * power(top_lifted - top + 2 - rows.bits), torch.float32)

    def _integers(self, part: Tensor, place: Tensor, top: Tensor, bits: int) -> Tensor:
        return torch.round(part * power((place - top + bits).clamp(min=-2)))


@mutant(
    "attention-scores-one-part",
    "ATTENTION-EXACT-1",
    "The query and the cached row are fixed as a whole, not in their two parts.",
)
class WholeRowAttention(Portable):
    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        query = torch.cat((q_latent, q_rope), dim=-1)
        whole = fixed(query, ACTIVATION_DIGITS)
        kept = whole.integers * power(whole.exponent - whole.bits).unsqueeze(-1)
        kept = torch.where(whole.finite.unsqueeze(-1), kept, torch.nan).to(query.dtype)
        latent = q_latent.shape[-1]
        q_latent, q_rope = kept[..., :latent].contiguous(), kept[..., latent:].contiguous()
        rows = fixed(cache.tensor, digits_of(cache.dtype))
        values = rows.integers * power(rows.exponent - rows.bits).unsqueeze(-1)
        values = torch.where(rows.finite.unsqueeze(-1), values, torch.nan).to(cache.dtype)
        other = replace(cache, data=values)
        return super().latent_attention(q_latent, q_rope, other, context, scale, indices)


@mutant(
    "attention-library-exp2",
    "EXACT-EXP2-1",
    "The weights are the library's powers of two.",
)
class LibraryExp2Attention(Attending):
    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        weights = torch.exp2(scores - scores.amax(-1, keepdim=True))
        total = weights.double().sum(-1, keepdim=True)
        return ((weights.double() @ content.double()) / total).float()


@mutant(
    "attention-maximum-per-split",
    "ATTENTION-EXACT-2",
    "Each split of 16 rows has integers of its own maximum, which are shifted when splits meet.",
)
class MaximumPerSplitAttention(Attending):
    def _integers(self, part: Tensor, place: Tensor, top: Tensor, bits: int) -> Tensor:
        made = []
        for mine, where in zip(part.split(16, -1), place.split(16, -1), strict=True):
            own = where.amax(-1, keepdim=True)
            integers = super()._integers(mine, where, own, bits)
            made.append(super()._integers(integers, own, top, 0))
        return torch.cat(made, dim=-1)


@mutant(
    "attention-running-maximum",
    "ATTENTION-EXACT-2",
    "A running maximum: what is summed so far is rescaled when a later tile raises it.",
)
class RunningMaximumAttention(Attending):
    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        top = torch.full((scores.shape[0], 1), -torch.inf)
        total = torch.zeros_like(top)
        sums = torch.zeros(scores.shape[0], content.shape[1])
        for tile, rows in zip(scores.split(16, -1), content.float().split(16), strict=True):
            higher = torch.maximum(top, tile.amax(-1, keepdim=True))
            weights = torch.exp2(tile - higher)
            sums = sums * torch.exp2(top - higher) + weights @ rows
            total = total * torch.exp2(top - higher) + weights.sum(-1, keepdim=True)
            top = higher
        return sums / total


@mutant(
    "attention-float-sums",
    "ATTENTION-EXACT-3",
    "The weights are right, and their products with the rows are added in float32.",
)
class FloatSumsAttention(Attending):
    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        weights = torch.exp2(scores.double() - scores.double().amax(-1, keepdim=True)).float()
        sums = torch.zeros(scores.shape[0], content.shape[1])
        for row in range(content.shape[0]):
            sums = sums + weights[:, row : row + 1] * content[row].float()
        return sums / weights.sum(-1, keepdim=True)


# --- muon ---


@mutant(
    "muon-unscaled",
    "MUON-EXACT-1",
    "The matrix is divided by its norm without the power of two before it.",
)
class UnscaledMuon(Portable):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        wide = g.double()
        norm = wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-300)
        scaled = torch.where(wide.isfinite().all(-1).all(-1)[:, None, None], wide / norm, torch.nan)
        return super().muon_orthogonalize(scaled.float().to(g.dtype), steps)


@mutant(
    "muon-float-steps",
    "MUON-EXACT-2",
    "The products of a step are float32 matrix products.",
)
class FloatStepsMuon(Portable):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        start = super().muon_orthogonalize(g, 0).float()
        a, b, c = 3.4445, -4.7750, 2.0315
        tall = g.shape[1] > g.shape[2]
        x = start.mT if tall else start
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return (x.mT if tall else x).to(g.dtype).contiguous()


@mutant(
    "muon-nan-where-it-falls",
    "MUON-EXACT-3",
    "Rows without NaN are iterated on, as if the others were zeros.",
)
class NanWhereItFallsMuon(Portable):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        spoiled = ~g.isfinite().all(-1, keepdim=True)
        out = super().muon_orthogonalize(torch.where(spoiled, 0.0, g), steps)
        return torch.where(spoiled, torch.nan, out)


# --- modes and the whole model ---


@mutant(
    "mode-of-its-own",
    "EXACT-MODES-1",
    "The kernel of one instruction set contracts a product and a sum.",
)
class ModeOfItsOwn(ContractedRope):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._mode = "plain"

    @classmethod
    def modes(cls) -> tuple[str, ...]:
        return ("plain", "fused")

    def use_mode(self, mode: str) -> None:
        self._mode = mode

    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pair = super()._pair if self._mode == "fused" else super(ContractedRope, self)._pair
        return pair(a, b, cos, sin)


@mutant(
    "head-of-the-model-in-float",
    "EXACT-BYTES-1",
    "Logits of the whole vocabulary come from another library than the layers.",
)
class HeadOfTheModel(Portable):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        if w.shape[0] < 256 or out_dtype != torch.float32:
            return super().linear(x, w, out_dtype)
        return x.float() @ w.tensor.float().T
