"""Annotators: from text and a tokenizer's character offsets to named facts per token."""

from openwork.annotate.base import (
    Annotator,
    AnnotatorFunction,
    TextAnnotator,
    annotator,
    combine,
    is_causal,
    require_causal,
)
from openwork.annotate.c import C, c_source
from openwork.annotate.catalogue import annotator_for, annotator_named
from openwork.annotate.characters import CharacterFacts, CharacterLink, to_tokens
from openwork.annotate.chat import SPEAKERS, chat_turns, render_chat
from openwork.annotate.documents import documents, documents_from_separators
from openwork.annotate.features import SequenceFeatures, read_features
from openwork.annotate.headings import Heading, heading_annotator
from openwork.annotate.html import html_headings
from openwork.annotate.logs import LEVELS, log_records
from openwork.annotate.manual import manual_headings
from openwork.annotate.markdown import markdown_headings
from openwork.annotate.offsets import byte_offsets, check_offsets, offsets_of
from openwork.annotate.passages import Passages, passage_tokens, passages
from openwork.annotate.prefixes import FutureFact, future_facts
from openwork.annotate.python import Python, python_source
from openwork.annotate.rst import rst_headings
from openwork.annotate.sequences import fasta_records, fastq_records
from openwork.annotate.source import Definition, SourceFacts, SourceLanguage, Use, source_code

__all__ = [
    "LEVELS",
    "SPEAKERS",
    "Annotator",
    "AnnotatorFunction",
    "C",
    "CharacterFacts",
    "CharacterLink",
    "Definition",
    "FutureFact",
    "Heading",
    "Passages",
    "Python",
    "SequenceFeatures",
    "SourceFacts",
    "SourceLanguage",
    "TextAnnotator",
    "Use",
    "annotator",
    "annotator_for",
    "annotator_named",
    "byte_offsets",
    "c_source",
    "chat_turns",
    "check_offsets",
    "combine",
    "documents",
    "documents_from_separators",
    "fasta_records",
    "fastq_records",
    "future_facts",
    "heading_annotator",
    "html_headings",
    "is_causal",
    "log_records",
    "manual_headings",
    "markdown_headings",
    "offsets_of",
    "passage_tokens",
    "passages",
    "python_source",
    "read_features",
    "render_chat",
    "require_causal",
    "rst_headings",
    "source_code",
    "to_tokens",
]
