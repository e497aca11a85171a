"""Which definition a Python name means, as far as the text so far says."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

__all__ = ["Scope"]


@dataclass(eq=False)
class Scope:
    """One scope of a Python program, filled in while the program is read.

    A name means the last thing that was bound to it in its scope: the number of a definition, or `None` for anything
    else (a parameter, an assignment, an import ...).
    """

    kind: str
    """`module`, `class`, `function` (a lambda too), `comprehension` or `type` (the parameters of a generic)."""
    parent: Scope | None = None
    indent: int = -1
    """Column of the statement that opened it; the scope is over at the next statement that does not stand deeper."""
    class_name: str = ""
    """Innermost class around, which mangles private names."""
    bindings: dict[str, int | None] = field(default_factory=dict)
    global_names: set[str] = field(default_factory=set)
    nonlocal_names: set[str] = field(default_factory=set)

    def child(self, kind: str, indent: int = -1, class_name: str = "") -> Scope:
        """A new scope inside this one."""
        return Scope(kind, self, indent, class_name or self.class_name)

    def key(self, name: str) -> str:
        """The name under which Python stores `name` here: normalised, and mangled where it is private to a class."""
        if not name.isascii():
            name = unicodedata.normalize("NFKC", name)
        owner = self.class_name.lstrip("_")
        if owner and name.startswith("__") and not name.endswith("__"):
            return f"_{owner}{name}"
        return name

    def bind(self, name: str, meaning: int | None) -> None:
        """Let `name` mean a definition, or `None`, from here on."""
        key = self.key(name)
        self._owner(key).bindings[key] = meaning

    def binds(self, name: str) -> bool:
        """Whether `name` has been bound here, rather than only further out."""
        key = self.key(name)
        return key in self._owner(key).bindings

    def lookup(self, name: str) -> int | None:
        """The definition that a use of `name` here means, or `None`."""
        key = self.key(name)
        if key in self.global_names:
            return self._module().bindings.get(key)
        scope: Scope | None = self
        near = True
        while scope is not None:
            # what a class binds is not seen by the functions inside it, but by the parameters of their types
            if near or scope.kind != "class":
                if key in scope.global_names:
                    return self._module().bindings.get(key)
                if key in scope.bindings:
                    return scope.bindings[key]
            near = near and scope.kind == "type"
            scope = scope.parent
        return None

    def sees_class(self, name: str) -> bool:
        """Whether this is the body of a class that binds `name`: a comprehension in it would look further out."""
        return self.kind == "class" and self.key(name) in self.bindings

    def walrus_target(self) -> Scope:
        """Where `:=` binds: the nearest scope that is no comprehension."""
        scope = self
        while scope.kind == "comprehension" and scope.parent is not None:
            scope = scope.parent
        return scope

    def _module(self) -> Scope:
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    def _owner(self, key: str) -> Scope:
        if key in self.global_names:
            return self._module()
        if key in self.nonlocal_names:
            scope = self.parent
            while scope is not None and scope.parent is not None:
                if scope.kind != "class" and key in scope.bindings:
                    return scope
                scope = scope.parent
        return self
