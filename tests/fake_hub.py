"""A Hugging Face Hub on loopback, with one repository."""

import base64
import hashlib
import http.server
import json
import re

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload and a download use."""

    files: dict[str, bytes]  # of the only repository
    refuses: int

    def answer(self, content, *, headers=(), status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def here(self):
        return f"http://{self.headers['Host']}"

    def do_GET(self):
        if self.refuses:
            self.answer({"error": "no such repository"}, status=self.refuses)
        elif match := re.fullmatch(r"/ann/streets/resolve/[^/]+/(.+)", self.path):
            content = self.files[match[1]]
            tag = hashlib.sha1(content).hexdigest()
            self.answer(content, headers=[("ETag", f'"{tag}"'), ("X-Repo-Commit", COMMIT)])
        elif self.path.startswith("/api/models/ann/streets/tree"):
            self.answer(
                [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for n, c in self.files.items()
                ]
            )
        else:
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": "ann/streets", "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.refuses:
            self.answer({"error": "you may not"}, status=self.refuses)
        elif self.path == "/api/repos/create":
            self.answer({"url": f"{self.here()}/ann/streets", "name": "ann/streets"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self.answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in asked
                    ]
                }
            )
        elif "/commit/" in self.path:
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            self.answer(
                {"commitUrl": f"{self.here()}/ann/streets/commit/{COMMIT}", "commitOid": COMMIT}
            )
        else:
            self.answer({})

    def log_message(self, *_):
        pass
