"""Storage of runs: files that are whole or absent, one writer at a time, and where studies are."""

from openwork.runs.files import Lock, is_locked, read_json, write_file, write_json
from openwork.runs.find import find_studies, in_use

__all__ = ["Lock", "find_studies", "in_use", "is_locked", "read_json", "write_file", "write_json"]
