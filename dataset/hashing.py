"""64-bit hashes of rows of tokens: the same on every machine, whatever dtype the tokens are stored in."""

import numpy as np


def scatter(words: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit words that scatters them."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def token_hashes(*parts: np.ndarray) -> np.ndarray:
    """(N,) uint64 hashes of N rows of tokens, each given in parts (N, ...): inputs, or inputs and labels."""
    tokens = np.concatenate(parts, axis=1).astype(np.uint64)
    factors = scatter(np.arange(1, tokens.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    return scatter((tokens + np.uint64(1)) @ factors)
