"""Where the user's own model comes from: a function in a file or a module, told from a shape's name and called."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from openwork.errors import OpenworkError, StudyError
from openwork.study.checkpoint_source import CheckpointSource
from openwork.study.shapes import MODEL_SHAPES

__all__ = ["ModelSource", "function_source", "model_source"]

_MOST_NAMES = 8


def model_source(text: str) -> ModelSource | CheckpointSource | None:
    """What `--model` names: `None` for a shape of `MODEL_SHAPES`, else where the user's own model comes from.

    A function is `FILE.py:FUNCTION` or `package.module:FUNCTION`; any other path is a checkpoint's.

    Raises:
        StudyError: The text is neither.

    Examples:
        >>> model_source("small")
        >>> model_source("mine/model.py:make")
        ModelSource(place='mine/model.py', function='make')
        >>> model_source("checkpoints/mine")
        CheckpointSource(place='checkpoints/mine')
    """
    if text in MODEL_SHAPES:
        return None
    if (function := function_source(text)) is not None:
        return function
    a_path = Path(text).suffix == ".json" or "/" in text or os.sep in text or (text != "" and Path(text).is_dir())
    if a_path and Path(text).suffix != ".py" and ".py:" not in text:
        return CheckpointSource(text)
    raise StudyError(
        f"--model must be one of {', '.join(MODEL_SHAPES)}, FILE.py:FUNCTION (or package.module:FUNCTION) for a model "
        "of your own, a folder with a Hugging Face checkpoint (./NAME where it is here), or a config.json; "
        f"got {text!r}."
    )


def function_source(text: str, option: str = "--model") -> ModelSource | None:
    """The function that `FILE.py:FUNCTION` or `package.module:FUNCTION` names; `None` for any other text."""
    place, _, function = text.rpartition(":")
    named = place.endswith(".py") or all(part.isidentifier() for part in place.split("."))
    return ModelSource(place, function, option) if named and function.isidentifier() else None


@dataclass(frozen=True)
class ModelSource:
    """A function that makes the user's own model.

    Attributes:
        place: A file that ends in `.py`, or a module that can be imported from the working directory.
        function: The function's (or the class's) name there.
        option: What messages call the argument that named it.
    """

    place: str
    function: str
    option: str = field(default="--model", repr=False, compare=False)

    @property
    def text(self) -> str:
        """As `--model` has it."""
        return f"{self.place}:{self.function}"

    @property
    def argument(self) -> str:
        """The option and its value, as messages begin."""
        return f"{self.option} {self.text}"

    @property
    def is_file(self) -> bool:
        """Whether the place is a file."""
        return self.place.endswith(".py")

    @property
    def absolute(self) -> str:
        """The text that means the same from any directory; that of a module is its name."""
        return f"{Path(self.place).absolute()}:{self.function}" if self.is_file else self.text

    def path(self) -> Path:
        """The file that the function stands in.

        Raises:
            StudyError: There is none.
        """
        if self.is_file:
            path = Path(self.place)
            if not path.is_file():
                raise StudyError(f"{self.argument}: {path} does not exist.")
            return path
        search: Any = [*sys.path, str(Path.cwd())]
        origin = None
        for part in self._names():
            # each package is found in the one before it, and none is imported to look
            spec = PathFinder.find_spec(part, search)
            if spec is None:
                raise StudyError(
                    f"{self.argument}: there is no module {part} in {Path.cwd()} or among what is installed; "
                    "name the file instead, FILE.py:FUNCTION."
                )
            origin, search = spec.origin, spec.submodule_search_locations or []
        if origin is None or not origin.endswith(".py"):
            raise StudyError(f"{self.argument}: {self.place} is no Python file; name the module that is one.")
        return Path(origin)

    def _names(self) -> list[str]:
        parts = self.place.split(".")
        return [".".join(parts[:stop]) for stop in range(1, len(parts) + 1)]

    def digest(self) -> str:
        """SHA-256 of the file's bytes.

        Raises:
            StudyError: The file is not there, or cannot be read.
        """
        return hashlib.sha256(self._read(self.path())).hexdigest()

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise StudyError(f"{self.argument}: cannot read {path}: {error.strerror or error}.") from None

    def load(self, sha256: str | None = None) -> Callable[..., Any]:
        """The function; a file is run anew each time, a module is imported as Python does.

        The directory of the file (the working directory for a module) is put last on the import path, so that the file
        finds its neighbours, and none of them takes the place of an installed module.

        Args:
            sha256: What the file's digest was when the study began.

        Raises:
            StudyError: The file is not there, has changed, has no such function, or raises.
        """
        path = self.path()
        content = self._read(path)
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise StudyError(
                f"{self.argument}: {path} has changed since the study began; change it back, start anew with "
                "--fresh, or name another --out."
            )
        beside = str(path.parent.absolute() if self.is_file else Path.cwd())
        if beside not in sys.path:
            sys.path.append(beside)
        with self.explained():
            module = _run_file(path, content) if self.is_file else importlib.import_module(self.place)
        function = getattr(module, self.function, None)
        if not callable(function):
            own = [
                name
                for name, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", None) == module.__name__
            ]
            there = ", ".join(own[:_MOST_NAMES]) or "none"
            raise StudyError(
                f"{self.argument}: {path} has no function {self.function!r}; functions and classes in it: {there}."
            )
        made: Callable[..., Any] = function
        return made

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns whatever the user's code raises into one line that names the exception and its place."""
        try:
            yield
        except (Exception, SystemExit) as error:  # the user's code raises whatever it likes
            raise self.explain(error) from error

    def explain(self, error: BaseException) -> OpenworkError:
        """The same error in one line."""
        message = (str(error).splitlines() or [""])[0].strip().rstrip(".")
        line = self.line_of(error)
        place = f" at line {line} of {Path(self.place).name}" if line is not None else ""
        kind = type(error) if isinstance(error, OpenworkError) else StudyError
        return kind(f"{self.argument} raised {type(error).__name__}{place}{f': {message}' if message else ''}.")

    def line_of(self, error: BaseException) -> int | None:
        """The innermost line of the user's file that the error went through; `None` where it went through none."""
        try:
            path = self.path().absolute()
        except StudyError:
            return None
        if isinstance(error, SyntaxError) and error.filename and Path(error.filename).absolute() == path:
            return error.lineno
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == path]
        return lines[-1] if lines else None


def _run_file(path: Path, content: bytes) -> ModuleType:
    # compiled here: Python's own loader would write beside the user's file, and trust what it once wrote there
    module = ModuleType(f"openwork_model_{path.stem}")
    module.__file__ = str(path.absolute())
    # dataclasses and pickle look a module up by its name
    sys.modules[module.__name__] = module
    exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    return module
