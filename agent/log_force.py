"""Has this process write its logs by the levels that `log_levels` has understood."""

from __future__ import annotations

import logging

from agent.log_levels import NUMBERS, Levels, logger_of


def put_in_force(levels: Levels, before: Levels) -> None:
    """Have this process log by `levels`, where it did so by `before`."""
    logging.getLogger().setLevel(NUMBERS[levels.overall])
    for target, _ in before.targets:
        logging.getLogger(logger_of(target)).setLevel(logging.NOTSET)
    for target, level in levels.targets:
        logging.getLogger(logger_of(target)).setLevel(NUMBERS[level])
