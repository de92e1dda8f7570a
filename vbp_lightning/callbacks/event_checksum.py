"""A fast checksum for TensorBoard's event files.

TensorBoard guards every record by a CRC-32C that it works out byte by byte in Python: a third of a
second for the panels of an epoch, in a thread of its own but under the interpreter's lock, so that
training waits all the same. Here the bytes are dealt to lanes that numpy advances together.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (  # type: ignore[import-untyped]
    masked_crc32c as slow_masked_crc32c,
)
from tensorboard.summary.writer import record_writer  # type: ignore[import-untyped]

Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK_DELTA = 0xA282EAD8  # of the TFRecord format
_LANES = 2048
_SHORT = 8192  # bytes below which the plain loop is as fast


def use_fast_event_checksums() -> None:
    """Lets TensorBoard's event writers of this process call ``masked_crc32c``; same files."""
    record_writer.masked_crc32c = masked_crc32c


def masked_crc32c(data: bytes) -> int:
    """CRC-32C of a record, rotated and shifted as the TFRecord format has it.

    Args:
        data: Any bytes.

    Returns:
        What TensorBoard's function of this name returns.
    """
    if len(data) < _SHORT:
        return int(slow_masked_crc32c(data))
    checksum = _remainder(data) ^ 0xFFFFFFFF
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _remainder(data: bytes) -> int:
    """The register after all bytes; it starts with all ones, which turns the first four bytes."""
    length = -(-len(data) // _LANES)
    # zeros in front leave an empty register empty
    padded = np.zeros(_LANES * length, dtype=np.uint8)
    padded[-len(data) :] = np.frombuffer(data, dtype=np.uint8)
    padded[-len(data) :][:4] ^= 0xFF
    lanes = np.zeros(_LANES, dtype=np.uint32)
    for column in np.ascontiguousarray(padded.reshape(_LANES, length).T):
        lanes = _advance(lanes ^ column)
    # A CRC is linear: a lane followed by others is its register moved on by as many zero bytes.
    moved = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(length):
        moved = _advance(moved)
    while len(lanes) > 1:
        lanes = _apply(moved, lanes[0::2]) ^ lanes[1::2]
        moved = _apply(moved, moved)
    return int(lanes[0])


def _advance(registers: Words) -> Words:
    """Each register after its lowest byte has been shifted out."""
    advanced: Words = _table()[registers & 0xFF] ^ (registers >> 8)
    return advanced


def _apply(columns: Words, vectors: Words) -> Words:
    """Product of a 32×32 matrix of bits, given by its columns, with each vector."""
    product = np.zeros_like(vectors)
    for bit, column in enumerate(columns):
        product ^= np.where(vectors >> bit & 1, column, np.uint32(0))
    return product


@cache
def _table() -> Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table
