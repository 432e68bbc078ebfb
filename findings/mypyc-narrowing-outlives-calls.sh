#!/usr/bin/env bash
# mypyc 2.4.1: an attribute that was set to None is still taken for None after a call that has set it.
#
# mypy narrows `self.x = None` until the function assigns to it again, whatever it calls in between; `--strict` is silent.
# As Python nothing follows from that. Compiled, the next read is a cast to what was narrowed: TypeError "None object
# expected; got Timer", in code that was right before. To ask in a method of its own, or a property, helps.
#
# Needs gcc and the headers of Python. Seen on Python 3.11; exits non-zero when that changes.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
/usr/bin/python3 -m venv "$where/env"
"$where/env/bin/pip" -q --disable-pip-version-check install "mypy[mypyc]==2.4.1"
cd "$where"
cat >waiting.py <<'PYTHON'
class Timer:
    pass


class Waiting:
    def __init__(self) -> None:
        self.timer: Timer | None = Timer()

    def begin(self) -> None:
        self.timer = Timer()

    def go_on(self) -> str:
        self.timer = None
        self.begin()
        if self.timer is None:
            return "nobody waits"
        return "somebody waits"
PYTHON
ask='
from waiting import Waiting
try:
    print(Waiting().go_on())
except TypeError as error:
    print("TypeError:", error)
'
env/bin/mypy --strict waiting.py
said=$(env/bin/python -c "$ask")
echo "as Python: $said"
[ "$said" = "somebody waits" ]
env/bin/mypyc waiting.py >log 2>&1 || { cat log && exit 1; }
said=$(env/bin/python -c "$ask")
echo "compiled:  $said"
case "$said" in "TypeError: "*) ;; *) echo "it reads what is there now" && exit 1 ;; esac
