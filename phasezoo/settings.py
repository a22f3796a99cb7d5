"""Environment switches, read when asked, not at import."""

from __future__ import annotations

import os

PUBLISHED_HOST = "https://raw.githubusercontent.com"


def cache() -> str | None:
    """``PHASEZOO_CACHE``: where downloads and indexes are kept; None means the Hub library's cache of assets."""
    return os.environ.get("PHASEZOO_CACHE") or None


def cache_size() -> int | None:
    """``PHASEZOO_CACHE_SIZE``: bytes that fetched weights and tables may take, such as ``50GB``; None means no limit.

    Raises:
        ValueError: it is no size.
    """
    import re

    text = os.environ.get("PHASEZOO_CACHE_SIZE", "").strip()
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGT]?)B?", text.upper())
    if match is None:
        raise ValueError(f"PHASEZOO_CACHE_SIZE is {text[:80]!r}, which is no size. Write it like 500MB or 50GB.")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " "))


def mirror() -> str | None:
    """``PHASEZOO_MIRROR``: address that serves the published tables in place of ``https://raw.githubusercontent.com``.

    The path stays: ``<mirror>/<owner>/<repository>/<commit>/<file>``.
    """
    return os.environ.get("PHASEZOO_MIRROR", "").rstrip("/") or None


def hub() -> str | None:
    """``PHASEZOO_HUB``: prefix of the Hub repositories to prefer, such as ``owner`` or ``owner/phasezoo-``."""
    return os.environ.get("PHASEZOO_HUB") or None


def data() -> str | None:
    """``PHASEZOO_DATA``: a directory with data sets, one folder each, such as ``cifar10``, laid out as on the Hub."""
    return os.environ.get("PHASEZOO_DATA") or None


def endpoint() -> str:
    """``HF_ENDPOINT``: address of the Hub.

    >>> endpoint().startswith("http")
    True
    """
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """``HF_HUB_OFFLINE``: open nothing but what is on this machine.

    >>> isinstance(offline(), bool)
    True
    """
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")
