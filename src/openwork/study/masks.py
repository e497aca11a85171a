"""A user's boolean mask from a file, as the layout of a study."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from openwork.errors import DataError
from openwork.layout import BlockLayout

__all__ = ["load_mask", "read_mask"]


def load_mask(path: Path) -> Any:
    """The boolean array in a `.npy` or `.pt` file, True = attend.

    Raises:
        DataError: The file is missing, cannot be read, or holds something else.
    """
    if path.suffix not in (".npy", ".pt"):
        raise DataError(f"--mask {path} must be a .npy or .pt file with a boolean mask, True = attend.")
    if not path.is_file():
        raise DataError(f"--mask {path} does not exist.")
    try:
        if path.suffix == ".npy":
            mask = np.load(path, allow_pickle=False)
        else:
            import torch

            mask = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(mask, torch.Tensor):
                # a sparse tensor has no array behind it, and no other dtype is a mask
                mask = mask.detach().to_dense().numpy() if mask.dtype == torch.bool else mask
    except Exception as error:  # numpy, torch and pickle raise whatever they like for a damaged file
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"--mask {path} cannot be read: {type(error).__name__}: {reason}") from None
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        found = f"{mask.dtype} values" if hasattr(mask, "dtype") else type(mask).__name__
        raise DataError(f"--mask {path} holds {found}; it must be boolean, True = attend. For 0/1: mask.astype(bool).")
    return mask


def read_mask(path: Path, seq_len: int, heads: Collection[int]) -> BlockLayout:
    """The layout of a mask file; a plan only removes pairs, so what lies in the future is removed.

    Args:
        path: The file.
        seq_len: Tokens of a sequence.
        heads: The numbers of query heads of the model's layers.

    Raises:
        DataError: It cannot be read, or is for another length or another number of heads.
    """
    mask = load_mask(path)
    q_heads = " and ".join(map(str, sorted(heads)))
    if mask.ndim not in (2, 3) or mask.shape[-2:] != (seq_len, seq_len):
        raise DataError(
            f"--mask {path} has shape {list(mask.shape)}, but --seq-len is {seq_len}; give [{seq_len}, {seq_len}] "
            f"(or [{q_heads}, {seq_len}, {seq_len}], one for each query head), or change --seq-len."
        )
    if mask.ndim == 3 and mask.shape[0] != 1 and {mask.shape[0]} != set(heads):
        raise DataError(f"--mask {path} is for {mask.shape[0]} heads, but the model has {q_heads} query heads.")
    return BlockLayout.from_mask(np.tril(mask))
