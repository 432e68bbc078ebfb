"""One end of the control plane as a client sees it: address, trust, and what every call carries.

Opens gRPC channels over TLS that check the server against our roots and show our token (docs/WIRE.md#ca).
Files are read anew each time: tokens and roots are replaced on disk while the agent runs. Which calls are
made, and when to try again, is not decided here.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509

SYSTEM_ROOTS = "SYSTEM"
_PEM_MARK = "-----BEGIN"

_CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # A push is one message for the whole mesh, tens of MB (docs/WIRE.md#discovery).
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Connecting may take 5 s; when to dial again is our caller's back-off, not gRPC's own.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
    # Connections shared between channels would outlive the roots they were verified with.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.primary_user_agent", "ztun"),
)


class ControlError(Exception):
    """The control plane cannot be used right now; try later. One line: what failed and what to check."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the control plane is and how both sides prove themselves.

    `roots`: the path of a PEM file, or the PEM text itself, or `SYSTEM` for the roots of the machine.
    `server_name`: the name its certificate must carry; empty: the host of `address`.
    """

    address: str
    roots: str
    server_name: str = ""
    token_file: Path | None = None
    cluster_id: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def open(self) -> grpc.aio.Channel:
        """A channel of its own; the caller closes it. Connects at the first call. Raises ControlError."""
        options = list(_CHANNEL_OPTIONS)
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        credentials = grpc.ssl_channel_credentials(root_certificates=self._roots_pem())
        return grpc.aio.secure_channel(self.address, credentials, options)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries: token, cluster, extra headers. Raises ControlError. Never log it."""
        pairs = [(name.lower(), value) for name, value in self.headers]
        if self.token_file is not None:
            pairs.append(("authorization", f"Bearer {self._token(self.token_file)}"))
        if self.cluster_id:
            pairs.append(("clusterid", self.cluster_id))
        return tuple(pairs)

    @property
    def roots_source(self) -> str:
        """Where the roots come from, for messages."""
        return "the root certificate given as text" if _PEM_MARK in self.roots else str(self.roots)

    def roots_mark(self) -> object:
        """Changes when the file of the roots is replaced, also through a symlink."""
        path = self._roots_path()
        if path is None:
            return None
        try:
            found = path.stat()
        except OSError as error:
            return error.errno
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _roots_path(self) -> Path | None:
        if self.roots == SYSTEM_ROOTS:
            file = ssl.get_default_verify_paths().cafile
            return Path(file) if file else None
        return None if _PEM_MARK in self.roots else Path(self.roots)

    def _roots_pem(self) -> bytes:
        path = self._roots_path()
        if self.roots == SYSTEM_ROOTS and path is None:
            raise ControlError("this machine has no trust store of its own: name a file of roots")
        raw = self.roots.encode() if path is None else _read(path, "root certificate")
        try:
            x509.load_pem_x509_certificates(raw)
        except ValueError as error:
            # cryptography's words are an address of its documentation
            raise ControlError(
                f"{self.roots_source} holds no PEM certificate (-----BEGIN CERTIFICATE-----) that can be read"
            ) from error
        return raw

    @staticmethod
    def _token(path: Path) -> str:
        token = _read(path, "token").decode("ascii", "replace").strip()
        if not token:
            raise ControlError(f"token {path} is empty: has it been issued yet?")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ControlError(f"token {path} is not one line of plain characters")
        return token


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ControlError(
            f"{what} {path} cannot be read: {error.strerror}; put it there, or name another: it is looked for again"
        ) from error
