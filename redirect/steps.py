"""Carries out the steps of a plan, one by one. Each may be repeated; a failure names its step and stops.

Decides nothing: the order is `plan`'s. Runs in a thread of the node's network namespace.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import singledispatchmethod
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from redirect import netns, plan, sock_diag
from redirect.attach import Attachments
from redirect.errors import StepFailed
from redirect.maps import Maps


class Executor:
    """Applies steps to the maps and attachments of one instance."""

    def __init__(self, maps: Maps, attachments: Attachments, private: Iterable[Path]) -> None:
        self._maps = maps
        self._attachments = attachments
        self._private = tuple(private)

    def apply(self, steps: Iterable[plan.Step]) -> list[str]:
        """What was done, one line for each step. Raises StepFailed or MapFull."""
        done = []
        for step in steps:
            try:
                self._do(step)
            except NetlinkError as error:
                raise StepFailed(str(step), str(error)) from error
            except OSError as error:
                raise StepFailed(str(step), _explain(step, error)) from error
            done.append(str(step))
        return done

    @singledispatchmethod
    def _do(self, step: plan.Step) -> None:
        raise TypeError(f"no way to do {step!r}")

    @_do.register
    def _(self, step: plan.PutIface) -> None:
        self._maps.put_iface(step.ifindex, step.entry)

    @_do.register
    def _(self, step: plan.DeleteIface) -> None:
        self._maps.delete_iface(step.ifindex)

    @_do.register
    def _(self, step: plan.Attach) -> None:
        self._attachments.attach(step.ifindex, step.program)

    @_do.register
    def _(self, step: plan.Detach) -> None:
        self._attachments.detach(step.ifindex, step.program)

    @_do.register
    def _(self, step: plan.PutPod) -> None:
        self._maps.put_pod(step.address, step.entry)

    @_do.register
    def _(self, step: plan.DeletePod) -> None:
        entry = self._maps.pod(step.address)
        # The address may have moved to another pod since the plan was made.
        if entry is not None and entry.ifindex == step.ifindex:
            self._maps.delete_pod(step.address)

    @_do.register
    def _(self, step: plan.DestroySockets) -> None:
        for namespace in self._private:
            with netns.entered(namespace):
                try:
                    sock_diag.destroy(step.addresses)
                except OSError as error:
                    # Without CONFIG_INET_DIAG_DESTROY the workers close what they have registered.
                    if error.errno != errno.EOPNOTSUPP:
                        raise

    @_do.register
    def _(self, step: plan.PutHostAddress) -> None:
        self._maps.put_host_address(step.address)

    @_do.register
    def _(self, step: plan.DeleteHostAddress) -> None:
        self._maps.delete_host_address(step.address)


def _explain(step: plan.Step, error: OSError) -> OSError | str:
    if isinstance(step, plan.Attach) and error.errno == errno.ENODEV:
        return "the interface is gone; has the pod been deleted?"
    return error
