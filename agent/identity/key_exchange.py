"""Which key exchange handshakes may use, where that is narrowed down: one group, and proof of it afterwards.

pyOpenSSL has no method for a list of groups, but its binding has OpenSSL's own SSL_CTX_set1_groups_list(3), by its
older name. A context that cannot be narrowed is an error, and what a handshake has come to is looked at all the same.
"""

from __future__ import annotations

from OpenSSL import SSL

from agent.model.outcome import Outcome, Refusal

POST_QUANTUM = "X25519MLKEM768"
"""The hybrid of X25519 and ML-KEM-768 (IANA, TLS supported groups, 0x11ec); OpenSSL has it from 3.5 on."""


def narrow(context: SSL.Context, group: str) -> None:
    """Have a context offer and accept this group alone. Raises Refusal where this OpenSSL has no such group, or no
    way to be told."""
    set_groups = getattr(getattr(SSL, "_lib", None), "SSL_CTX_set1_curves_list", None)
    version = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
    if set_groups is None:
        why = f"the key exchange cannot be narrowed down to {group}: no binding for it ({version})"
        raise Refusal(Outcome.TLS_FAILED, why)
    if set_groups(context._context, group.encode()) != 1:
        try:
            SSL._raise_current_error()
        except SSL.Error as error:
            why = f"this OpenSSL has no key exchange {group} ({version})"
            raise Refusal(Outcome.TLS_FAILED, why) from error
        raise Refusal(Outcome.TLS_FAILED, f"this OpenSSL does not take the key exchange {group} ({version})")


def can_narrow(group: str) -> str:
    """Why contexts cannot be narrowed to a group here; empty if they can."""
    try:
        narrow(SSL.Context(SSL.TLS_METHOD), group)
    except Refusal as error:
        return str(error)
    return ""
