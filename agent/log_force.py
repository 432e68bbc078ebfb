"""Has this process write its logs by the levels that `log_levels` has understood."""

from __future__ import annotations

import logging

from agent.log_levels import NUMBERS, OURS, Levels, logger_of


def put_in_force(levels: Levels, before: Levels) -> None:
    """Have this process log by `levels`, where it did so by `before`. Of other people's loggers warnings alone."""
    logging.getLogger().setLevel(max(NUMBERS[levels.overall], logging.WARNING))
    for target, _ in before.targets:
        logging.getLogger(logger_of(target)).setLevel(logging.NOTSET)
    for name in OURS:
        logging.getLogger(name).setLevel(NUMBERS[levels.overall])
    for target, level in levels.targets:
        logging.getLogger(logger_of(target)).setLevel(NUMBERS[level])
