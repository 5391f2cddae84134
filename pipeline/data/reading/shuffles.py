"""Permutations and random bits that depend on their key alone, in every version of NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def shuffled(count: int, key: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """A permutation of range(count), int64 (count,), that depends only on the key, in every version of NumPy.

    NumPy guarantees that the raw bits of a bit generator never change, but not the results of its methods.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(bits, kind="stable")


def mix64(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014): each input bit affects each output bit."""
    # In place: new arrays for each operation would take most of the time.
    x = values.astype(np.uint64)
    x += np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
