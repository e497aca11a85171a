"""The errors that a caller can cause. Each message says what was wrong, the value, and the way out."""

__all__ = [
    "AnnotationError",
    "AnnotationWarning",
    "ArgumentError",
    "BackendError",
    "DataError",
    "LayoutError",
    "OpenworkError",
    "PatternError",
    "PlanError",
    "PlanWarning",
    "StudyError",
]


class OpenworkError(Exception):
    """Anything that a caller of openwork can cause; catch this to catch them all."""


class PatternError(OpenworkError, ValueError):
    """A pattern was described with a value that has no meaning, or asked something it cannot answer."""


class AnnotationError(OpenworkError, ValueError):
    """Annotations are missing, of the wrong length, or break what their annotator declared."""


class ArgumentError(OpenworkError, ValueError):
    """A tensor or an option of an operation has a shape, type or value that does not fit."""


class LayoutError(OpenworkError, ValueError):
    """A layout cannot be compiled, or was compiled for other lengths than it is used with."""


class BackendError(OpenworkError, RuntimeError):
    """The named backend, or under `"auto"` every backend, refused the call."""


class PlanError(OpenworkError, ValueError):
    """A plan does not fit the model that it is given to, or its text cannot be read."""


class DataError(OpenworkError, ValueError):
    """The user's data is missing, empty, unreadable or too short for what was asked."""


class StudyError(OpenworkError, RuntimeError):
    """A study cannot start, resume or go on."""


class AnnotationWarning(UserWarning):
    """An annotation that a pattern reads is there, but empty."""


class PlanWarning(UserWarning):
    """A plan fits the model, but is most likely not what was meant for it."""
