"""Compression of bulk bytes: each chunk by itself, as one zstd frame (RFC 8878) that says how long its content is.

The Python module zstandard is imported only when it is wanted: P.Haul does without.
"""

from __future__ import annotations

import contextlib
import platform
from typing import Any

from phaul.errors import ProtocolError, Refused

NAME = "zstd"
PACKAGE = "python3-zstandard"
# Faster ones leave text and machine code half as big again; the next ones gain little and take half as long again.
LEVEL = 1
# A frame's own head and tail take a good part of less.
SMALLEST = 64


def possible() -> bool:
    """Whether this host can compress and decompress."""
    with contextlib.suppress(Refused):
        return bool(_zstandard())
    return False


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        sentence = f"The Python module zstandard is not on {platform.node()}: install the package {PACKAGE}."
        raise Refused(sentence, code="compress") from None
    return zstandard


class Packer:
    """For one channel: a thread at a time uses it. Raises Refused (compress) where this host cannot."""

    def __init__(self) -> None:
        self._compressor = _zstandard().ZstdCompressor(level=LEVEL)

    def pack(self, content: memoryview | bytes) -> bytes | None:
        """The content as a frame; None where that would not be smaller."""
        if len(content) < SMALLEST:
            return None
        frame: bytes = self._compressor.compress(content)
        return frame if len(frame) < len(content) else None


class Unpacker:
    """As Packer, for what `peer` packs; no content is longer than `most` bytes, and no more is ever allocated."""

    def __init__(self, peer: str, most: int) -> None:
        self._peer, self._most = peer, most
        self._zstandard = _zstandard()
        self._decompressor = self._zstandard.ZstdDecompressor()

    def unpack(self, frame: memoryview | bytes) -> bytes:
        """The content. Raises ProtocolError for what is not one whole frame, or does not say its size."""
        try:
            size = self._zstandard.frame_content_size(frame)
            # The library allocates what the frame announces, whatever limit it is given.
            if not 0 < size <= self._most:
                raise ProtocolError(
                    f"{self._peer} sent a compressed chunk of {size if size >= 0 else 'unknown'} size; "
                    f"1 to {self._most} bytes are allowed."
                )
            content: bytes = self._decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
        except self._zstandard.ZstdError as error:
            raise ProtocolError(f"{self._peer} sent a compressed chunk that cannot be read: {error}.") from None
        return content
