"""Downloads from a local server that breaks off, lies, redirects or does not exist."""

import contextlib
import dataclasses
import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading

import pytest

from rtda_jax.weights import download

CONTENT = bytes(range(256)) * 4096 * 3  # three chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]
QUICK = download.Patience(attempts=4, timeout=5, pause=0)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT by the server's `answers`, one for each request; the last one is repeated."""

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        answer(self)

    def log_message(self, *_):
        pass


def begin_of(handler):
    wanted = handler.headers.get("Range")
    return int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0


def send(handler, status, content, *, length=None, headers=()):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(content)


def whole(handler):
    """Answers ranges, as the public servers do."""
    begin = begin_of(handler)
    if begin >= len(CONTENT):
        return send(handler, 416, b"")
    if not begin:
        return send(handler, 200, CONTENT)
    span = f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}"
    return send(handler, 206, CONTENT[begin:], headers=[("Content-Range", span)])


def cut(handler):
    """Announces the whole rest and ends after little more than a chunk."""
    begin = begin_of(handler)
    status = 206 if begin else 200
    headers = [("Content-Range", f"bytes {begin}-/*")] if begin else []
    rest = CONTENT[begin:]
    send(handler, status, rest[: 2**20 + 7], length=len(rest), headers=headers)


def no_ranges(handler):
    send(handler, 200, CONTENT)


def other_place(handler):
    send(handler, 206, CONTENT[5:], headers=[("Content-Range", "bytes 5-9/10")])


def other_file(handler):
    send(handler, 200, CONTENT[::-1])


def missing(handler):
    send(handler, 404, b"")


def elsewhere(handler):
    """Redirects to another file name on the same server, which is then served."""
    handler.server.answers[:] = [whole]
    send(handler, 302, b"", headers=[("Location", "/mirror/x.pth")])


@pytest.fixture
def serve(monkeypatch):
    """Returns a function from answers to the address of a file and the requested ranges."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(*answers, context=None):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.answers, server.ranges = list(answers), []
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        scheme = "http" if context is None else "https"
        return f"{scheme}://localhost:{server.server_port}/x.pth", server.ranges

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "x.pth"


def fetch(url, path):
    download.fetch(url, path, digest=DIGEST, patience=QUICK)


def partial(path):
    return path.with_name("x.pth.partial")


def test_a_file_appears_whole_and_is_fetched_once(serve, path, capfd, monkeypatch):
    monkeypatch.setattr("rtda_jax.run.log._SHORT_SECONDS", 0)
    url, ranges = serve(whole)
    fetch(url, path)
    assert path.read_bytes() == CONTENT
    assert not partial(path).exists()
    assert "downloading x.pth: 3/3" in capfd.readouterr().err
    fetch(url, path)
    assert ranges == [None]


def test_a_truncated_download_continues_where_it_ended(serve, path):
    url, ranges = serve(cut, cut, whole)
    fetch(url, path)
    assert path.read_bytes() == CONTENT
    assert ranges == [None, f"bytes={2**20 + 7}-", f"bytes={2 * (2**20 + 7)}-"]


def test_an_interrupted_command_continues_with_the_next(serve, path):
    url, _ = serve(cut, missing)
    with pytest.raises(download.DownloadError, match=r"404 .*continues after 1048583 bytes"):
        fetch(url, path)
    assert not path.exists()
    url, ranges = serve(whole)
    fetch(url, path)
    assert path.read_bytes() == CONTENT
    assert ranges == [f"bytes={2**20 + 7}-"]


def test_a_server_without_ranges_starts_anew(serve, path):
    url, _ = serve(no_ranges)
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT[:999])
    fetch(url, path)
    assert path.read_bytes() == CONTENT


def test_a_server_that_continues_elsewhere_is_not_believed(serve, path):
    url, _ = serve(other_place)
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT[:999])
    with pytest.raises(download.DownloadError, match="continues at another place"):
        fetch(url, path)
    assert not partial(path).exists()


def test_a_wrong_file_is_discarded(serve, path):
    url, ranges = serve(other_file)
    with pytest.raises(download.DownloadError, match=rf"SHA-256 .* does not begin with {DIGEST}"):
        fetch(url, path)
    assert len(ranges) == 1
    assert not partial(path).exists()
    assert not path.exists()


@pytest.mark.parametrize("left", [b"wrong" * 9, CONTENT + b"too long"])
def test_a_broken_partial_file_is_discarded_and_fetched_anew(left, serve, path):
    url, ranges = serve(whole)
    path.parent.mkdir()
    partial(path).write_bytes(left)
    fetch(url, path)
    assert path.read_bytes() == CONTENT
    assert ranges == [f"bytes={len(left)}-", None]


def test_a_complete_partial_file_needs_nothing_more(serve, path):
    url, _ = serve(whole)
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT)
    fetch(url, path)
    assert path.read_bytes() == CONTENT


def test_a_server_that_always_breaks_is_given_up(serve, path):
    url, ranges = serve(lambda handler: send(handler, 200, b"", length=9))
    with pytest.raises(download.DownloadError, match="ended after 0 of 9 bytes"):
        fetch(url, path)
    assert len(ranges) == 1


def test_endless_files_are_refused(serve, path, monkeypatch):
    monkeypatch.setattr(download, "_LARGEST", 2**21)
    url, _ = serve(whole)
    with pytest.raises(download.DownloadError, match="more than 2097152 bytes"):
        fetch(url, path)
    assert partial(path).stat().st_size == 0


def test_redirects_are_followed(serve, path):
    url, ranges = serve(elsewhere)
    fetch(url, path)
    assert path.read_bytes() == CONTENT
    assert len(ranges) == 2


def test_without_a_network_the_address_and_the_reason_are_named(path):
    with pytest.raises(download.DownloadError, match=r"http://127.0.0.1:9/x.pth: .*refused"):
        fetch("http://127.0.0.1:9/x.pth", path)
    with pytest.raises(download.DownloadError, match="is not an address of the web"):
        fetch("file:///etc/passwd", path)


def test_a_cache_that_cannot_be_written_is_named(serve, tmp_path):
    url, ranges = serve(whole)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(download.DownloadError, match=r"cache cannot be written"):
        fetch(url, tmp_path / "cache" / "x.pth")
    assert ranges == []


def test_two_jobs_fetch_a_file_once(serve, path):
    url, ranges = serve(whole)
    threads = [threading.Thread(target=fetch, args=(url, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == CONTENT
    assert len(ranges) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Writes a self-signed certificate of localhost with its key into one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost -keyout"
    )
    certificate = file.with_suffix(".crt")
    subprocess.run(
        [*command.split(), str(file), "-out", str(certificate)], check=True, capture_output=True
    )
    file.write_bytes(file.read_bytes() + certificate.read_bytes())
    return file


def secured(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_https_trusts_known_certificates_only(serve, path, certificate, monkeypatch):
    url, ranges = serve(whole, context=secured(certificate))
    with pytest.raises(download.DownloadError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(url, path)
    assert ranges == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetch(url, path)
    assert path.read_bytes() == CONTENT


def test_https_is_not_left_by_a_redirect(serve, path, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    plain, ranges = serve(whole)
    url, _ = serve(
        lambda handler: send(handler, 302, b"", headers=[("Location", plain)]),
        context=secured(certificate),
    )
    with pytest.raises(download.DownloadError, match="which is not https"):
        fetch(url, path)
    assert ranges == []


def test_a_download_has_ten_attempts_of_half_a_minute_a_second_apart():
    assert dataclasses.astuple(download.PATIENCE) == (10, 30.0, 1.0)
