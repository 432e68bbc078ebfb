"""The bench: ztun, Envoy and no proxy at all, side by side on one machine. `scripts/bench` runs it.

`systems` starts the three, `load` and `handshakes` make traffic, `accounting` reads what it cost, `rounds`
interleaves them, `report` judges. See docs/BENCH.md.
"""
