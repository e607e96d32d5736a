"""Snapshots of metrics in shared memory: each worker writes its own, and the supervisor reads them all.

Prometheus's client has a multiprocess mode, which is not used: each update would write to a mapped file, at several
times the cost, and the files of ended workers would have to be cleaned up.
"""

import ctypes
import logging
import multiprocessing
from typing import Final

import msgspec

from service.observability.metrics import Snapshot

logger = logging.getLogger(__name__)

# Bytes of a snapshot. A label set takes 100 to 200.
_SIZE: Final = 256 * 1024

_spawn = multiprocessing.get_context("spawn")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


class Snapshots:
    """Two buffers for each worker: it fills one while the supervisor may be reading the other."""

    def __init__(self, workers: int) -> None:
        self._memory = [_spawn.RawArray(ctypes.c_char, 2 * _SIZE) for _ in range(workers)]
        self._lengths = _spawn.RawArray("i", workers * 2)
        self._current = _spawn.RawArray("i", workers)

    def write(self, worker: int, snapshot: Snapshot) -> None:
        data = _encoder.encode(snapshot)
        if len(data) > _SIZE:
            logger.error("the metrics of a worker are too large and were not published: %d bytes", len(data))
            return
        buffer = 1 - self._current[worker]
        ctypes.memmove(ctypes.addressof(self._memory[worker]) + buffer * _SIZE, data, len(data))
        self._lengths[worker * 2 + buffer] = len(data)
        self._current[worker] = buffer

    def read(self, worker: int) -> Snapshot:
        """The last snapshot of a worker, or of the one that it has replaced; empty before the first."""
        buffer = self._current[worker]
        length = self._lengths[worker * 2 + buffer]
        if not length:
            return {}
        return _decoder.decode(ctypes.string_at(ctypes.addressof(self._memory[worker]) + buffer * _SIZE, length))

    def read_all(self) -> list[Snapshot]:
        return [self.read(worker) for worker in range(len(self._memory))]
