"""Build the native kernels with AddressSanitizer and UBSan and run their tests on them; Linux, with GCC or Clang.

Usage: python scripts/sanitize.py [PYTEST ARGUMENT ...]

Without arguments: the tests of tests/native and the contract of the backend `cpu`, but for what compiles with torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT / "build" / "sanitize" / "lib"
DEFAULT = [
    "-m",
    "not slow",
    "-k",
    "(native or (contract and cpu)) and not compil",
    "tests/native",
    "tests/ops/test_contract.py",
]


def runtime() -> str:
    """What must be there before Python: the sanitizer, and the C++ library whose exceptions it watches."""
    compiler, paths = os.environ.get("CXX", "c++"), []
    for name in ("libasan.so", "libstdc++.so.6"):
        found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        paths.append(found.stdout.strip())
        if not os.path.isabs(paths[-1]):
            raise SystemExit(f"error: {compiler} has no {name}; install the sanitizer libraries of your compiler")
    return " ".join(paths)


def main() -> int:
    # the package of its own, so that the tree's kernels stay as they are
    shutil.rmtree(LIB, ignore_errors=True)
    unwanted = shutil.ignore_patterns("_native*.so", "__pycache__")
    shutil.copytree(ROOT / "src" / "openwork", LIB / "openwork", ignore=unwanted)
    built = subprocess.run([sys.executable, str(ROOT / "scripts" / "native.py"), "--sanitize"], check=False)
    if built.returncode:
        return built.returncode
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime(),
        # Python and torch keep memory to the end on purpose; a guard page must end the process as it does elsewhere
        "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:alloc_dealloc_mismatch=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": str(LIB),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    probe = [sys.executable, str(ROOT / "tests" / "native" / "guarded.py"), "plain", "heap"]
    seen = subprocess.run(probe, env=environment, capture_output=True, text=True, check=False)
    if "heap-buffer-overflow" not in seen.stderr:
        print(seen.stdout + seen.stderr, file=sys.stderr)
        print("error: the sanitizer did not see a read beyond a tensor", file=sys.stderr)
        return 1
    print("sanitizer: sees a read beyond a tensor", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(sys.argv[1:] or DEFAULT)]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
