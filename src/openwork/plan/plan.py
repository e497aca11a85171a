"""`Plan`: the value that gives every layer of a model its pattern."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from openwork.errors import OpenworkError, PlanError
from openwork.patterns import Pattern, PerHead, parse_pattern
from openwork.patterns.checks import shown

__all__ = ["Plan"]

_FORMAT = "openwork_plan"
_VERSION = 1
_PARTS = ("encoder", "decoder", "decode")
_LAYER = re.compile(r"0|[1-9][0-9]{0,8}")
"""A layer number as JSON writes it: one spelling for each."""


@dataclass(frozen=True, repr=False)
class Plan:
    """Which pattern each layer of a model uses: a pure value, without a model.

    A layer takes its pattern from `layers` where its number is there, else from the last share of `depths` that it
    has reached, else from `default`. A share `s` begins at layer `floor(s * num_layers + 1/2)`, the nearest whole
    number, so `0.67` is the upper third of 3, 6 and 12 layers.

    Args:
        default: Pattern of every layer that nothing else names.
        layers: Layer number, from 0, to its pattern; a `PerHead` gives every query head of the layer its own.
        depths: Pairs `(share, pattern)`: from this share of the depth upward, `0 < share < 1`; see `by_depth`.
        annotator: Name of the annotator that makes the facts which the patterns read; `None` where they read none,
            or where the caller brings the annotations.
        encoder: What the encoder's self-attention uses, in a model that has an encoder and a decoder: a pattern, or a
            plan whose layers are the encoder's. `None` for what the rest of the plan says.
        decoder: The same of the decoder's self-attention.
        decode: What the tokens see that are generated after the prompt, one or a few at a time upon a cache: a pattern,
            or a plan for the same layers. `None` for what the prompt's tokens see. A sparse prompt with dense decoding
            is `Plan(default=..., decode=Causal())`. Training, and any call without a cache, does not use it.

    Raises:
        PlanError: A pattern is not a pattern, a layer is not a whole number from 0, a share is not in 0 to 1, or a plan
            in the place of `encoder`, `decoder` or `decode` has such parts or an annotator of its own.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> plan = Plan(default=Causal() & Window(before=255), layers={3: Causal()})
        >>> plan.for_layer(3, num_layers=4)
        Causal()
        >>> Plan.from_json(plan.to_json()) == plan
        True
        >>> plan
        Plan(default=Causal() & Window(before=255, after=0), layers={3: Causal()})
        >>> Plan(default=Causal() & Window(before=255), decode=Causal()).part("decode")
        Plan(default=Causal())
    """

    default: Pattern
    layers: Mapping[int, Pattern] = field(default_factory=dict)
    depths: tuple[tuple[float, Pattern], ...] = ()
    annotator: str | None = None
    encoder: Plan | Pattern | None = None
    decoder: Plan | Pattern | None = None
    decode: Plan | Pattern | None = None

    def __post_init__(self) -> None:
        _require_pattern(self.default, "default")
        if not isinstance(self.layers, Mapping):
            raise PlanError(f"Plan layers is a table {{layer: pattern}}; got {shown(self.layers)}.")
        for layer, pattern in self.layers.items():
            if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
                raise PlanError(f"Plan layers are numbered from 0; got {shown(layer)}.")
            _require_pattern(pattern, f"layers[{shown(layer)}]")
        depths = _pairs(self.depths)
        for share, pattern in depths:
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
                raise PlanError(
                    f"a depth is a share of the layers above 0 and below 1; got {shown(share)}. "
                    "Write layer numbers in Plan(layers={number: pattern})."
                )
            _require_pattern(pattern, f"depths[{share}]")
        if self.annotator is not None and not (isinstance(self.annotator, str) and self.annotator):
            raise PlanError(f"Plan annotator is the name of an annotator, or None; got {shown(self.annotator)}.")
        object.__setattr__(self, "layers", MappingProxyType(dict(sorted(self.layers.items()))))
        shares = sorted(((float(share), pattern) for share, pattern in depths), key=lambda pair: pair[0])
        for (share, _), (following, _) in pairwise(shares):
            if share == following:
                raise PlanError(f"the plan has two patterns from depth {share}; give one.")
        object.__setattr__(self, "depths", tuple(shares))
        for name in _PARTS:
            object.__setattr__(self, name, _part(getattr(self, name), name))

    @classmethod
    def by_depth(
        cls,
        shares: Mapping[float, Pattern],
        *,
        layers: Mapping[int, Pattern] | None = None,
        annotator: str | None = None,
        encoder: Plan | Pattern | None = None,
        decoder: Plan | Pattern | None = None,
        decode: Plan | Pattern | None = None,
    ) -> Plan:
        """A plan that changes with depth: each pattern holds from its share of the depth upward.

        Args:
            shares: Share of the depth, from 0.0 to below 1.0, to pattern; 0.0 must be there.
            layers: Layers that have their own pattern whatever their depth.
            annotator: As in `Plan`.
            encoder: As in `Plan`.
            decoder: As in `Plan`.
            decode: As in `Plan`.

        Raises:
            PlanError: There is no pattern for share 0.0, or a share is not in 0 to 1.

        Examples:
            >>> from openwork.patterns import Causal, Window
            >>> plan = Plan.by_depth({0.0: Causal() & Window(before=127), 0.67: Causal()})
            >>> [repr(plan.for_layer(layer, num_layers=3)) for layer in range(3)]
            ['Causal() & Window(before=127, after=0)', 'Causal() & Window(before=127, after=0)', 'Causal()']
        """
        if not isinstance(shares, Mapping):
            raise PlanError(f"Plan.by_depth takes a table {{share: pattern}}; got {shown(shares)}.")
        if 0 not in shares:
            given = ", ".join(map(str, sorted(shares))) or "no share"
            raise PlanError(f"Plan.by_depth needs the pattern of the lowest layers under 0.0; got {given}.")
        above = tuple((share, pattern) for share, pattern in shares.items() if share != 0)
        return cls(shares[0], layers or {}, above, annotator, encoder, decoder, decode)

    @classmethod
    def of(cls, plan: Plan | Pattern) -> Plan:
        """The plan itself, or the plan that gives one pattern to every layer."""
        if isinstance(plan, Plan):
            return plan
        if isinstance(plan, Pattern):
            return cls(default=plan)
        raise PlanError(f"a plan is a Plan or a Pattern; got {type(plan).__name__}. Read text with parse_pattern.")

    @property
    def needs(self) -> Mapping[str, str]:
        """The annotations that the patterns read: name to kind; two kinds of one name are joined by `+`."""
        needs: dict[str, str] = {}
        for pattern in self.patterns:
            for name, kind in pattern.needs.items():
                kinds = [*needs[name].split("+"), *kind.split("+")] if name in needs else kind.split("+")
                needs[name] = "+".join(dict.fromkeys(kinds))
        return MappingProxyType(needs)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Every pattern that the plan names, each once: the default, those of layers, of depths, and of the parts."""
        return tuple(dict.fromkeys(pattern for _, pattern in self._all()))

    def part(self, name: str) -> Plan:
        """The plan of one part, without parts of its own.

        Args:
            name: `encoder` or `decoder`: of that stack's self-attention; `decode`: of tokens that follow the prompt.

        Returns:
            The part where the plan names it, else what the rest says: of `decode`, the part `decoder`, and of the other
            two, layers, depths and default of the plan itself. The annotator is the plan's.

        Raises:
            PlanError: There is no such part.

        Examples:
            >>> from openwork.patterns import Causal, Dense, Window
            >>> plan = Plan(default=Causal() & Window(before=7), encoder=Dense(), decode=Causal())
            >>> plan.part("encoder"), plan.part("decode")
            (Plan(default=Dense()), Plan(default=Causal()))
            >>> plan.part("decoder")
            Plan(default=Causal() & Window(before=7, after=0))
        """
        if name not in _PARTS:
            raise PlanError(f"a plan has the parts {', '.join(_PARTS)}; got {shown(name)}.")
        names = ("decode", "decoder") if name == "decode" else (name,)
        found = next((getattr(self, each) for each in names if getattr(self, each) is not None), self)
        return replace(found, encoder=None, decoder=None, decode=None, annotator=self.annotator)

    def for_layer(self, layer: int, num_layers: int) -> Pattern:
        """The pattern of layer `layer` in a model of `num_layers` layers.

        Raises:
            PlanError: The layer is not one of the model's, or the plan names a layer that the model lacks.
        """
        self.check(num_layers)
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < num_layers:
            raise PlanError(f"layer {shown(layer)} does not exist: the model has {_layers(num_layers)}.")
        if layer in self.layers:
            return self.layers[layer]
        reached = [pattern for share, pattern in self.depths if layer >= math.floor(share * num_layers + 0.5)]
        return reached[-1] if reached else self.default

    def check(self, num_layers: int, q_heads: int | None = None) -> None:
        """Raises a `PlanError` where the plan does not fit a model of one stack of this many layers and query heads.

        Of a model with an encoder and a decoder, each is asked for its own: `plan.part("encoder").check(...)`.
        """
        for name in ("encoder", "decoder"):
            if getattr(self, name) is not None:
                raise PlanError(
                    f"the plan has a part for the {name}, but the model is one stack of layers; give it "
                    f"plan.part({name!r}), or a plan without {name}=."
                )
        if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
            raise PlanError(f"a model has at least 1 layer; got num_layers={shown(num_layers)}.")
        named = [*self.layers, *(layer for _, part in self._parts() for layer in part.layers)]
        if named and max(named) >= num_layers:
            raise PlanError(f"the plan names layer {max(named)}, but the model has {_layers(num_layers)}.")
        if q_heads is None:
            return
        for place, pattern in self._all():
            if isinstance(pattern, PerHead) and len(pattern.patterns) != q_heads:
                raise PlanError(
                    f"the plan's {place} is a PerHead of {len(pattern.patterns)} heads, but the model has {q_heads} "
                    f"query heads; give one pattern for each, or fill up with PerHead.of(..., heads={q_heads})."
                )

    def map(self, change: Callable[[Pattern], Pattern]) -> Plan:
        """The plan where every pattern, those of its parts included, is replaced by `change(pattern)`."""
        changed: dict[str, Any] = {name: part.map(change) for name, part in self._parts()}
        return replace(
            self,
            default=change(self.default),
            layers={layer: change(pattern) for layer, pattern in self.layers.items()},
            depths=tuple((share, change(pattern)) for share, pattern in self.depths),
            **changed,
        )

    def to_json(self) -> str:
        """The plan as JSON text that `from_json` reads back; patterns as the text that makes them."""
        return json.dumps({_FORMAT: _VERSION} | self._content(), indent=2)

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"default": repr(self.default)}
        if self.layers:
            content["layers"] = {str(layer): repr(pattern) for layer, pattern in self.layers.items()}
        if self.depths:
            content["depths"] = [[share, repr(pattern)] for share, pattern in self.depths]
        if self.annotator is not None:
            content["annotator"] = self.annotator
        return content | {name: part._content() for name, part in self._parts()}

    @classmethod
    def from_json(cls, text: str, *, allow_imports: bool = False) -> Plan:
        """The plan that `to_json` wrote. No code in the text is executed.

        Args:
            text: JSON text.
            allow_imports: As in `parse_pattern`: for plans with classes or functions of your own, from a file that
                you trust.

        Raises:
            PlanError: The text is not JSON, not a plan, or holds a pattern that cannot be read.
        """
        if not isinstance(text, str):
            raise PlanError(f"Plan.from_json takes text; got {type(text).__name__}.")
        try:
            content = json.loads(text, object_pairs_hook=_table)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the plan is not JSON: {error}.") from None
        if not isinstance(content, dict) or content.get(_FORMAT) != _VERSION:
            raise PlanError(f'a plan is a JSON object with "{_FORMAT}": {_VERSION}, as Plan.to_json writes it.')
        del content[_FORMAT]
        return _plan(content, "", partial(_read, allow_imports=allow_imports))

    def _named(self) -> Iterator[tuple[str, Pattern]]:
        yield "default", self.default
        for layer, pattern in self.layers.items():
            yield f"layer {layer}", pattern
        for share, pattern in self.depths:
            yield f"depth {share}", pattern

    def _parts(self) -> Iterator[tuple[str, Plan]]:
        for name in _PARTS:
            if getattr(self, name) is not None:
                yield name, getattr(self, name)

    def _all(self) -> Iterator[tuple[str, Pattern]]:
        yield from self._named()
        for name, part in self._parts():
            yield from ((f"{name} {place}", pattern) for place, pattern in part._named())

    def __hash__(self) -> int:
        return hash((self.default, tuple(self.layers.items()), self.depths, self.annotator, *self._parts()))

    def __reduce__(self) -> tuple[Any, ...]:
        # a mappingproxy cannot be pickled
        rest = (self.annotator, self.encoder, self.decoder, self.decode)
        return Plan, (self.default, dict(self.layers), self.depths, *rest)

    def __repr__(self) -> str:
        if self.depths:
            shares = ", ".join(f"{share}: {pattern!r}" for share, pattern in ((0.0, self.default), *self.depths))
            parts = [f"{{{shares}}}"]
        else:
            parts = [f"default={self.default!r}"]
        if self.layers:
            parts.append(
                "layers={" + ", ".join(f"{layer}: {pattern!r}" for layer, pattern in self.layers.items()) + "}"
            )
        if self.annotator is not None:
            parts.append(f"annotator={self.annotator!r}")
        for name, part in self._parts():
            parts.append(f"{name}={part.default!r}" if part == Plan(default=part.default) else f"{name}={part!r}")
        return f"Plan{'.by_depth' if self.depths else ''}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        seen: set[Pattern] = set()
        rows = ""
        for place, pattern in self._all():
            drawn = f"<code>{html.escape(repr(pattern))}</code>" if pattern in seen else pattern._repr_html_()
            rows += f"<tr><td>{html.escape(place)}</td><td>{drawn}</td></tr>"
            seen.add(pattern)
        facts = f"<caption>annotator: {html.escape(self.annotator)}</caption>" if self.annotator else ""
        return f"<table>{facts}<tr><th>layers</th><th>pattern</th></tr>{rows}</table>"


def _layers(num_layers: int) -> str:
    return f"{num_layers} layer{'s' * (num_layers != 1)} (0 to {num_layers - 1})"


def _pairs(depths: Any) -> list[tuple[Any, Any]]:
    if isinstance(depths, Iterable) and not isinstance(depths, Mapping):
        pairs = list(depths)
        if all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            return [(pair[0], pair[1]) for pair in pairs]
    raise PlanError(
        f"Plan depths are pairs (share, pattern); got {shown(depths)}. Plan.by_depth({{share: pattern}}) takes a table."
    )


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"the name {shown(name)} stands twice in one object")
        table[name] = value
    return table


def _part(value: object, name: str) -> Plan | None:
    if value is None:
        return None
    if not isinstance(value, Plan | Pattern):
        raise PlanError(f"Plan {name} is a Plan, a Pattern or None; got {shown(value)}. Read text with parse_pattern.")
    plan = Plan.of(value)
    if own := [each for each in ("annotator", *_PARTS) if getattr(plan, each) is not None]:
        raise PlanError(f"Plan {name} cannot have {own[0]}= of its own; give it to the plan around it.")
    return plan


def _plan(content: Any, place: str, read: Callable[..., Pattern]) -> Plan:
    """The plan in a JSON object; `place` is where it stands, empty for the whole."""
    own = f"{place} " if place else ""
    if not isinstance(content, dict):
        raise PlanError(f"the plan's {place} must be an object as Plan.to_json writes it; got {shown(content)}.")
    known = {"default", "layers", "depths"} | (set() if place else {"annotator", *_PARTS})
    if unknown := sorted(content.keys() - known):
        where = f"the plan's {place}" if place else "the plan"
        raise PlanError(f"{where} has the unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    layers, depths = content.get("layers", {}), content.get("depths", [])
    if not isinstance(layers, dict) or not all(_LAYER.fullmatch(layer) for layer in layers):
        raise PlanError(f'the plan\'s {own}"layers" must map layer numbers to pattern texts; got {shown(layers)}.')
    if not isinstance(depths, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in depths):
        raise PlanError(f'the plan\'s {own}"depths" must be a list of [share, pattern text]; got {shown(depths)}.')
    return Plan(
        default=read(content.get("default"), f"{own}default"),
        layers={int(layer): read(text, f"{own}layers[{layer}]") for layer, text in layers.items()},
        depths=tuple((share, read(text, f"{own}depths[{share}]")) for share, text in depths),
        annotator=content.get("annotator"),
        **{name: _plan(content[name], name, read) for name in _PARTS if name in content},
    )


def _require_pattern(value: object, place: str) -> None:
    if not isinstance(value, Pattern):
        raise PlanError(f"Plan {place} must be a pattern; got {shown(value)}. Read text with parse_pattern.")


def _read(text: object, place: str, *, allow_imports: bool) -> Pattern:
    if not isinstance(text, str):
        raise PlanError(f"the plan's {place} must be the text of a pattern; got {shown(text)}.")
    try:
        return parse_pattern(text, allow_imports=allow_imports)
    except OpenworkError as error:
        raise PlanError(f"the plan's {place} cannot be read: {error}") from None
