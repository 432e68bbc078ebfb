#!/usr/bin/env bash
# mypyc 2.4.1: compiled subclasses of one abstract base share the cache of isinstance.
#
# ABCMeta keeps in each class what it has answered, under `_abc_impl`. The classes that mypyc makes do not go through
# ABCMeta's constructor, so they inherit that of their base: once isinstance(x, One) was False for a class, isinstance(x,
# Other) is False too, although Other is in its __mro__. Compiled code asks C types and is right; code that is not compiled
# is wrong, and in silence. Matters to whoever compiles a part of a program; `@abstractmethod` without ABC works.
#
# Needs gcc and the headers of Python. Seen on Python 3.11; exits non-zero when that changes.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
/usr/bin/python3 -m venv "$where/env"
"$where/env/bin/pip" -q --disable-pip-version-check install "mypy[mypyc]==2.4.1"
cd "$where"
cat >kinds.py <<'PYTHON'
from abc import ABC


class Base(ABC):
    pass


class One(Base):
    pass


class Other(Base):
    pass


class Leaf(Other):
    pass
PYTHON
ask='
from kinds import Leaf, One, Other
leaf = Leaf()
print(isinstance(leaf, One), isinstance(leaf, Other), Other in Leaf.__mro__)
'
[ "$(env/bin/python -c "$ask")" = "False True True" ] # as Python it is right
env/bin/mypyc kinds.py >log 2>&1 || { cat log && exit 1; }
said=$(env/bin/python -c "$ask")
echo "isinstance of its own base after that of another: $said"
[ "$said" = "False False True" ] || { echo "they have a cache each now" && exit 1; }
