"""Mask files: what is taken, and what is refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from openwork.errors import DataError
from openwork.study.masks import read_mask


def test_a_mask_is_taken_from_either_kind_of_file_and_made_causal(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((2, 20, 20)) < 0.3
    np.save(tmp_path / "m.npy", mask)
    torch.save(torch.from_numpy(mask), tmp_path / "m.pt")
    for name in ("m.npy", "m.pt"):
        layout = read_mask(tmp_path / name, 20, heads={2})
        assert np.array_equal(layout.to_dense()[0], np.tril(mask))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.txt", None, r"--mask .*m.txt must be a .npy or .pt file with a boolean mask, True = attend"),
        ("absent.npy", None, r"--mask .*absent.npy does not exist"),
        ("m.npy", b"\x93NUMPY broken", r"--mask .*m.npy cannot be read: "),
        ("m.pt", b"not a tensor", r"--mask .*m.pt cannot be read: "),
        ("m.npy", np.ones((8, 8)), r"--mask .*m.npy holds float64 values; it must be boolean, True = attend. For 0/1"),
        ("m.npy", np.ones((9, 9), bool), r"has shape \[9, 9\], but --seq-len is 8; give \[8, 8\] \(or \[2, 8, 8\]"),
        ("m.npy", np.ones(8, bool), r"has shape \[8\], but --seq-len is 8; give \[8, 8\]"),
        ("m.npy", np.ones((3, 8, 8), bool), r"is for 3 heads, but the model has 2 query heads"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=message):
        read_mask(path, 8, heads={2})


@pytest.mark.parametrize("content", [b"", b"hi", b"PK\x03\x04 cut off", b"\x80\x02.", b"\x80"])
def test_a_damaged_tensor_file_is_refused_in_words_whatever_torch_raises(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"--mask .*m.pt cannot be read: \w+"):
        read_mask(path, 8, heads={2})


def test_a_sparse_tensor_is_a_mask_and_other_dtypes_are_named(tmp_path: Path) -> None:
    mask = torch.eye(8, dtype=torch.bool)
    torch.save(mask.to_sparse(), tmp_path / "m.pt")
    assert np.array_equal(read_mask(tmp_path / "m.pt", 8, heads={2}).to_dense()[0, 0], mask.numpy())
    torch.save(mask.bfloat16(), tmp_path / "m.pt")
    with pytest.raises(DataError, match=r"holds torch.bfloat16 values; it must be boolean"):
        read_mask(tmp_path / "m.pt", 8, heads={2})


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    torch.save({"x": Path("evil")}, tmp_path / "m.pt")
    with pytest.raises(DataError, match=r"m.pt cannot be read: "):
        read_mask(tmp_path / "m.pt", 8, heads={2})
