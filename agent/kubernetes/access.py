"""Where the Kubernetes API is and how both sides prove themselves: a pod's service account, or a kubeconfig.

Files are read anew for each connection: the kubelet replaces a pod's token every hour or so, and CAs are rotated. What
a kubeconfig may say that is not done here (`exec`, `auth-provider`, passwords, proxies, plain http) is refused by name,
never left out in silence. Private keys that a kubeconfig holds itself stay in memory.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from agent.model.address import split_host_port

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NOT_DONE = ("exec", "auth-provider", "username", "password", "as", "proxy-url")


def no_api(not_given: str) -> str:
    """Where nobody says it: `not_given` names the options of the command that could."""
    return (
        f"no Kubernetes API is known: {not_given}, and this is no pod of a cluster (KUBERNETES_SERVICE_HOST is "
        "not set)"
    )


class AccessError(Exception):
    """There is no way to the API; the text names the file or option and what to do."""


@dataclass(frozen=True, slots=True)
class Access:
    """`server`: for texts. `ca`: a file, or PEM text; `certificate`, `key`: of the client, likewise; empty: none.

    `server_name`: what the server's certificate must be for. Methods raise AccessError.
    """

    host: str
    port: int
    ca: str
    token_file: Path | None = None
    token: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    is_unverified: bool = False

    @property
    def server(self) -> str:
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def ca_source(self) -> str:
        """Where the roots are from, for texts."""
        if _is_pem(self.ca):
            return "certificate-authority-data of the kubeconfig"
        return self.ca or "the roots of this machine"

    def context(self) -> ssl.SSLContext:
        """For one connection."""
        is_text = _is_pem(self.ca)
        try:
            context = ssl.create_default_context(
                cafile=None if is_text else self.ca or None, cadata=self.ca if is_text else None
            )
        except (OSError, ssl.SSLError) as error:
            raise AccessError(
                f"the CA of the Kubernetes API, {self.ca_source}, cannot be read: {error}; is it a PEM file?"
            ) from error
        if self.is_unverified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            _show(context, self.certificate, self.key)
        return context

    def headers(self) -> dict[str, str]:
        """For one request."""
        token = self.token
        if self.token_file is not None:
            try:
                token = self.token_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise AccessError(
                    f"the token for the Kubernetes API, {self.token_file}, cannot be read: {error}"
                ) from error
            if not token:
                raise AccessError(f"the token for the Kubernetes API, {self.token_file}, is empty")
        found = {"Accept": "application/json", "User-Agent": "ztun"}
        return found | ({"Authorization": f"Bearer {token}"} if token else {})


def of_pod(server: str, directory: Path = SERVICE_ACCOUNT) -> Access:
    """As the pod that this process runs in. `server`: HOST:PORT."""
    host, port = split_host_port(server)
    return Access(host, port, str(directory / "ca.crt"), directory / "token")


def of_kubeconfig(path: Path) -> Access:
    """By the current context of a kubeconfig. Raises AccessError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"--kubeconfig {path} cannot be read: {error}") from error
    return _of_text(text, path)


# Asked for each request, and the file hardly ever changes: reading YAML took longer than the request.
@lru_cache(maxsize=1)
def _of_text(text: str, path: Path) -> Access:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise AccessError(f"--kubeconfig {path} is no YAML: {str(error).splitlines()[0]}") from error
    try:
        return _of_kubeconfig(raw, path.parent)
    except (KeyError, TypeError, AttributeError) as error:
        raise AccessError(
            f"--kubeconfig {path} is not a kubeconfig: {type(error).__name__}: {error}"
        ) from error
    except ValueError as error:
        raise AccessError(f"--kubeconfig {path}: {error}") from error


def _of_kubeconfig(raw: Any, directory: Path) -> Access:
    current = raw.get("current-context")
    if not current:
        raise ValueError("it has no current-context; `kubectl config use-context NAME` sets one")
    context = _named(raw, "contexts", current, "context")
    cluster = _named(raw, "clusters", context["cluster"], "cluster")
    user = _named(raw, "users", context.get("user"), "user") if context.get("user") else {}
    for table, name in ((cluster, "cluster"), (user, "user")):
        for field in _NOT_DONE:
            if table.get(field):
                raise ValueError(
                    f"{field} of the {name} is not supported: use a token or a client certificate"
                )
    server = urlsplit(str(cluster["server"]))
    if server.scheme != "https" or not server.hostname:
        raise ValueError(f"server is {cluster['server']!r}: it takes https://HOST:PORT")
    if server.path.strip("/"):
        raise ValueError(f"server is {cluster['server']!r}: a path in it is not supported")
    token_file = user.get("tokenFile")
    return Access(
        server.hostname,
        server.port or 443,
        _material(cluster, "certificate-authority", directory),
        directory / token_file if token_file else None,
        "" if token_file else str(user.get("token") or ""),
        _material(user, "client-certificate", directory),
        _material(user, "client-key", directory),
        str(cluster.get("tls-server-name") or ""),
        cluster.get("insecure-skip-tls-verify") is True,
    )


def _named(raw: Any, table: str, name: object, field: str) -> dict[str, Any]:
    for each in raw.get(table) or []:
        if each.get("name") == name:
            found = each[field]
            if not isinstance(found, dict):
                raise TypeError(f"{field} {name!r} is no table")
            return found
    raise ValueError(f"{table} has no {name!r}")


def _material(table: Mapping[str, Any], field: str, directory: Path) -> str:
    """The path of a file, or the text that is there in its place."""
    data = table.get(f"{field}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{field}-data is no PEM in base64: {error}") from error
    return str(directory / table[field]) if table.get(field) else ""


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Show a client certificate. OpenSSL takes files only: what is text is one in memory for that moment."""
    fds: list[int] = []
    try:
        paths = [_path_of(text, fds) for text in (certificate, key) if text]
        context.load_cert_chain(*paths)
    except (OSError, ssl.SSLError) as error:
        raise AccessError(f"the client certificate for the Kubernetes API cannot be used: {error}") from error
    finally:
        for fd in fds:
            os.close(fd)


def _path_of(text: str, fds: list[int]) -> str:
    if not _is_pem(text):
        return text
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    fds.append(fd)
    os.write(fd, text.encode())
    return f"/proc/self/fd/{fd}"


def _is_pem(text: str) -> bool:
    return "-----BEGIN" in text
