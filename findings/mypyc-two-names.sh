#!/usr/bin/env bash
# mypyc 2.4.1: two names that are fine in Python break a compiled module.
#
# An attribute `_thread` becomes the member `__thread` of a C struct, which gcc takes for its keyword: the build fails, far
# from the Python that caused it. A dataclass with a field annotated `memoryview` builds, and raises KeyError when it is
# imported: the annotation is looked up among the module's own globals, as mypyc's table of builtin types has no memoryview.
# Matters to whoever compiles code that holds threads or buffers; another name, and a plain class with __slots__, work.
#
# Needs gcc and the headers of Python. Seen on Python 3.11; exits non-zero when that changes.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
/usr/bin/python3 -m venv "$where/env"
"$where/env/bin/pip" -q --disable-pip-version-check install "mypy[mypyc]==2.4.1"
cd "$where"
cat >threaded.py <<'PYTHON'
import threading


class Maker:
    def __init__(self) -> None:
        self._thread = threading.current_thread()
PYTHON
cat >viewed.py <<'PYTHON'
from dataclasses import dataclass


@dataclass
class Received:
    data: memoryview
PYTHON
for module in threaded viewed; do
  "env/bin/python" -c "import $module" # as Python it is right
done
if env/bin/mypyc threaded.py >log 2>&1; then
  echo "an attribute _thread can be compiled now" && exit 1
fi
grep -m1 "before .__thread." log
env/bin/mypyc viewed.py >log 2>&1 || { cat log && exit 1; }
if env/bin/python -c "import viewed" 2>log; then
  echo "a dataclass with a memoryview can be imported now" && exit 1
fi
grep "KeyError: 'memoryview'" log
