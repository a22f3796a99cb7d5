"""Sizes at which a member's numbers do not depend on its place among the others.

Kernels for products, sums and normalisation round differently where data are aligned differently or do not fill a
vector register. What lies side by side or behind one another is therefore padded with zeros, which stay zero.
"""

ALIGNED = 16  # floats: 64 bytes, the widest register and a line of the cache


def padded(n: int) -> int:
    """Return the next multiple of `ALIGNED`.

    >>> padded(10), padded(16)
    (16, 16)
    """
    return n + -n % ALIGNED
