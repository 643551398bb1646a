"""The embeddings of a batch, in the form that the caller wants."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from cachepolicy_runtime.caching import CACHE_NAME
from cachepolicy_runtime.vectors import Blob, to_array, to_base64, to_floats


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embeddings of a batch.

    Attributes:
        blobs: one per input, in their order: little-endian float32, as bytes or as a view of bytes.
        hits: distinct inputs that the cache gave.
        computed: distinct inputs that the provider was asked for.
        bypass: why the cache was not used, as a word; None when it was.
    """

    blobs: tuple[Blob, ...]
    hits: int
    computed: int
    bypass: str | None = None

    @property
    def vectors(self) -> list[list[float]]:
        return [to_floats(blob) for blob in self.blobs]

    @property
    def base64(self) -> list[str]:
        """As OpenAI writes them for ``encoding_format: base64``."""
        return [to_base64(blob) for blob in self.blobs]

    def arrays(self) -> list[array[float]]:
        """One ``array('f')`` for each input."""
        return [to_array(blob) for blob in self.blobs]

    def numpy(self) -> Any:
        """A numpy array of float32, one row for each input; raises ``ImportError`` without numpy."""
        import numpy

        whole = numpy.frombuffer(b"".join(self.blobs), "<f4")
        return whole.reshape(len(self.blobs), -1 if self.blobs else 0)

    @property
    def cache_status(self) -> str:
        """Value of the ``Cache-Status`` header (RFC 9211)."""
        if self.bypass:
            return f"{CACHE_NAME}; fwd=bypass; detail={self.bypass}"
        if self.computed == 0:
            return f"{CACHE_NAME}; hit"
        if self.hits == 0:
            return f"{CACHE_NAME}; fwd=uri-miss"
        return f'{CACHE_NAME}; fwd=partial; detail="{self.hits} known, {self.computed} computed"'
