"""A network on a GPU, kept there from call to call, and the way of patches to it and back.

Two batches are under way at a time, each with a stream, buffers and a CUDA graph of its own: while one is computed, the
next is copied. Counts that are whole numbers below 65,536 travel as 16 bits and become float32 on the device, the same
bits as those of counts that travel as float32.
"""

import re
from collections import deque
from copy import deepcopy
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from braggflow.compiled import kernel
from braggflow.locate.networks import Compact, Network

#: A GPU that cannot hold this many patches at once leaves them to the CPU.
SMALLEST_BATCH = 64
#: A lack of GPU memory in errors that are no `torch.OutOfMemoryError`: of CUDA itself (as on a GPU that others have
#: filled), cuBLAS and cuDNN.
_IS_FULL = re.compile("CUDA error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
_UNDER_WAY = 2  # batches at a time


class OnDevice:
    """A network on a device; with `capture` it runs as a CUDA graph (None: on a GPU)."""

    def __init__(self, model: Network, device: str, *, capture: bool | None = None) -> None:
        self.device = torch.device(device)
        self.capture = self.device.type == "cuda" if capture is None else capture
        self._on_cpu = model
        self._model: Network | None = None
        self._batches: list[_Batch] = []
        self._made_for: tuple[float, int] | None = None
        self._notes: dict[str, int] = {}
        self._next = 0
        self._one_at_a_time = Lock()

    def locate(
        self,
        counts: NDArray[np.float32],
        state: NDArray[np.uint8],
        counts_per_photon: float,
        batch_size: int,
        out: NDArray[np.float32],
    ) -> tuple[int, dict[str, int]]:
        """Fill rows of `out` (n, 5), as of `network_kernels.Kernel`, with the answers for n patches.

        Every batch has `batch_size` patches, halved where the memory does not suffice. Returns how many patches are
        located, fewer than n where not even `SMALLEST_BATCH` fit, and the notes of `localiser.Located`.
        """
        n, start = len(counts), 0
        notes: dict[str, int] = {}
        under_way: deque[_Batch] = deque()
        # TF32 would keep 10 bits of 23, and the fastest convolution of a cuDNN benchmark is not always the same one.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with self._one_at_a_time, torch.inference_mode(), exact:
            while start < n:
                if len(under_way) == _UNDER_WAY:
                    under_way.popleft().collect(out)
                part = slice(start, min(start + batch_size, n))
                if batch := self._submitted(counts, state, part, counts_per_photon, batch_size):
                    under_way.append(batch)
                    start = part.stop
                    continue
                while under_way:
                    under_way.popleft().collect(out)
                lost = self._model is None
                self._release_batches()
                if lost or batch_size <= SMALLEST_BATCH:
                    self._model = None
                    notes["patches_moved_to_cpu"] = n - start
                    break
                batch_size = max(batch_size // 2, SMALLEST_BATCH)
                notes["gpu_batch_halved"] = notes.get("gpu_batch_halved", 0) + 1
            while under_way:
                under_way.popleft().collect(out)
        return start, notes | self._notes

    def _submitted(
        self,
        counts: NDArray[np.float32],
        state: NDArray[np.uint8],
        part: slice,
        counts_per_photon: float,
        batch_size: int,
    ) -> "_Batch | None":
        """The batch that is at work on a part of the patches; None for lack of memory."""
        try:
            self._make(counts_per_photon, batch_size)
            batch = self._batches[self._next]
            batch.submit(counts, state, part)
            self._next = (self._next + 1) % _UNDER_WAY
            return batch
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and not _IS_FULL.search(str(error)):
                self._model = None
                self._release_batches()
                raise
        # After the handler, in which the error's traceback would still hold the tensors of the batch.
        return None

    def _make(self, counts_per_photon: float, batch_size: int) -> None:
        """Network and buffers on the device, unless they are there already."""
        if self._model is None:
            # A copy: where it does not fit, the one on the CPU is there still.
            self._model = deepcopy(self._on_cpu).to(self.device)
        if self._made_for != (counts_per_photon, batch_size):
            self._release_batches()
            self._batches = [_Batch(self._model, self.device, batch_size, counts_per_photon) for _ in range(_UNDER_WAY)]
            if self.capture and not all(batch.capture() for batch in self._batches):
                self._notes["cuda_graph_not_captured"] = 1
            self._made_for = counts_per_photon, batch_size

    def _release_batches(self) -> None:
        self._batches, self._next, self._made_for, self._notes = [], 0, None, {}
        torch.cuda.empty_cache()


class _Batch:
    """Buffers of one shape, here (page-locked where they are copied to a GPU) and on the device."""

    def __init__(self, model: Network, device: torch.device, n: int, counts_per_photon: float) -> None:
        on_gpu = device.type == "cuda"
        square = (n, model.size, model.size)
        self._words = torch.zeros(square, dtype=torch.int16, pin_memory=on_gpu)
        self._floats = torch.zeros(square, pin_memory=on_gpu)
        self._states = torch.zeros(square, dtype=torch.uint8, pin_memory=on_gpu)
        self._answers = torch.zeros((n, 5), pin_memory=on_gpu)
        self._counts = torch.zeros(square, device=device)
        self._state = torch.zeros(square, dtype=torch.uint8, device=device)
        self._model, self._counts_per_photon, self._sees_state = model, counts_per_photon, isinstance(model, Compact)
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured: torch.Tensor | None = None
        self._part = slice(0)

    def capture(self) -> bool:
        """Make a CUDA graph of the network; False where that cannot be done: it is called as it is, then."""
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(self._stream):
                self._compute()  # libraries make their own preparations at the first call
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=self._stream):
                self._captured = self._compute()
            self._graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if _IS_FULL.search(str(error)):
                raise
            self._captured = None
        return self._graph is not None

    def submit(self, counts: NDArray[np.float32], state: NDArray[np.uint8], part: slice) -> None:
        """Begin to locate a part of the patches, as many as the batch holds or fewer."""
        counts, state, n = counts[part], state[part], part.stop - part.start
        whole = as_words(counts, self._words.numpy().view(np.uint16))
        host = self._words if whole else self._floats
        if not whole:
            self._floats.numpy()[:n] = counts
        host[n:] = 0
        with torch.cuda.stream(self._stream):  # no stream, nothing done
            sent = host.to(self._counts.device, non_blocking=True)
            self._counts.copy_(sent.int() & 0xFFFF if whole else sent)
            if self._sees_state:
                self._states.numpy()[:n] = state
                self._states[n:] = 0
                self._state.copy_(self._states, non_blocking=True)
            if self._graph is None:
                answers = self._compute()
            else:
                self._graph.replay()
                assert self._captured is not None
                answers = self._captured
            self._answers.copy_(answers, non_blocking=True)
        self._part = part

    def collect(self, out: NDArray[np.float32]) -> None:
        """Wait for the answers, and put them where they belong among those of all patches (n, 5)."""
        if self._stream is not None:
            self._stream.synchronize()
        out[self._part] = self._answers[: self._part.stop - self._part.start].numpy()

    def _compute(self) -> torch.Tensor:
        answer = self._model.locate(self._counts / self._counts_per_photon, self._state)
        return torch.cat([answer.offsets, answer.errors, answer.domain.sigmoid()[:, None]], 1)


@kernel(nogil=True)
def as_words(counts: NDArray[np.float32], words: NDArray[np.uint16]) -> bool:
    """Write patches (n, s, s) into the first n of `words` (m, s, s), if 16 bits hold each count exactly; else False."""
    source, target = counts.reshape(-1), words.reshape(-1)
    whole = True
    for i in range(len(source)):
        word = np.uint16(np.int32(source[i]))
        target[i] = word
        whole &= np.float32(word) == source[i]
    return whole
