"""Muon's orthogonalisation: the function, its symmetries, and its rounding error."""

import itertools

import pytest
import torch
from op_inputs import Inputs, by_dtype, call, reference, same_bytes
from torch import Tensor

from glm5_hal import ops

U = 2.0**-24
A, B, C = 3.4445, -4.7750, 2.0315
SHAPES = [(1, 1), (1, 9), (4, 4), (16, 64), (64, 16), (48, 50)]
by_shape = pytest.mark.parametrize(("m", "n"), SHAPES)


def amplification(before: Tensor, after: Tensor) -> float:
    """How much f may enlarge a small error of X, where f maps singular values before to after.

    In the Frobenius norm: the largest of the divided differences of f, continued as an odd
    function, over the spectrum.
    """
    s, t = torch.cat((before, -before)), torch.cat((after, -after))
    ds = s.unsqueeze(0) - s.unsqueeze(1)
    dt = t.unsqueeze(0) - t.unsqueeze(1)
    apart = ds.abs() > 1e-9
    return float((dt[apart] / ds[apart]).abs().max()) if apart.any() else 4.0**5


def error_bound(g: Tensor, steps: int) -> float:
    """Frobenius norm of the error, to first order in u.

    Each product is off by its number of terms times u, times the product of the norms. What a
    step adds is enlarged by the steps after it.
    """
    x = g.double() if g.shape[0] <= g.shape[1] else g.double().T
    m, n = x.shape
    x = x / x.norm()
    norms = [(m + n + 6) / 2 * U]  # squares summed by rows, root, two divisions
    spectra = [torch.linalg.svdvals(x)]
    for _ in range(steps):
        gram = x @ x.T
        weight = B * gram + C * gram @ gram
        f, large = float(x.norm()), float(spectra[-1].max())
        e_gram = n * U * f**2
        e_square = 2 * large**2 * e_gram + m * U * float(gram.norm()) ** 2
        e_weight = abs(B) * e_gram + abs(C) * e_square + 3 * U * f**2 * (abs(B) + large**2 * C)
        added = e_weight * large + m * U * float(weight.norm()) * f + 3 * U * (A + 3) * f
        x = A * x + weight @ x
        norms.append(added)
        spectra.append(torch.linalg.svdvals(x))
    return sum(e * amplification(s, spectra[-1]) for e, s in zip(norms, spectra, strict=True))


@by_dtype
@by_shape
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_rounding_error(dtype: torch.dtype, m: int, n: int, steps: int) -> None:
    g = Inputs("muon", m, n).normal(3, m, n, dtype=dtype)
    found, exact = (
        call(ops.muon_orthogonalize, g, steps),
        reference(ops.muon_orthogonalize, g, steps),
    )
    last = (2.0**-8 if dtype is torch.bfloat16 else U) * exact
    for one, y, wanted, rounding in zip(g, found, exact, last, strict=True):
        assert (y.double() - wanted).norm() <= error_bound(one, steps) * 1.1 + rounding.norm()


@by_dtype
@by_shape
def test_singular_values_come_close_to_one_and_vectors_stay(
    dtype: torch.dtype, m: int, n: int
) -> None:
    inputs = Inputs("orthogonal", m, n)
    u, _, v = torch.linalg.svd(inputs.normal(m, n, dtype=torch.float64), full_matrices=False)
    spectrum = torch.linspace(0.1, 1, min(m, n), dtype=torch.float64)
    y = call(ops.muon_orthogonalize, (u * spectrum @ v)[None].to(dtype))[0].double()
    turned = u.T @ y @ v.T
    assert torch.all((torch.diagonal(turned) > 0.65) & (torch.diagonal(turned) < 1.25))
    off = turned - torch.diag(torch.diagonal(turned))
    assert off.abs().max() < (0.05 if dtype is torch.bfloat16 else 1e-5)


@by_dtype
@by_shape
def test_a_tall_matrix_is_a_wide_one_transposed(dtype: torch.dtype, m: int, n: int) -> None:
    g = Inputs("tall").normal(2, m, n, dtype=dtype)
    if m != n:
        assert same_bytes(
            call(ops.muon_orthogonalize, g.mT.contiguous()), call(ops.muon_orthogonalize, g).mT
        )
    assert same_bytes(
        call(ops.muon_orthogonalize, g.mT.contiguous().mT), call(ops.muon_orthogonalize, g)
    )


@by_dtype
@by_shape
def test_zero_gives_zero_and_leaves_its_neighbours(dtype: torch.dtype, m: int, n: int) -> None:
    g = Inputs("zero").normal(3, m, n, dtype=dtype)
    before = call(ops.muon_orthogonalize, g)
    g[1] = 0
    after = call(ops.muon_orthogonalize, g)
    assert (after[1] == 0).all()
    assert same_bytes(after[[0, 2]], before[[0, 2]])


@by_dtype
@pytest.mark.parametrize("power", [-120, -60, 60, 120])
def test_a_power_of_two_changes_nothing(dtype: torch.dtype, power: int) -> None:
    """Neither do squares of the largest or the smallest overflow or vanish."""
    g = Inputs("power").normal(2, 6, 9, dtype=dtype)
    g[g.abs() < 2.0**-5] = 1
    scaled = call(ops.muon_orthogonalize, g * 2.0**power)
    assert same_bytes(scaled, call(ops.muon_orthogonalize, g))


def test_signs_and_permutations_of_rows_commute() -> None:
    g = Inputs("signs").normal(1, 4, 8)
    y = call(ops.muon_orthogonalize, g)
    assert same_bytes(call(ops.muon_orthogonalize, -g), -y)
    for order in itertools.islice(itertools.permutations(range(4)), 6):
        permuted = call(ops.muon_orthogonalize, g[:, list(order)])
        assert torch.allclose(permuted, y[:, list(order)], atol=1e-4)
