"""A service before MinIO that fails as a test says.

It takes requests whoever signed them, and signs them anew for MinIO: so it can play credentials
that expire, ask for other pages than the client did, and change answers.
"""

import hashlib
import http.client
import http.server
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import defaultdict
from dataclasses import dataclass
from typing import Callable

import botocore.auth
import botocore.awsrequest
import botocore.credentials

DROPPED = {"authorization", "host", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "connection"}


@dataclass
class Fault:
    """`act` instead of serving. `method` and `path` (searched in the target) choose requests; the first `skip`
    of them are served, then it strikes at every so manieth (`every`), so many `times`."""

    act: Callable
    method: str = ""
    path: str = ""
    skip: int = 0
    times: int = 1
    every: int = 1
    struck: int = 0

    def matches(self, request):
        return request.command.startswith(self.method) and re.search(self.path, request.path)


# What a fault does: each takes the request, and answers it, or not.


def lose_before(request):
    """The connection is reset before anything happened."""
    request.receive()
    request.reset()


def lose_after(request):
    """It is carried out, and the connection reset instead of answered."""
    request.carry_out()
    request.reset()


def reset_in_body(request):
    """The connection is reset in the middle of what is sent: the request's body, else the answer's."""
    if request.length():
        request.rfile.read(request.length() // 2)
    else:
        request.send(*request.carry_out(), cut=True)
    request.reset()


def cut_body(request):
    """The answer ends in the middle of its body, as if that were its end."""
    request.send(*request.carry_out(), cut=True)
    request.close_connection = True


def wrong_etag(request):
    status, headers, body = request.carry_out()
    changed = [(name, '"00000000000000000000000000000000"' if name.lower() == "etag" else value)
               for name, value in headers]  # fmt: skip
    request.send(status, changed, body)


def refuse(status, code, retry_after=None):
    def act(request):
        request.receive()
        headers = [("Retry-After", str(retry_after))] if retry_after is not None else []
        request.send(status, headers, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    return act


def late(seconds):
    def act(request):
        time.sleep(seconds)
        request.send(*request.carry_out())

    return act


def answer_late(seconds):
    """Carried out at once."""

    def act(request):
        answer = request.carry_out()
        time.sleep(seconds)
        request.send(*answer)

    return act


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def serve(self):
        self.body = None
        self.server.owner.serve(self)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve  # noqa: N815

    def log_message(self, *_):
        pass

    def length(self):
        return int(self.headers.get("Content-Length", 0))

    def receive(self):
        if self.body is None:
            self.body = self.rfile.read(self.length())
        return self.body

    def carry_out(self, **how):
        return self.server.owner.carry_out(self.command, self.path, self.headers, self.receive(), **how)

    def send(self, status, headers, body, cut=False):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def shutdown_request(self, request):
        self.close_request(request)  # without the FIN first: else a reset would be none

    def handle_error(self, *_):
        pass  # clients that went away


class FaultProxy:
    """Listens on 127.0.0.1:`port`.

    `contents`: for each object (its target without a query), the hashes of all that MinIO took for it; of one in
    parts, what it then was. `keys`: what requests are signed with. `page_size`: the keys in one page of a listing.
    `accepts`: the (access key id, session token) that is good; None: all are. `away`: nobody answers.
    """

    def __init__(self, minio):
        self.minio = minio
        self.keys = botocore.credentials.Credentials(minio.user, minio.password)
        self.contents = defaultdict(set)
        self.requests = 0
        self.page_size = self.accepts = None
        self.refusal = refuse(403, "InvalidAccessKeyId")
        self.away = False
        self._faults = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def add(self, act, method="", path="", **when):
        fault = Fault(act, method, path, **when)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self):
        with self._lock:
            self._faults.clear()

    def url(self, bucket, path, **options):
        """As Minio.url(), to here."""
        endpoint = f"http://127.0.0.1:{self.port}"
        return self.minio.url(bucket, path, **{"endpoint": endpoint, **options})

    def serve(self, request):
        with self._lock:
            self.requests += 1
        if self.away:
            return lose_before(request)
        if self.accepts and self.accepts != self._who(request):
            return self.refusal(request)
        fault = self._strike(request)
        if fault:
            return fault.act(request)
        request.send(*request.carry_out())

    @staticmethod
    def _who(request):
        found = re.search(r"Credential=([^/]+)/", request.headers.get("Authorization", ""))
        return found and found[1], request.headers.get("X-Amz-Security-Token")

    def _strike(self, request):
        with self._lock:
            for fault in self._faults:
                if fault.times == 0 or not fault.matches(request):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                fault.skip = fault.every - 1
                fault.struck += 1
                return fault
        return None

    def carry_out(self, method, target, headers, body, cut=False):
        """What MinIO answers: status, headers, body. With `cut` it gets half of the body, and is not waited for."""
        if self.page_size and "list-type=2" in target:
            target = re.sub(r"max-keys=\d+", f"max-keys={self.page_size}", target)
        kept = {name: value for name, value in headers.items() if name.lower() not in DROPPED}
        request = botocore.awsrequest.AWSRequest(
            method=method, url=self.minio.endpoint + target, data=body, headers=kept
        )
        botocore.auth.S3SigV4Auth(self.keys, "s3", self.minio.region).add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", self.minio.port, timeout=30)
        try:
            sent = body[: len(body) // 2] if cut else body
            connection.request(method, target, sent, dict(request.headers.items()))
            if cut:
                return None
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self._record(method, target, answer.status, body, content)
        return answer.status, answer.getheaders(), content

    def _record(self, method, target, status, body, answered):
        path, _, query = target.partition("?")
        # What was wrong with it may follow a 200.
        if method == "POST" and "uploadId=" in query and b"<CompleteMultipartUploadResult" in answered:
            body = self.minio.get(*urllib.parse.unquote(path[1:]).split("/", 1))
        elif method != "PUT" or status != 200 or "partNumber=" in query:
            return
        with self._lock:
            self.contents[path].add(hashlib.sha256(body).hexdigest())

    def check_contents(self, bucket, keys):
        """That all of these objects came through here, and nothing was written twice with other content."""
        paths = {f"/{bucket}/{urllib.parse.quote(key)}" for key in keys}
        assert paths <= self.contents.keys(), f"not seen here: {sorted(paths - self.contents.keys())}"
        twice = [path for path, bodies in self.contents.items() if len(bodies) > 1]
        assert not twice, f"written twice with other content: {twice}"

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
