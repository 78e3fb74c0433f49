"""The generator against a Philox4x64-10 of plain integers, and its rules for numbers."""

import hashlib
import math

import numpy as np
import pytest

from glm5_hal import philox

WORD = 2**64
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)

# Known answers of Random123 (kat_vectors, philox4x64 10): counter, key, output.
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
    ),
    (
        (WORD - 1,) * 4,
        (WORD - 1,) * 2,
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


def philox4x64(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Ten rounds, as the paper writes them."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        high0, low0 = divmod(MULTIPLIERS[0] * a, WORD)
        high1, low1 = divmod(MULTIPLIERS[1] * c, WORD)
        a, b, c, d = high1 ^ b ^ k, low1, high0 ^ d ^ m, low0
        k, m = (k + WEYL[0]) % WORD, (m + WEYL[1]) % WORD
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_the_oracle_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], output: tuple[int, ...]
) -> None:
    assert philox4x64(counter, key) == output


@pytest.mark.parametrize("key", [0, 7, 2**64 + 3, 2**128 - 1])
@pytest.mark.parametrize("stream", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("start", [0, 1, 7, 4 * (2**32 - 1), 2**66 - 12])
def test_a_word_depends_on_its_address_alone(key: int, stream: int, start: int) -> None:
    expected = [
        philox4x64((i // 4, stream, 0, 0), (key % WORD, key // WORD))[i % 4]
        for i in range(start, start + 11)
    ]
    assert philox.words(key, stream, start, 11).tolist() == expected
    assert philox.words(key, stream, start + 5, 3).tolist() == expected[5:8]


@pytest.mark.parametrize(
    ("key", "stream", "start", "count"),
    [(-1, 0, 0, 1), (2**128, 0, 0, 1), (0, 2**64, 0, 1), (0, 0, -1, 1), (0, 0, 2**66, 1)],
)
def test_an_address_out_of_range_is_refused(key: int, stream: int, start: int, count: int) -> None:
    with pytest.raises(ValueError, match="2\\^"):
        philox.words(key, stream, start, count)


def test_uniform24_is_the_upper_bits() -> None:
    drawn = philox.uniform24(3, 5, 2, 1000)
    assert drawn.dtype == np.int32
    assert drawn.tolist() == [int(word) >> 40 for word in philox.words(3, 5, 2, 1000)]


def test_normal_is_the_stated_integer_rule() -> None:
    unit = np.float32(math.sqrt(3 / (2**32 - 1)))
    assert float(unit).hex() == "0x1.bb67ae0000000p-16"
    expected = [
        np.float32(sum(int(word) >> shift & 0xFFFF for shift in (0, 16, 32, 48)) - 131070) * unit
        for word in philox.words(3, 5, 2, 1000)
    ]
    drawn = philox.normal(3, 5, 2, 1000)
    assert drawn.dtype == np.float32
    assert drawn.tobytes() == np.array(expected, np.float32).tobytes()


def test_normal_is_centred_with_variance_one_and_a_short_tail() -> None:
    drawn = philox.normal(0, philox.stream_of("moments"), 0, 200_000).astype(np.float64)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.var() - 1) < 0.01
    assert abs((drawn**4).mean() - 2.7) < 0.05
    assert np.abs(drawn).max() <= 2 * math.sqrt(3)


def test_normal_has_no_seams() -> None:
    whole = philox.normal(1, 2, 3, 100_000)
    pieces = [
        philox.normal(1, 2, 3 + at, min(33_333, 100_000 - at)) for at in range(0, 100_000, 33_333)
    ]
    assert whole.tobytes() == np.concatenate(pieces).tobytes()
    assert philox.normal(1, 2, 3, 0).shape == (0,)


def test_a_stream_is_the_head_of_a_sha256() -> None:
    assert philox.stream_of("lm_head.weight") == int(
        hashlib.sha256(b"lm_head.weight").hexdigest()[:16], 16
    )
