"""Checks of the way to the control plane: what is shown to it, whether it answers, as whom, and at what time."""

from __future__ import annotations

import base64
import email.utils
import http.client
import json
import socket
import ssl
import time
from pathlib import Path

from agent.admin.client import AgentAbsent, AgentRefused
from agent.config import Config
from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import PATIENCE_S, Site
from agent.model.address import split_host_port

PEM_MARK, SYSTEM_ROOTS = "-----BEGIN", "SYSTEM"
TELLS_TIME = 15014
"""Where istiod, and the embedded control plane, serve their metrics by HTTP."""
HANDSHAKE_S = 3.0
"""Long enough for a busy one: who takes a connection and says nothing for so long is stopped or hangs."""
REFUSED_TOKEN = "refuses our token"
"""As `agent.rpc.rpc_errors` has it."""
SKEW_S, MUCH_SKEW_S = 30.0, 300.0
SOON_S = 86400.0

CREDENTIALS = Subject("credentials", "the files of --root-cert and --token-file")
REACHABLE = Subject("control plane", "a connection to --xds-address")
CERTIFICATE = Subject("control plane's certificate", "a TLS handshake with --xds-address")
CLOCK = Subject("clock", f"the time of the control plane's host, by HTTP from port {TELLS_TIME}")


class NoRoots(Exception):
    """There is nothing to check the control plane by; the text says what is wrong."""


class Silent(Exception):
    """A connection is taken, and nothing said on it."""


def credentials(site: Site) -> Check:
    settings = site.settings
    if not settings.root_cert:
        return CREDENTIALS.cannot_tell(
            "no --root-cert is known: no agent runs, and neither the option nor ZTUN_ROOT_CERT is given",
            "give `ztun doctor` the option --root-cert",
        )
    try:
        _context(settings)
    except NoRoots as error:
        return CREDENTIALS.failed(
            str(error), "put the root of the control plane there, or name another by --root-cert"
        )
    if not settings.token_file:
        return CREDENTIALS.ok("roots that can be read, and no token is shown")
    path = Path(settings.token_file)
    renewed = "have a new one made: `ztun control-plane token`, or the projected volume of a service account"
    try:
        token = path.read_text().strip()
    except OSError as error:
        return CREDENTIALS.failed(f"token {path} cannot be read: {error.strerror}", renewed)
    if not token:
        return CREDENTIALS.failed(f"token {path} is empty", renewed)
    ends = _end_of(token)
    if ends is not None and ends < time.time():
        return CREDENTIALS.failed(f"token {path} has expired, {_span(time.time() - ends)} ago", renewed)
    if said := _refusal(site):
        return CREDENTIALS.failed(said, renewed)
    return CREDENTIALS.ok("roots and a token that can be read")


def _refusal(site: Site) -> str:
    """What the agent that runs says of its token; empty: it is taken, or nobody knows."""
    try:
        reasons = site.agent.page("/status")["reasons"]
    except (AgentAbsent, AgentRefused):
        return ""
    return next((each for each in reasons if REFUSED_TOKEN in each), "")


def control_plane(site: Site) -> Check:
    address = site.settings.xds_address
    try:
        _connected(address).close()
    except OSError as error:
        return REACHABLE.failed(
            f"nobody answers on {address}: {_reason(error)}",
            "start it, name where it is by --xds-address, or look for a firewall in between",
        )
    return REACHABLE.ok(f"{address} answers")


def certificate(site: Site) -> Check:
    settings = site.settings
    try:
        context = _context(settings)
    except NoRoots as error:
        return CERTIFICATE.cannot_tell(str(error))
    name = settings.server_name or split_host_port(settings.xds_address)[0]
    try:
        with _connected(settings.xds_address) as sock:
            shown = _shown(sock, context, name)
    except Silent:
        return CERTIFICATE.failed(
            f"{settings.xds_address} takes connections and says nothing for {HANDSHAKE_S:g} s: its process is stopped "
            "or hangs, or something in between keeps what is said",
            "ask on its machine: `ztun control-plane status`; start it anew",
        )
    except ssl.SSLCertVerificationError as error:
        return CERTIFICATE.failed(
            f"it does not prove to be {name}: {error.verify_message}",
            "name its root by --root-cert and its name by --server-name; where the certificate is not valid yet or no "
            "more, compare the clocks",
        )
    except ssl.SSLError as error:
        return CERTIFICATE.failed(
            f"{settings.xds_address} speaks no TLS that fits: {error.reason or error}",
            "is it the port of discovery?",
        )
    except OSError as error:
        return CERTIFICATE.cannot_tell(f"nobody answers on {settings.xds_address}: {_reason(error)}")
    left_s = ssl.cert_time_to_seconds(str(shown["notAfter"])) - time.time()
    if left_s < SOON_S:
        return CERTIFICATE.warning(
            f"that of {name} ends in {_span(left_s)}",
            "see why the control plane does not renew it: its log, and its state directory",
        )
    return CERTIFICATE.ok(f"that of {name}, by our root, for {_span(left_s)} more")


def clock(site: Site) -> Check:
    host, _ = split_host_port(site.settings.xds_address)
    connection = http.client.HTTPConnection(host.strip("[]"), TELLS_TIME, timeout=PATIENCE_S)
    try:
        connection.request("HEAD", "/")
        asked = time.time()
        told = connection.getresponse().headers.get("date")
    except (OSError, http.client.HTTPException) as error:
        reason = _reason(error) if isinstance(error, OSError) else "no HTTP"
        return CLOCK.cannot_tell(
            f"{host}:{TELLS_TIME} does not say: {reason}",
            "compare by hand, or let that port be reached: an embedded control plane serves it on its loopback unless "
            f"`ztun control-plane --metrics-address HOST:{TELLS_TIME}` says otherwise",
        )
    finally:
        connection.close()
    if told is None:
        return CLOCK.cannot_tell(f"{host}:{TELLS_TIME} answers without a time")
    return judge_clock(email.utils.parsedate_to_datetime(told).timestamp() - asked)


def judge_clock(ahead_s: float) -> Check:
    """`ahead_s`: how much the control plane's clock is ahead of this node's, to a second."""
    if abs(ahead_s) < SKEW_S:
        return CLOCK.ok("as the control plane's, to a few seconds")
    words = f"{_span(abs(ahead_s))} {'behind' if ahead_s > 0 else 'ahead of'} the control plane's"
    remedy = "have NTP set both: `timedatectl set-ntp true`, or chrony"
    if abs(ahead_s) < MUCH_SKEW_S:
        return CLOCK.warning(words, remedy)
    return CLOCK.failed(f"{words}: certificates and tokens are not valid yet, or no more", remedy)


def _connected(address: str) -> socket.socket:
    host, port = split_host_port(address)
    return socket.create_connection((host, port), PATIENCE_S)


def _shown(sock: socket.socket, context: ssl.SSLContext, name: str) -> dict[str, object]:
    """The certificate of whoever answers. Raises Silent, ssl.SSLError, OSError."""
    sock.settimeout(HANDSHAKE_S)
    try:
        with context.wrap_socket(sock, server_hostname=name) as tls:
            return dict(tls.getpeercert() or {})
    except TimeoutError as error:
        raise Silent from error


def _context(settings: Config) -> ssl.SSLContext:
    """What checks the control plane as the agent does. Raises NoRoots."""
    roots = settings.root_cert
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        if roots == SYSTEM_ROOTS:
            context.load_default_certs()
        elif PEM_MARK in roots:
            context.load_verify_locations(cadata=roots)
        elif roots:
            context.load_verify_locations(cafile=roots)
        else:
            raise NoRoots("no --root-cert is known to check it by")
    except ssl.SSLError as error:
        raise NoRoots(f"root certificate {roots[:60]} holds no PEM certificate") from error
    except OSError as error:
        raise NoRoots(f"root certificate {roots} cannot be read: {error.strerror}") from error
    return context


def _end_of(token: str) -> float | None:
    """When a JWT ends, as it says itself; None: it is none, or says nothing."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE_S:g} s"
    return error.strerror or str(error)


def _span(seconds: float) -> str:
    """The largest unit, for people."""
    for name, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if abs(seconds) >= size:
            return f"{seconds / size:.0f}{name}"
    return f"{seconds:.0f}s"


CHECKS = (
    Examination(CREDENTIALS, credentials),
    Examination(REACHABLE, control_plane, is_of_network=True),
    Examination(CERTIFICATE, certificate, is_of_network=True),
    Examination(CLOCK, clock, is_of_network=True),
)
