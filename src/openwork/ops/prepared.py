"""A layout prepared outside the graph, so that `torch.compile(fullgraph=True)` holds the call as one operator."""

from __future__ import annotations

from torch import Tensor

from openwork.errors import BackendError, LayoutError
from openwork.layout.data import BlockLayout
from openwork.ops.backends.cpu import attend, reasons_of_tensors
from openwork.ops.backends.cpu_lower import lower
from openwork.ops.backends.cpu_native import absence, chosen_isa

__all__ = ["PreparedLayout", "attend_prepared", "prepare"]


class PreparedLayout:
    """A layout and what the kernels of backend `cpu` read of it, as a tensor that a graph can take in.

    Attributes:
        layout: The layout.
        words: int64 `[n]` on the CPU.
        isa: The instruction set of the kernels.
        q_len: Number of queries.
        kv_len: Number of keys.
        batch: Sequences that the layout tells apart; 1 is shared by all.
        heads: Query heads that it tells apart; 1 is shared by all.
        position_rows: Sequences whose positions it tells apart; 1 is shared by all.
    """

    def __init__(self, layout: BlockLayout) -> None:
        self.layout = layout
        self.words = lower(layout)
        self.isa = chosen_isa()
        self.q_len, self.kv_len = layout.q_len, layout.kv_len
        self.batch, self.heads = layout.batch, layout.heads
        self.position_rows = max(1 if x is None else len(x) for x in (layout.q_positions, layout.kv_positions))

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raises `LayoutError` where the tensors have other sizes than the layout."""
        batch, q_heads = query.shape[:2]
        if (self.q_len, self.kv_len) != (query.shape[2], key.shape[2]):
            raise LayoutError(
                f"layout was prepared for q_len={self.q_len}, kv_len={self.kv_len}, but query has "
                f"q_len={query.shape[2]} and key has kv_len={key.shape[2]}. Compile and prepare one for these lengths."
            )
        if self.batch not in (1, batch) or self.heads not in (1, q_heads) or self.position_rows not in (1, batch):
            raise LayoutError(
                f"layout was prepared for batch={max(self.batch, self.position_rows)}, q_heads={self.heads} (1 is "
                f"shared), but query has batch={batch}, q_heads={q_heads}."
            )


def prepare(layout: BlockLayout) -> PreparedLayout:
    """The layout for calls inside `torch.compile`: `sparse_attention` takes it in place of the layout.

    In compiled code such a call is one operator of backend `cpu`, without a graph break, and the layout's arrays enter
    the graph as a tensor: another layout of the same lengths compiles nothing again. Outside of compiled code it is
    the layout that it was made from.

    Raises:
        BackendError: The native kernels are not there.

    Examples:
        >>> import openwork as ow
        >>> from openwork.ops.backends.cpu_native import absence
        >>> layout = ow.compile_layout(ow.Causal() & ow.Window(before=15), q_len=64, kv_len=64)
        >>> absence() is not None or prepare(layout).q_len == 64
        True
    """
    missing = absence()
    if missing is not None:
        raise BackendError(f"prepare makes a layout ready for backend 'cpu', which cannot run: {missing}.")
    return PreparedLayout(layout)


def attend_prepared(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prepared: PreparedLayout,
    options: tuple[Tensor | None, Tensor | None],
    numbers: tuple[float, float, float, int],
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Output and lse of arguments that are checked but for the layout; `numbers` as `attend` takes them.

    Raises:
        LayoutError: The layout was prepared for other sizes.
        BackendError: Another backend is named, or `cpu` cannot run the call.
    """
    prepared.check(query, key)
    reasons = reasons_of_tensors(query, key, value)
    if backend not in ("auto", "cpu"):
        reasons = [f"backend={backend!r} was named, and a prepared layout is for 'cpu'"]
    if reasons:
        raise BackendError(
            f"a prepared layout cannot run in compiled code: {'; '.join(reasons)}. Call sparse_attention with the "
            "BlockLayout, outside of the graph."
        )
    return attend((query, key, value, *options), prepared.words, numbers, prepared.isa, compiled=True)
