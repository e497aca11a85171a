"""What a pattern lets through, before anything is trained; NumPy alone."""

from openwork.check.findings import Example, Finding, LayerFacts
from openwork.check.links import TextLink, links_in_text, missed_links, trace_links
from openwork.check.pattern import check_pattern
from openwork.check.reach import Reach, predicted_accuracy, reachability
from openwork.check.report import FAIL_ON, CheckReport, FutureKnowledge

__all__ = [
    "FAIL_ON",
    "CheckReport",
    "Example",
    "Finding",
    "FutureKnowledge",
    "LayerFacts",
    "Reach",
    "TextLink",
    "check_pattern",
    "links_in_text",
    "missed_links",
    "predicted_accuracy",
    "reachability",
    "trace_links",
]
