"""Faults on purpose: a lab of two nodes under traffic, a seeded sequence of faults, and checkers all the while.

`scripts/chaos` runs it, outside CI. What is pure (the schedule, what a fault may cost, the verdict) is in `schedule`,
`losses` and `verdict`, with unit tests in tests/unit/chaos; what does a fault is in the module of its kind.
"""
