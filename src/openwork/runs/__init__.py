"""Storage of runs: files that are whole or absent, and one writer at a time."""

from openwork.runs.files import Lock, read_json, write_file, write_json

__all__ = ["Lock", "read_json", "write_file", "write_json"]
