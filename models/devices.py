"""Devices: where a model runs, in which arithmetic, in batches of which sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from models.errors import ModelError

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# A new shape costs a CUDA device milliseconds of choosing kernels: batches are padded to one of these sizes there.
BATCH_BUCKETS: Final = (64, 256, 1024, 4096)


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ModelError: CUDA is requested and not available, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ModelError(f"STREAMS_DEVICE: expected auto, cpu or cuda, got {name!r}; correct it")
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= devices:
        raise ModelError(f"STREAMS_DEVICE={name}: expected a CUDA device, found {devices}; set it to auto or cpu")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the matrix products.

    Raises:
        ModelError: the name is unknown, or the device is slower with it than without.
    """
    if name not in DTYPES:
        raise ModelError(f"STREAMS_DTYPE: expected {' or '.join(DTYPES)}, got {name!r}; correct it")
    if name != "float32" and device.type == "cpu":
        raise ModelError(f"STREAMS_DTYPE={name}: expected float32 on the CPU; set STREAMS_DTYPE=float32")
    return DTYPES[name]


def freeze(model: nn.Module) -> None:
    """Make a model's weights constant: evaluation mode and no gradient."""
    model.eval()
    model.requires_grad_(False)


class Batches:
    """How rows reach the device: padded to one of the buckets, or, with `rows_max`, on the CPU as they are."""

    def __init__(self, device: torch.device, buckets: Sequence[int], rows_max: int | None = None) -> None:
        if not buckets or min(buckets) < 1:
            raise ModelError(f"batch_buckets: expected sizes >= 1, got {tuple(buckets)}; correct them")
        self.device = device
        self.padded = rows_max is None or device.type != "cpu"
        self.sizes = tuple(sorted(buckets))
        self.rows_max = rows_max or self.sizes[-1]

    def split(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows covered, rows on the device), the latter padded with copies of its first row."""
        size_max = self.sizes[-1] if self.padded else self.rows_max
        for start in range(0, len(rows), size_max):
            chunk = rows[start : start + size_max]
            covered = slice(start, start + len(chunk))
            if self.padded:
                size = next(size for size in self.sizes if size >= len(chunk))
                chunk = torch.cat([chunk, chunk[:1].expand(size - len(chunk), -1)])
            yield covered, chunk.to(self.device)

    def warm_up_sizes(self) -> tuple[int, ...]:
        """Return the sizes to run once, the largest first, because it claims the memory.

        Unpadded rows run `rows_max` at a time: more of them would only repeat the same chunk, 0.2 s each.
        """
        return self.sizes[::-1] if self.padded else (self.rows_max, 1)
