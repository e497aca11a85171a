"""Reports: sections of words, tables and figures on one HTML page that needs nothing else.

A study's page is `study_report(result)`; other jobs make `Section` values of their own with `line_figure`,
`bar_figure`, `point_figure` and `pattern_figure`, and compose a `Report` of them.
"""

from openwork.study.report.charts import Bar, Line, Point, bar_figure, line_figure, point_figure
from openwork.study.report.page import html_of, write_report
from openwork.study.report.picture import TextLine, pattern_figure, text_lines
from openwork.study.report.study import study_report, study_sections
from openwork.study.report.values import Cell, Code, Figure, Key, Report, Section, Table, Words

__all__ = [
    "Bar",
    "Cell",
    "Code",
    "Figure",
    "Key",
    "Line",
    "Point",
    "Report",
    "Section",
    "Table",
    "TextLine",
    "Words",
    "bar_figure",
    "html_of",
    "line_figure",
    "pattern_figure",
    "point_figure",
    "study_report",
    "study_sections",
    "text_lines",
    "write_report",
]
