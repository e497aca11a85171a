"""What a micro-run measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openwork.errors import StudyError
from openwork.study.contender import Contender

__all__ = ["DENSE", "EAGER", "MASK", "SPARSE", "BenchConfig", "parse_numbers"]

DENSE, MASK, EAGER, SPARSE = "dense", "dense with a mask", "eager with a mask", "sparse"

_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """A model, the plans that it is tried with, and how often.

    Raises:
        StudyError: A value is out of its range, or there is no plan to compare with dense attention.
    """

    model: str
    """A folder with a config.json, a config.json alone, module:function, or the name of one of the study's shapes."""
    contenders: tuple[Contender, ...]
    """The plans; each is timed as a mask and sparse, beside dense attention."""
    seq_lens: tuple[int, ...] = ()
    """Tokens of each sequence; each is a run of its own. Empty for 2,048, or what the model reads if that is less."""
    batch_sizes: tuple[int, ...] = (1,)
    """Sequences in a step; each is a run of its own."""
    steps: int = 30
    """Timed rounds; a round runs each way once."""
    seconds: float | None = None
    """Time after which no further round of a run begins, in seconds; `None` for no limit."""
    forward_only: bool = False
    """Whether a step is a forward pass without gradients (a prefill) in place of forward and backward."""
    eager: bool = False
    """Whether attention that keeps its scores is measured with the mask, too."""
    new_tokens: int = 0
    """Tokens to generate after a prompt of the sequence length, to time the first and each later one; 0 for none."""
    backend: str = "auto"
    """Backend of `ops.sparse_attention` that computes the sparse way."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    dtype: str = "float32"
    """Of weights and computation: `float32` or `bfloat16`."""
    seed: int = 0
    """Decides random weights and tokens."""

    def __post_init__(self) -> None:
        if not self.contenders:
            raise StudyError(
                "there is nothing to compare with dense attention; name a plan: "
                '--pattern "Causal() & Window(before=255)" or --plan FILE.'
            )
        names = [contender.name for contender in self.contenders]
        for name in names:
            if names.count(name) > 1:
                raise StudyError(f'two plans are called {name!r}; give one another name: --pattern "NAME: PATTERN".')
        for option, numbers in (("--seq-len", self.seq_lens), ("--batch-size", self.batch_sizes)):
            for number in numbers:
                if number < 1:
                    raise StudyError(f"{option} must be 1 or more; got {number}.")
        if self.steps < 1:
            raise StudyError(f"--steps must be 1 or more; got {self.steps}.")
        if self.seconds is not None and not self.seconds >= 0:
            raise StudyError(f"--seconds must be 0 or more; got {self.seconds}.")
        if self.new_tokens < 0 or self.new_tokens == 1:
            raise StudyError(
                f"--generate must be 2 or more: the first token is timed apart from the rest; got {self.new_tokens}."
            )
        if self.dtype not in _DTYPES:
            raise StudyError(f"--dtype must be one of {', '.join(_DTYPES)}; got {self.dtype!r}.")


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """The whole numbers of `1,2,8`, each once.

    Raises:
        StudyError: The text is something else.

    Examples:
        >>> parse_numbers("--batch-size", "1,2, 8")
        (1, 2, 8)
    """
    parts: Sequence[str] = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise StudyError(f"{option} takes whole numbers with commas between them, such as 1,2,8; got {text!r}.")
    return tuple(dict.fromkeys(map(int, parts)))
