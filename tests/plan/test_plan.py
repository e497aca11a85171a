"""Plans: which layer gets which pattern, what is refused, and the way through JSON."""

from __future__ import annotations

import json
import pickle

import pytest

from openwork.errors import PlanError
from openwork.patterns import Causal, Keys, Linked, PerHead, Window
from openwork.plan import Plan

LOCAL = Causal() & Window(before=15)
BROAD = Causal() & Window(before=127)
PLANS = [
    Plan(default=LOCAL),
    Plan(default=LOCAL, layers={2: BROAD, 0: PerHead(LOCAL, Causal())}),
    Plan.by_depth({0.0: LOCAL, 0.5: BROAD, 0.67: Causal()}, layers={1: Causal()}),
    Plan(default=Causal() & (Keys("definition") | Linked("use")), annotator="python"),
    Plan(default=LOCAL, decode=Causal()),
    Plan(default=LOCAL, encoder=Window(before=3, after=3), decoder=Plan(default=LOCAL, layers={1: BROAD})),
    Plan.by_depth({0.0: LOCAL, 0.5: BROAD}, annotator="python", decode=Plan.by_depth({0.0: BROAD, 0.5: Causal()})),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_survives_json_pickle_and_repr(plan: Plan) -> None:
    names = {name: globals()[name] for name in ("Causal", "Keys", "Linked", "PerHead", "Plan", "Window")}
    for copy in (Plan.from_json(plan.to_json()), pickle.loads(pickle.dumps(plan)), eval(repr(plan), names)):
        assert copy == plan
        assert hash(copy) == hash(plan)


def test_plans_differ_in_every_field() -> None:
    assert len(set(PLANS)) == len(PLANS)
    assert Plan(default=LOCAL) != Plan(default=LOCAL, annotator="python")


@pytest.mark.parametrize(("num_layers", "first_broad"), [(1, 1), (2, 1), (3, 2), (4, 3), (6, 4), (12, 8), (32, 21)])
def test_a_share_of_the_depth_begins_at_the_nearest_layer(num_layers: int, first_broad: int) -> None:
    plan = Plan.by_depth({0.0: LOCAL, 0.67: BROAD})
    patterns = [plan.for_layer(layer, num_layers) for layer in range(num_layers)]
    assert patterns == [LOCAL] * first_broad + [BROAD] * (num_layers - first_broad)


def test_a_named_layer_wins_over_its_depth() -> None:
    plan = Plan.by_depth({0.0: LOCAL, 0.5: BROAD}, layers={3: Causal()})
    assert [plan.for_layer(layer, 4) for layer in range(4)] == [LOCAL, LOCAL, BROAD, Causal()]


def test_a_plan_needs_what_any_layer_needs() -> None:
    plan = Plan(default=Causal(), layers={1: Keys("definition")}, depths=((0.5, Linked("use")),))
    assert dict(plan.needs) == {"definition": "flag", "use": "links"}
    assert dict(Plan(default=LOCAL).needs) == {}


def test_map_changes_every_pattern() -> None:
    plan = Plan(default=LOCAL, layers={0: BROAD}, depths=((0.5, BROAD),), annotator="python").map(
        lambda p: p & Causal()
    )
    assert plan == Plan(
        default=LOCAL & Causal(), layers={0: BROAD & Causal()}, depths=((0.5, BROAD & Causal()),), annotator="python"
    )


def test_a_part_is_the_named_one_or_what_the_rest_says() -> None:
    whole = Plan(default=LOCAL, layers={1: BROAD}, annotator="python")
    assert [whole.part(name) for name in ("encoder", "decoder", "decode")] == [whole] * 3
    plan = Plan(default=LOCAL, layers={1: BROAD}, annotator="python", encoder=Window(before=3, after=3))
    assert plan.part("encoder") == Plan(default=Window(before=3, after=3), annotator="python")
    assert plan.part("decoder") == plan.part("decode") == whole
    assert Plan(default=LOCAL, decoder=BROAD).part("decode") == Plan(default=BROAD)
    assert Plan(default=LOCAL, decoder=BROAD, decode=Causal()).part("decode") == Plan(default=Causal())
    assert Plan(default=LOCAL, decoder=BROAD, decode=Causal()).part("decoder") == Plan(default=BROAD)
    assert Plan(default=LOCAL, decode=Causal()).for_layer(0, 4) == LOCAL


def test_patterns_needs_and_map_reach_the_parts() -> None:
    plan = Plan(default=LOCAL, encoder=Keys("heading"), decode=Plan(default=Causal(), layers={1: Linked("use")}))
    assert plan.patterns == (LOCAL, Keys("heading"), Causal(), Linked("use"))
    assert dict(plan.needs) == {"heading": "flag", "use": "links"}
    assert plan.map(lambda pattern: BROAD) == Plan(
        default=BROAD, encoder=BROAD, decode=Plan(default=BROAD, layers={1: BROAD})
    )
    shown = plan._repr_html_()
    assert "encoder default" in shown and "decode layer 1" in shown


def test_layers_cannot_be_changed_from_outside() -> None:
    layers = {0: LOCAL}
    plan = Plan(default=BROAD, layers=layers)
    layers[1] = LOCAL
    assert plan == Plan(default=BROAD, layers={0: LOCAL})
    with pytest.raises(TypeError):
        plan.layers[1] = LOCAL  # type: ignore[index]


def test_a_notebook_shows_every_pattern_escaped() -> None:
    shown = Plan(default=Causal() & Keys("<b>"), layers={3: BROAD}, annotator="a&b")._repr_html_()
    assert "layer 3" in shown and "&lt;b&gt;" in shown and "a&amp;b" in shown and "<b>" not in shown
    assert shown.count("<svg") == 2
    again = Plan(default=BROAD, layers={3: BROAD})._repr_html_()
    assert again.count("<svg") == 1 and again.count("<tr>") == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Plan(default="Causal()"),
            r"Plan default must be a pattern; got 'Causal\(\)'. Read text with parse_pat",
        ),
        (lambda: Plan(default=LOCAL, layers={-1: LOCAL}), "layers are numbered from 0; got -1"),
        (lambda: Plan(default=LOCAL, layers={True: LOCAL}), "layers are numbered from 0; got True"),
        (lambda: Plan(default=LOCAL, layers={1: None}), r"layers\[1\] must be a pattern; got None"),
        (lambda: Plan(default=LOCAL, depths=((1.0, LOCAL),)), "share of the layers above 0 and below 1; got 1.0"),
        (lambda: Plan(default=LOCAL, annotator=""), "annotator is the name of an annotator, or None; got ''"),
        (lambda: Plan.by_depth({0.5: LOCAL}), "needs the pattern of the lowest layers under 0.0; got 0.5"),
        (lambda: Plan.of("Causal()"), "a plan is a Plan or a Pattern; got str"),
        (lambda: Plan(default=LOCAL, layers=[LOCAL]), r"Plan layers is a table {layer: pattern}; got \[Causal"),
        (
            lambda: Plan(default=LOCAL, depths={0.5: LOCAL}),
            r"Plan depths are pairs \(share, pattern\); got {0.5: Causal",
        ),
        (lambda: Plan(default=LOCAL, depths=(0.5,)), r"depths are pairs .* got \(0.5,\). Plan.by_depth"),
        (lambda: Plan(default=LOCAL, depths=((0.5, LOCAL), (0.5, BROAD))), "two patterns from depth 0.5; give one"),
        (lambda: Plan.by_depth([LOCAL]), r"Plan.by_depth takes a table {share: pattern}; got \[Causal"),
        (lambda: Plan(default=LOCAL).for_layer("0", 4), r"layer '0' does not exist: the model has 4 layers"),
        (lambda: Plan(default=LOCAL).for_layer(0, "4"), "at least 1 layer; got num_layers='4'"),
        (lambda: Plan.from_json(None), "Plan.from_json takes text; got NoneType"),
        (
            lambda: Plan(default=LOCAL, layers={4: LOCAL}).for_layer(0, 4),
            r"names layer 4, but the model has 4 layers \(0 ",
        ),
        (lambda: Plan(default=LOCAL).for_layer(4, 4), r"layer 4 does not exist: the model has 4 layers \(0 to 3\)"),
        (lambda: Plan(default=LOCAL).for_layer(0, 0), "at least 1 layer; got num_layers=0"),
        (
            lambda: Plan(default=LOCAL, layers={1: PerHead(LOCAL, BROAD)}).check(2, q_heads=4),
            "the plan's layer 1 is a PerHead of 2 heads, but the model has 4 query heads; give one pattern for each",
        ),
        (
            lambda: Plan(default=LOCAL, decode=PerHead(LOCAL, BROAD)).check(2, q_heads=4),
            "the plan's decode default is a PerHead of 2 heads, but the model has 4 query heads",
        ),
        (
            lambda: Plan(default=LOCAL, decode=Plan(default=LOCAL, layers={7: BROAD})).check(4),
            "the plan names layer 7, but the model has 4 layers",
        ),
        (
            lambda: Plan(default=LOCAL, encoder=LOCAL).for_layer(0, 4),
            r"a part for the encoder, but the model is one stack of layers; give it plan.part\('encoder'\)",
        ),
        (
            lambda: Plan(default=LOCAL, decode="Causal()"),
            r"Plan decode is a Plan, a Pattern or None; got 'Causal\(\)'. Read text with parse_pattern",
        ),
        (
            lambda: Plan(default=LOCAL, decoder=Plan(default=LOCAL, decode=BROAD)),
            "Plan decoder cannot have decode= of its own; give it to the plan around it",
        ),
        (
            lambda: Plan(default=LOCAL, encoder=Plan(default=LOCAL, annotator="python")),
            "Plan encoder cannot have annotator= of its own; give it to the plan around it",
        ),
        (lambda: Plan(default=LOCAL).part("prefill"), "a plan has the parts encoder, decoder, decode; got 'prefill'"),
    ],
)
def test_a_wrong_plan_is_refused_in_words(make, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the plan is not JSON: "),
        ("[" * 100_000, "the plan is not JSON: "),
        ('{"openwork_plan": 1, "default": "Causal()", "default": "Dense()"}', "the name 'default' stands twice in one"),
        (
            '{"openwork_plan": 1, "default": "Causal()", "layers": {"01": "Causal()"}}',
            "must map layer numbers to pattern texts; got {'01'",
        ),
        (
            '{"openwork_plan": 1, "default": "Causal()", "layers": {"' + "9" * 5000 + '": "Causal()"}}',
            "must map layer numbers to pattern texts",
        ),
        ("[]", 'a plan is a JSON object with "openwork_plan": 1'),
        ('{"openwork_plan": 2, "default": "Causal()"}', 'a plan is a JSON object with "openwork_plan": 1'),
        ('{"openwork_plan": 1}', "the plan's default must be the text of a pattern; got None"),
        ('{"openwork_plan": 1, "default": "Windw(3)"}', "the plan's default cannot be read: unknown pattern 'Windw'"),
        ('{"openwork_plan": 1, "default": "Causal()", "layer": {}}', "the unknown field 'layer'; known are "),
        (
            '{"openwork_plan": 1, "default": "Causal()", "layers": {"x": "Causal()"}}',
            "must map layer numbers to pattern",
        ),
        ('{"openwork_plan": 1, "default": "Causal()", "layers": {"1": "Nope()"}}', r"layers\[1\] cannot be read: "),
        (
            '{"openwork_plan": 1, "default": "Causal()", "decode": "Causal()"}',
            r"the plan's decode must be an object as Plan.to_json writes it; got 'Causal\(\)'",
        ),
        (
            '{"openwork_plan": 1, "default": "Causal()", "decode": {"default": "Nope()"}}',
            "the plan's decode default cannot be read: unknown pattern 'Nope'",
        ),
        (
            '{"openwork_plan": 1, "default": "Causal()", "decode": {"default": "Causal()", "annotator": "python"}}',
            "the plan's decode has the unknown field 'annotator'; known are default, depths, layers",
        ),
        (
            '{"openwork_plan": 1, "default": "Causal()", "encoder": {"default": "Causal()", "layers": {"x": 1}}}',
            'the plan\'s encoder "layers" must map layer numbers to pattern texts',
        ),
        ('{"openwork_plan": 1, "default": "Causal()", "depths": [0.5]}', r"must be a list of \[share, pattern text\]"),
    ],
)
def test_a_text_that_is_no_plan_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


def test_no_code_in_a_plan_is_executed() -> None:
    text = json.dumps({"openwork_plan": 1, "default": "__import__('sys').exit(3)"})
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.from_json(text)
