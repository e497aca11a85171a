"""What a pattern lets through, before anything is trained; NumPy alone."""

from openwork.check.links import TextLink, links_in_text, missed_links, trace_links
from openwork.check.reach import Reach, predicted_accuracy, reachability

__all__ = [
    "Reach",
    "TextLink",
    "links_in_text",
    "missed_links",
    "predicted_accuracy",
    "reachability",
    "trace_links",
]
