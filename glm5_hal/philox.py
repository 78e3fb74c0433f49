"""The project's random numbers: the same bits on every machine, at any address, in any order.

The generator is Philox4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as
1, 2, 3, SC 2011): a bijection of 256-bit counters under a 128-bit key. A word's address is

    key      the seed, 0 <= key < 2^128
    counter  (block, stream, 0, 0), low word first: a block is four 64-bit words

so word i of a stream is word i % 4 of block i // 4. Two streams never share a block, and no word
depends on how many were drawn before it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_BLOCK_WORDS = 4
_CHUNK = 1 << 15  # words: the temporaries of one chunk stay in a core's cache
_LANES = np.uint64(0x0000FFFF0000FFFF)
_MEAN = 4 * (2**16 - 1) // 2
_UNIT = np.float32(float.fromhex("0x1.bb67aep-16"))


def stream_of(name: str) -> int:
    """The stream of a name: the first 8 bytes of the SHA-256 of its UTF-8, big-endian."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def words(key: int, stream: int, start: int, count: int) -> npt.NDArray[np.uint64]:
    """Words [start, start + count) of a stream: uint64 [count].

    Raises `ValueError` unless key is in [0, 2^128), stream in [0, 2^64) and the range in [0, 2^66).
    """
    for name, value, bits in (("key", key, 128), ("stream", stream, 64)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} is {value}: expected an integer in [0, 2^{bits})")
    if start < 0 or count < 0 or start + count > 1 << 66:
        raise ValueError(f"words [{start}, {start + count}) are not inside [0, 2^66)")
    block, skip = divmod(start, _BLOCK_WORDS)
    # numpy steps the counter before it draws, so the counter starts one block early.
    counter = (block + (stream << 64) - 1) % (1 << 256)
    return np.random.Philox(counter=counter, key=key).random_raw(skip + count)[skip:]


def uniform24(key: int, stream: int, start: int, count: int) -> npt.NDArray[np.int32]:
    """Uniform integers in [0, 2^24), exact in fp32: the upper 24 bits of `words`, int32 [count]."""
    return (words(key, stream, start, count) >> np.uint64(40)).astype(np.int32)


def normal(key: int, stream: int, start: int, count: int) -> npt.NDArray[np.float32]:
    """Nearly normal numbers of mean 0 and variance 1 by an integer rule: float32 [count].

    Each word of `words` is cut into four 16-bit lanes. With s their sum, the number is

        fp32(s - 131070) * 0x1.bb67aep-16

    where 131070 is the mean of s and the constant is the fp32 next to sqrt(3 / (2^32 - 1)), the
    inverse of its standard deviation. The integer is exact in fp32, so the one rounding is that of
    the multiplication and every platform has the same bits. Four uniform lanes make the shape:
    symmetric, kurtosis 2.7 where a normal law has 3, and no tail past 2 sqrt(3) = 3.46.
    """
    values = np.empty(count, np.float32)
    for done in range(0, count, _CHUNK):
        part = words(key, stream, start + done, min(_CHUNK, count - done))
        # Two lanes are added in each half of the word: 17 bits at most, so no carry crosses.
        pairs = (part & _LANES) + ((part >> np.uint64(16)) & _LANES)
        sums = (pairs + (pairs >> np.uint64(32))).astype(np.uint32).astype(np.int32)
        values[done : done + len(part)] = sums - np.int32(_MEAN)
    values *= _UNIT
    return values
