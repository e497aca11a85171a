"""Record the study that the demo shows beside its live one, and put it into the package.

    python benchmarks/recorded_study.py [--steps 300] [--seeds 3] [--batch-size 8] [--device auto] [--dtype float32]
                                        [--out openwork-recorded]

80 minutes on one thread, and the same command goes on where it was stopped. What is written is the study's own
record (every loss of every step), without the paths of the machine, its date beside it. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

from openwork.runs import write_file
from openwork.study import run
from openwork.study.recipes import recorded_study

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "src" / "openwork" / "study" / "recorded" / "study.json.gz"


OPTIONS = {"steps": 300, "seeds": 3, "batch_size": 8, "device": "auto", "dtype": "float32"}
"""Of the recipe, with their defaults."""


def machine_of(environment: dict[str, Any]) -> str:
    """What trained, in words."""
    if environment["device"] != "cpu":
        return str(environment["device"])
    threads = environment["threads"]
    return f"{environment['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def without_paths(content: dict[str, Any], command: str, date: str) -> dict[str, Any]:
    """The record with the standard library named as such, and no other place of this machine."""
    library = f"the standard library of Python {content['environment']['python']}"
    content["config"] |= {"data": library, "out": "openwork-recorded"}
    content["data"]["root"] = library
    return {
        "date": date,
        "machine": machine_of(content["environment"]),
        "command": command,
        "result": content,
    }


def main() -> None:
    """Runs the study and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--out", type=Path, default=Path("openwork-recorded"))
    options = parser.parse_args()
    chosen = {name: getattr(options, name) for name in OPTIONS}
    config = recorded_study(**chosen, out=options.out)
    result = run(config, report=lambda event: print(json.dumps(event), file=sys.stderr, flush=True))
    told = [f"--{name.replace('_', '-')} {value}" for name, value in chosen.items() if value != OPTIONS[name]]
    command = " ".join(["python benchmarks/recorded_study.py", *told])
    began = time.localtime((options.out / "study.json").stat().st_mtime)
    record = without_paths(result.to_dict(), command, time.strftime("%Y-%m-%d", began))
    write_file(PLACE, gzip.compress(json.dumps(record).encode(), mtime=0))
    print("\n".join(record["result"]["verdict"]))
    print(json.dumps({name: record[name] for name in ("date", "machine", "command")} | {"bytes": PLACE.stat().st_size}))


if __name__ == "__main__":
    main()
