"""An API server of 1.20 as clients of today expect it: `discovery.k8s.io/v1` is served out of its v1beta1.

The rest is passed on as it is, in JSON, in the administrator's name: a client sends no token over plain HTTP. Runs on
the machine of the control plane, by any Python, for whoever is there.

newer_api.py PORT SERVER:PORT CA TOKEN
"""

from __future__ import annotations

import http.client
import http.server
import json
import socketserver
import ssl
import sys

NEW, OLD = "discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"
PATIENCE_S = 3600.0


def serve(port: int, server: str, ca_file: str, token: str) -> None:
    tls = ssl.create_default_context(cafile=ca_file)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def pass_on(self) -> None:
            path = old_path(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            if "Content-Type" in self.headers:
                headers["Content-Type"] = self.headers["Content-Type"]
            upstream = http.client.HTTPSConnection(server, context=tls, timeout=PATIENCE_S)
            try:
                upstream.request(self.command, path, body, headers)
                answer = upstream.getresponse()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
                if answer.getheader("Transfer-Encoding") == "chunked" and "watch=" in path:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    while line := answer.readline():  # an event
                        event = renamed(line) if path != self.path else line
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                        self.wfile.flush()
                    self.wfile.write(b"0\r\n\r\n")
                    return
                said = answer.read()
                if path != self.path:
                    said = renamed(said)
                elif path.split("?")[0].rstrip("/") == "/apis":
                    said = with_new_version(said)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
            finally:
                upstream.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    Server(("127.0.0.1", port), Handler).serve_forever()


def old_path(path: str) -> str:
    place, question, rest = path.partition("?")
    prefix = f"/apis/{NEW}"
    if place == prefix or place.startswith(f"{prefix}/"):
        place = f"/apis/{OLD}{place[len(prefix) :]}"
    return place + question + rest


def renamed(said: bytes) -> bytes:
    return said.replace(f'"{OLD}"'.encode(), f'"{NEW}"'.encode())


def with_new_version(groups: bytes) -> bytes:
    listed = json.loads(groups)
    for group in listed["groups"]:
        if group["name"] == "discovery.k8s.io":
            version = {"groupVersion": NEW, "version": "v1"}
            group |= {"versions": [version], "preferredVersion": version}
    return json.dumps(listed).encode()


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:5])
