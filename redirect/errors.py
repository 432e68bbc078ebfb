"""Errors of the kernel side: one class for each thing that a caller can do about it.

The text says what failed, the likely cause and what to check; it is printed as it is. Refusals that are an
expected answer (an interface that cannot be captured) are values of `locate`, not errors.
"""

from __future__ import annotations

from collections.abc import Iterable


class RedirectError(Exception):
    """Something on the kernel side failed. Subclasses say what can be done.

    `ifindex`: the interface whose pod it concerns; None where it is the node, or not known. `done`: what the same call
    has done all the same, a line for each. `is_open`: that pod was to be captured, and nothing stops what it sends.
    """

    ifindex: int | None = None
    done: tuple[str, ...] = ()
    is_open: bool = False


class NotRoot(RedirectError):
    """Run it again as root (or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)."""


class NoPins(RedirectError):
    """Nothing of this instance is in the kernel: name another instance, or start the agent."""


class LayoutMismatch(RedirectError):
    """What is pinned was made by another version of ztun: use that version, or uninstall."""


class KernelTooOld(RedirectError):
    """The kernel lacks something that capture cannot do without; the text names it."""


class PodNotFound(RedirectError):
    """Nothing leads to the pod: its namespace, process or interface is not there (any more, or yet)."""


class InstanceInUse(RedirectError):
    """The names of this instance belong to something else on this machine: choose another instance."""


class WrongNode(RedirectError):
    """The instance belongs to another network namespace than the calling thread's: run it there."""


class WouldNotLast(RedirectError):
    """What keeps captured pods closed would end with this process: start it where mounts outlive it."""


class MapFull(RedirectError):
    """A map has no room for one more entry. Pods that are captured stay captured."""

    def __init__(self, name: str, max_entries: int, ifindex: int | None = None) -> None:
        self.name = name
        self.max_entries = max_entries
        self.ifindex = ifindex
        super().__init__(
            f"map {name} is full: it holds {max_entries} entries. "
            f"`ztun maps dump {name}` shows what is in it; entries of pods that are gone point to a bug"
        )


class StepFailed(RedirectError):
    """A step for one pod failed: the rest of its steps are not done, those of others are. Apply again to go on."""

    def __init__(self, step: str, cause: OSError | str, ifindex: int | None = None) -> None:
        self.step = step
        self.ifindex = ifindex
        self.cause = (cause.strerror or str(cause)) if isinstance(cause, OSError) else cause
        super().__init__(f"{step}: {self.cause}")


class StepsFailed(RedirectError):
    """Steps of more than one pod failed; as StepFailed, with the causes in `failures`."""

    def __init__(self, failures: Iterable[RedirectError]) -> None:
        self.failures = tuple(failures)
        super().__init__("; ".join(dict.fromkeys(map(str, self.failures))))


def raise_all(failures: Iterable[RedirectError], done: Iterable[str] = ()) -> None:
    """Raises what there is: nothing, the one failure, or StepsFailed of all; with what was `done` all the same."""
    match tuple(failures):
        case ():
            return
        case (only,):
            error = only
        case several:
            error = StepsFailed(several)
    error.done = tuple(done)
    raise error


class LoaderError(RedirectError):
    """The programs cannot be compiled or loaded here: a missing package, or a kernel that refuses them."""
