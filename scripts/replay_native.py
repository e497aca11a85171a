"""Checks the native kernels on a machine, or in an emulator, that has no torch: calls recorded here, made again there.

Usage: python scripts/replay_native.py record FILE [--calls 600] PYTEST_ARGUMENT ...
       python scripts/replay_native.py replay FILE [--isa NAME]

`record` runs tests with the kernels that have no vector instructions (`plain`) and keeps what went into each call and
what came out; tests of other variants still run and are not kept. `replay` needs NumPy and `openwork._native` alone,
built for the machine it runs on: it makes the calls again with the widest variant there and compares. The last line
says how many agreed. csrc/README.md has the commands for an emulated 64-bit Arm.
"""

from __future__ import annotations

import argparse
import ctypes
import pickle
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = {"forward": (5, 6, 7), "backward": (9, 10, 11, 12, 13), "decode": (5, 6)}
SIZES = (4, 2, 2)
"""Bytes of an element, by the number of its dtype in csrc/interface.h."""
ROUNDING = (2e-5, 1.6e-2, 2e-3)
"""How far results may be apart, of their size, by dtype: other instructions sum in another order."""


def memory_of(words: tuple[int, ...]) -> bytes:
    """The memory that a tensor's words speak of, from its first element to its last."""
    address, shape, stride, dtype = words[0], words[1:5], words[5:9], words[9]
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return ctypes.string_at(address, (last + 1) * SIZES[dtype])


class Recorder:
    """Stands in for `openwork._native`: makes each call and keeps it."""

    def __init__(self, native: Any, most: int) -> None:
        self._native, self._most = native, most
        self.calls: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def Options(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        return self._native.Options(**options), options

    def _keep(self, name: str, isa: str, tensors: Any, made: tuple[Any, dict[str, Any]], **rest: Any) -> None:
        same = [call for call in self.calls if call["name"] == name]
        if isa != "plain" or len(same) >= self._most // 3:
            return
        self.calls.append(
            {
                "name": name,
                # the memory of results too: strides have to be kept, and what was written is what replay compares
                "tensors": [None if words[0] == 0 else (memory_of(words), *words[1:]) for words in tensors],
                "options": made[1] | {"poisoned": True},
                **rest,
            }
        )

    def _layout_call(self, name: str, isa: str, tensors: Any, words: tuple[int, int], options: Any) -> None:
        getattr(self._native, name)(isa, tensors, words, options[0])
        self._keep(name, isa, tensors, options, words=ctypes.string_at(words[0], 8 * words[1]))

    def forward(self, *arguments: Any) -> None:
        self._layout_call("forward", *arguments)

    def backward(self, *arguments: Any) -> None:
        self._layout_call("backward", *arguments)

    def decode(self, isa: str, tensors: Any, lists: Any, list_of: Any, positions: Any, options: Any) -> None:
        self._native.decode(isa, tensors, lists, list_of, positions, options[0])
        batch, kv_len = tensors[1][1], tensors[1][3]
        self._keep(
            "decode",
            isa,
            tensors,
            options,
            lists=[ctypes.string_at(address, 8 * length) for address, length in lists],
            list_of=list(list_of),
            positions=[
                None if address == 0 else ctypes.string_at(address, 8 * count)
                for address, count in zip(positions, (batch, batch * kv_len), strict=True)
            ],
        )


def record(path: Path, most: int, arguments: list[str]) -> int:
    """Runs the tests and writes the calls."""
    import pytest

    recorder = Recorder(import_module("openwork._native"), most)
    for name in ("cpu_native", "cpu_operators", "cpu_decode"):
        import_module(f"openwork.ops.backends.{name}").kernels = lambda: recorder
    failed = pytest.main(["-q", "-p", "no:cacheprovider", *arguments])
    path.write_bytes(pickle.dumps(recorder.calls))
    print(f"{len(recorder.calls)} calls: {dict(Counter(call['name'] for call in recorder.calls))}")
    return int(failed)


class Memory:
    """A tensor of a recorded call, in memory of this machine."""

    def __init__(self, kept: tuple[Any, ...], result: bool) -> None:
        content, *self._words = kept
        self._dtype = np.dtype(("f4", "u2", "f2")[self._words[8]])
        self.expected = np.frombuffer(content, dtype=self._dtype)
        # nothing of an expected result is left in place
        self._bytes = np.full(len(content) + 64, 255, dtype=np.uint8)
        self._first = -self._bytes.ctypes.data % 64
        if not result:
            self._bytes[self._first : self._first + len(content)] = np.frombuffer(content, dtype=np.uint8)

    @property
    def words(self) -> tuple[int, ...]:
        return (self._bytes.ctypes.data + self._first, *self._words)

    @property
    def size(self) -> float:
        """The largest finite value that is expected."""
        wide = self._wide(self.expected)
        return float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))

    def _wide(self, values: np.ndarray) -> np.ndarray:
        if self._words[8] == 1:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float64)

    def apart(self, size: float) -> float:
        """The largest difference of what is there to what is expected, over what may be apart; NaN equals NaN."""
        shape, stride, number = self._words[:4], self._words[4:8], self._words[8]
        own = self._bytes[self._first : self._first + self.expected.nbytes].view(self._dtype)
        strides = [step * self._dtype.itemsize for step in stride]
        both = (np.lib.stride_tricks.as_strided(x, shape, strides) for x in (own, self.expected))
        here, there = (self._wide(x) for x in both)
        same = (here == there) | (np.isnan(here) & np.isnan(there))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0.0, np.abs(here - there)) / (ROUNDING[number] * max(size, 1e-3))
        return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def replay(path: Path, isa: str | None) -> int:
    """Makes the calls of a file again."""
    native: Any = import_module("openwork._native")
    chosen = isa or next(name for name, runs_here in native.isas() if runs_here)
    calls, agreed = pickle.loads(path.read_bytes()), Counter[str]()
    for number, call in enumerate(calls):
        name = call["name"]
        tensors = [
            None if kept is None else Memory(kept, place in RESULTS[name]) for place, kept in enumerate(call["tensors"])
        ]
        words = [(0,) * 10 if tensor is None else tensor.words for tensor in tensors]
        options = native.Options(**call["options"])
        if name == "decode":
            lists = [np.frombuffer(keys, dtype=np.int64) for keys in call["lists"]]
            positions = [None if x is None else np.frombuffer(x, dtype=np.int64) for x in call["positions"]]
            addresses = [0 if x is None else x.ctypes.data for x in positions]
            pairs = [(keys.ctypes.data, len(keys)) for keys in lists]
            native.decode(chosen, words, pairs, call["list_of"], tuple(addresses), options)
        else:
            layout = np.frombuffer(call["words"], dtype=np.int64)
            getattr(native, name)(chosen, words, (layout.ctypes.data, len(layout)), options)
        found = {place: tensors[place] for place in RESULTS[name] if tensors[place] is not None}
        # the gradients of a call are differences of numbers that are as large as the largest of them
        largest = max(memory.size for memory in found.values())
        results = {
            place: memory.apart(largest if name == "backward" else memory.size) for place, memory in found.items()
        }
        worst = max(results, key=results.__getitem__)
        if results[worst] <= 1.0:
            agreed[name] += 1
        else:
            print(f"call {number}, {name}, tensor {worst}: {results[worst]:.3g} times as far as rounding allows")
    print(f"{chosen}: {sum(agreed.values())} of {len(calls)} calls agree: {dict(agreed)}")
    return int(sum(agreed.values()) != len(calls))


def main() -> int:
    """Records or replays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "replay"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--calls", type=int, default=600, help="most calls to keep, a third of each pass")
    parser.add_argument("--isa", help="the variant that makes the calls again")
    options, rest = parser.parse_known_args()
    if options.what == "record":
        return record(options.file, options.calls, rest)
    return replay(options.file, options.isa)


if __name__ == "__main__":
    sys.exit(main())
