"""The RoPE table: frozen bits, and as close to the truth as float64 gets."""

import hashlib
import math

import mpmath
import numpy as np
import pytest
import torch

from glm5_hal.rope_table import inverse_frequencies, rope_table, sine_cosine

LONGEST = 202_752
"""Positions of the published model."""


def ulps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How many float32 values apart, for values of one sign."""
    return (a.view(torch.int32) - b.view(torch.int32)).abs()


def published_inverse_frequencies(theta: float, width: int) -> torch.Tensor:
    """As published implementations write it."""
    exponents = torch.arange(0, width, 2, dtype=torch.int64).to(torch.float32) / width
    return 1.0 / (theta**exponents)


def angles() -> list[float]:
    """Multiples of a quarter turn and their neighbours, a logarithmic spread, random ones."""
    near = [k * math.pi / 2 for k in (0, 1, 2, 3, 4, 5, 1000, 65_537, 1_018_591)]
    spread = [10.0**e for e in range(-12, 7)] + [1.6e6, 1.5e6, 202_751.0, 2.0**20]
    drawn = np.random.Generator(np.random.Philox(5)).uniform(0, 1.6e6, 300)
    found = [*near, *(np.nextafter(a, 2e6) for a in near), *spread, *drawn]
    return [float(a) for a in found if a <= 1.6e6]


def test_sine_and_cosine_are_within_1e_15() -> None:
    given = angles()
    sine, cosine = sine_cosine(np.array(given))
    with mpmath.workdps(40):
        for angle, s, c in zip(given, sine, cosine, strict=True):
            assert abs(mpmath.sin(angle) - float(s)) < 1e-15, angle
            assert abs(mpmath.cos(angle) - float(c)) < 1e-15, angle


def test_float32_angles_of_the_model_are_rounded_right() -> None:
    """Rounded to float32 they are the nearest floats to the true sine and cosine."""
    place = np.random.Generator(np.random.Philox(6)).integers(0, LONGEST, 200).astype(np.float32)
    frequencies = inverse_frequencies(1e6, 64)
    angle = (place * np.resize(frequencies, 200)).astype(np.float64)
    sine, cosine = (part.astype(np.float32) for part in sine_cosine(angle))
    with mpmath.workdps(40):
        for a, s, c in zip(angle, sine, cosine, strict=True):
            assert s == np.float32(float(mpmath.sin(float(a))))
            assert c == np.float32(float(mpmath.cos(float(a))))


def test_no_angle_gives_no_values() -> None:
    sine, cosine = sine_cosine(np.zeros((0, 3)))
    assert sine.shape == cosine.shape == (0, 3)


@pytest.mark.parametrize("angle", [2.0**20 * math.pi / 2 + 1, 2e6, 1e300, math.inf])
def test_an_angle_too_large_is_refused(angle: float) -> None:
    with pytest.raises(ValueError, match="beyond 1048576 quarter turns"):
        sine_cosine(np.array([0.0, angle]))


@pytest.mark.parametrize("theta", [1e4, 1e6, 8e6])
@pytest.mark.parametrize("width", [8, 64, 128])
def test_inverse_frequencies_have_the_two_stated_roundings(theta: float, width: int) -> None:
    found = inverse_frequencies(theta, width)
    assert found.dtype == np.float32
    with mpmath.workdps(60):
        for j, value in enumerate(found):
            power = mpmath.mpf(theta) ** (mpmath.mpf(2 * j) / width)
            assert value == np.float32(1) / np.float32(float(power))


@pytest.mark.parametrize("theta", [1e6, 8e6])
def test_inverse_frequencies_are_the_published_ones(theta: float) -> None:
    """A library's own power may be off by one on another machine, never by more."""
    found = torch.from_numpy(inverse_frequencies(theta, 64))
    assert ulps(found, published_inverse_frequencies(theta, 64)).max() <= 1


@pytest.mark.parametrize("theta", [1e6, 8e6])
def test_the_table_is_the_published_formula_where_that_is_exact(theta: float) -> None:
    """At small positions a library's sine and cosine are good to a unit in the last place."""
    table = rope_table(theta, 64, 64)
    assert (table.shape, table.dtype) == ((64, 64), torch.float32)
    frequencies = torch.from_numpy(inverse_frequencies(theta, 64))
    angle = torch.arange(64, dtype=torch.float32)[:, None] * frequencies
    for found, wanted in ((table[:, :32], angle.cos()), (table[:, 32:], angle.sin())):
        assert (found - wanted).abs().max() <= 2.0**-23
        assert (found == wanted).float().mean() > 0.9


def test_position_zero_turns_nothing() -> None:
    table = rope_table(1e6, 64, 1)
    assert table.tolist() == [[1.0] * 32 + [0.0] * 32]


def test_no_positions() -> None:
    assert rope_table(1e6, 64, 0).shape == (0, 64)


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    """Positions are computed in blocks of 8192."""
    long = rope_table(1e6, 8, 8200)
    for positions in (1, 7, 8191, 8192, 8193):
        assert torch.equal(rope_table(1e6, 8, positions), long[:positions])


@pytest.mark.parametrize(
    ("theta", "width", "positions", "digest"),
    [
        (1e6, 64, 1000, "e8149aec10ca191a6fc8cd4851ad08bed710c1dd3310c990f88c4f400fbf36cb"),
        (8e6, 64, 1000, "c9ed68cac863f81e7b10af73a889f4c53e73293cadc9ed3a4ee917a662265f72"),
        (1e6, 8, 4096, "670a866f8c16e96ad986068ffd77a43a3257a9697bba72e4efe5954dc8de0fbd"),
    ],
)
def test_the_bits_are_frozen(theta: float, width: int, positions: int, digest: str) -> None:
    table = rope_table(theta, width, positions).numpy()
    assert hashlib.sha256(table.astype("<f4").tobytes()).hexdigest() == digest
