"""What gets through to Gradio, and what does not."""

import asyncio
import json

import pytest

from mcir.inference.demo.gate import Gate
from mcir.inference.demo.shelf import Shelf

JOIN = "/gradio_api/queue/join"


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"png")
    return Shelf(folder)


def ask(shelf, path, method="GET", headers=None, body=b"", hosts=()):
    """Return status, headers and what the server behind got: None, or the request's body."""
    got = []

    async def app(scope, receive, send):
        parts = [await receive()]
        while parts[-1].get("more_body"):
            parts.append(await receive())
        got.append(b"".join(part.get("body", b"") for part in parts))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"ok"})

    pieces = [body[:5], body[5:]] if body else [b""]
    messages = [
        {"type": "http.request", "body": piece, "more_body": number + 1 < len(pieces)}
        for number, piece in enumerate(pieces)
    ]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    named = {"host": "localhost:7860", **({"content-length": str(len(body))} if body else {}), **(headers or {})}
    raw = [(name.encode(), str(value).encode()) for name, value in named.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Gate(app, shelf, 1000, hosts)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), (got[0] if got else None)


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index-x1.js", "/static/img/logo.svg"]
    + [f"/gradio_api/{name}" for name in ("queue/data", "heartbeat/abc123", "upload_progress")],
)
def test_what_the_page_asks_for_gets_through(path, shelf):
    assert ask(shelf, path)[::2] == (200, b"")


ELSEWHERE = """
/docs /openapi.json /monitoring /assets /config/x //config /assets/../config /static/../../x
/gradio_api/info /gradio_api/openapi.json /gradio_api/deep_link /gradio_api/token /gradio_api/queue/status
/gradio_api/runs /gradio_api/dev/reload /gradio_api/heartbeat/a/b /gradio_api/custom_component/a/b/c/d
/gradio_api/proxy=https://example.org/x
"""


@pytest.mark.parametrize("path", ELSEWHERE.split())
def test_what_it_does_not_ask_for_does_not(path, shelf):
    assert ask(shelf, path)[::2] == (404, None)


@pytest.mark.parametrize(
    "name", ["run/predict", "api/predict", "call/predict", "call/v2/x", "component_server", "stream/x"]
)
def test_calls_that_pass_by_the_queue_do_not(name, shelf):
    assert ask(shelf, f"/gradio_api/{name}", "POST", body=b"{}")[::2] == (404, None)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_do_not(method, shelf):
    assert ask(shelf, "/config", method)[::2] == (404, None)


def test_only_files_on_the_shelf_are_given(shelf, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (shelf.folder / "link").symlink_to(tmp_path / "secret.txt")
    give = "/gradio_api/file="
    assert ask(shelf, f"{give}{shelf.folder}/a.png")[0] == 200
    refused = ["/etc/passwd", tmp_path / "secret.txt", shelf.folder / "none.png", shelf.folder / "link", "", "a.png"]
    refused += ["https://example.org/a.png", "file:///etc/passwd", f"{shelf.folder}/a.png\0"]
    assert [ask(shelf, f"{give}{path}")[::2] for path in refused] == len(refused) * [(403, None)]
    assert ask(shelf, f"{give}{shelf.folder}/../secret.txt")[::2] == (404, None)


def test_an_upload_says_how_long_it_is_and_is_not_longer_than_allowed(shelf):
    upload = "/gradio_api/upload"
    assert ask(shelf, upload, "POST", body=b"x" * 900)[::2] == (200, b"x" * 900)
    assert ask(shelf, upload, "POST", {"content-length": 10**6}, b"x")[::2] == (413, None)
    for length in ("", "-1", "many", "1e3"):
        assert ask(shelf, upload, "POST", {"content-length": length}, b"x")[::2] == (411, None)


def test_a_call_gets_through_as_it_was_looked_at(shelf):
    call = {"data": [{"path": f"{shelf.folder}/a.png", "url": "http://localhost/x"}, None, "é"], "fn_index": 0}
    status, _, got = ask(shelf, JOIN, "POST", body=json.dumps(call).encode())
    assert status == 200
    assert json.loads(got) == call


@pytest.mark.parametrize(
    "path", ["http://example.org/a.png", "HTTPS://example.org", "/etc/passwd", "", "a.png", "~", "\0"]
)
def test_a_call_that_names_another_file_does_not(path, shelf):
    for given in ({"path": path}, [[{"a": {"path": path, "meta": {"_type": "gradio.FileData"}}}]]):
        body = json.dumps({"data": [given], "fn_index": 0}).encode()
        assert ask(shelf, JOIN, "POST", body=body)[::2] == (403, None)


@pytest.mark.parametrize("body", [b"no json", b"[1]", b"\xff\xfe", b"[" * 9000])
def test_a_call_that_is_none_does_not(body, shelf):
    assert ask(shelf, JOIN, "POST", body=body)[::2] == (400, None)


def test_a_long_call_does_not(shelf):
    assert ask(shelf, JOIN, "POST", body=b'{"data": "' + b"x" * 2**14 + b'"}')[::2] == (413, None)


def test_a_server_for_this_machine_has_no_other_name(shelf):
    own = ("127.0.0.1", "localhost")
    for host in ("127.0.0.1:7860", "localhost"):
        assert ask(shelf, "/", headers={"host": host}, hosts=own)[0] == 200
    for host in ("evil.example:7860", "localhost.evil.example", ""):
        assert ask(shelf, "/", headers={"host": host}, hosts=own)[::2] == (400, None)
        assert ask(shelf, "/", headers={"host": host})[0] == 200


def test_a_page_may_load_from_its_own_server_only(shelf):
    headers = ask(shelf, "/")[1]
    assert headers[b"x-own"] == b"1"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy and "*" not in policy and "unsafe-eval" not in policy
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_an_upload_makes_room_first(tmp_path):
    old = tmp_path / "old.png"
    old.write_bytes(bytes(10))
    assert ask(Shelf(tmp_path, kept=-1), "/gradio_api/upload", "POST", body=b"x")[0] == 200
    assert not old.exists()


def test_start_and_end_of_the_server_pass_by(shelf):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    gate = Gate(app, shelf, 1000)
    asyncio.run(gate({"type": "lifespan"}, None, None))
    asyncio.run(gate({"type": "websocket", "path": "/"}, None, None))
    assert seen == ["lifespan"]
