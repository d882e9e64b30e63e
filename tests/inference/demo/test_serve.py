"""The demo's server: arguments, limits, and requests without a browser."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from mcir.cli import main
from mcir.inference.demo import demo
from mcir.inference.images import Picture, write_picture
from tests.inference.demo.conftest import serving


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_megapixels": 0}, "--max-megapixels: expected a number above 0, got 0"),
        ({"max_megapixels": float("nan")}, "--max-megapixels: .* got nan"),
        ({"max_size": -1}, "--max-size: .* got -1"),
        ({"max_size": float("inf")}, "--max-size: .* got inf"),
        ({"queue": 0}, "--queue: expected at least 1, got 0"),
    ],
)
def test_limits_out_of_range_are_rejected(setting, message):
    with pytest.raises(ValueError, match=message):
        demo(["x.pth"], **setting)


@pytest.mark.parametrize(
    "words", [["bad.pth"], ["--device", "nonsense"], ["--tile", "1"], ["--port", "99999"], ["--host", "256.1.1.1"]]
)
def test_mistakes_are_reported_before_the_demo_starts(words, checkpoints, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio", reason='Gradio is not installed: pip install -e ".[demo]"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    Path("bad.pth").write_text("no weights")
    assert main(["demo", str(checkpoints["double"]), *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("mcir demo: ") and words[-1] in lines[-1]


def test_the_error_without_gradio_explains_the_installation(checkpoints, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", str(checkpoints["same"])]) == 1
    assert 'mcir demo: The demo needs Gradio: run pip install -e ".[demo]"' in capsys.readouterr().err


# -- a running server -------------------------------------------------------------------------------------------------


def ask(server, path, data=None, **headers):
    """Return status and body."""
    request = urllib.request.Request(server.address + path, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(server, name, content):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return ask(server, "/gradio_api/upload", body % (name.encode(), content), **kind)


def test_the_default_address_is_this_machine_only(server):
    assert urlsplit(server.address).hostname == "127.0.0.1"


def test_no_other_file_of_the_machine_can_be_read(server, checkpoints):
    own = next(server.folder.glob("mcir-demo-*"))
    paths = ["/etc/passwd", checkpoints["same"], Path(__file__), f"{own}/../../{checkpoints['same'].name}", own]
    paths += ["%2Fetc%2Fpasswd", f"{own}/..%2F..%2F..%2Fetc/passwd", f"{own}%2F..%2F..%2Fx", "https://example.org/"]
    for start in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/"):
        for path in paths:
            status, body = ask(server, f"{start}{path}")
            assert status in (403, 404), (start, path, status)
            assert b"root:" not in body


@pytest.mark.parametrize("name", ["../../x.html", "x.svg"])
def test_an_upload_is_served_as_an_attachment(name, server):
    content = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    status, body = upload(server, name, content)
    (path,) = json.loads(body)
    assert status == 200
    assert path.startswith(str(next(server.folder.glob("mcir-demo-*"))))
    assert call(server, restoring(server), [named_file(path), "same", False], "svg")[0] is False
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.address}/gradio_api/file={path}") as answer:
        assert answer.read() == content
        assert answer.headers["Content-Disposition"].startswith("attachment")


def test_a_file_that_is_too_large_is_rejected(server):
    assert upload(server, "a.png", bytes(2**18))[0] == 200
    assert upload(server, "a.png", bytes(2**19 + 100))[0] == 413


def call(server, number, data, session="abc123"):
    """Call a function of the page through the queue; return whether it succeeded, and its output."""
    body = json.dumps({"data": data, "fn_index": number, "session_hash": session}).encode()
    status, answer = ask(server, "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})
    if status != 200:
        return status, answer
    request = f"{server.address}/gradio_api/queue/data?session_hash={session}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as lines:
        for line in lines:
            message = json.loads(line.removeprefix(b"data: ") if line.strip() else b"{}")
            if message.get("msg") == "process_completed":
                return message["success"], message["output"]
    return None


def restoring(server):
    """Return the number of the function that restores."""
    config = json.loads(ask(server, "/config")[1])
    (number,) = [each["id"] for each in config["dependencies"] if len(each["inputs"]) == len(each["outputs"]) == 3]
    return number


def named_file(path, **others):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **others}


@pytest.fixture
def outside(tmp_path):
    """An image outside the demo's folder."""
    write_picture(tmp_path / "a.png", Picture(np.zeros((20, 20, 3), np.uint8)))
    return tmp_path / "a.png"


def test_a_forged_call_reads_no_other_file(server, checkpoints, outside):
    number = restoring(server)
    for path in (outside, checkpoints["same"], "/etc/passwd", "http://127.0.0.1:1/a.png"):
        for number_of_call, forged in enumerate((named_file(path), {"path": str(path)})):
            success, output = call(
                server, number, [forged, "same", False], f"forged{path}{number_of_call}".replace("/", "_")
            )
            assert success is False and "20×20" not in str(output)
    for session, forged in enumerate((7, [1], {"path": 1}, "a.png", None)):
        success, output = call(server, number, [forged, "same", False], f"forged{session}")
        assert success is False
        assert output["error"] is None or output["error"].startswith(("Upload an image first", "Expected an image"))
    (path,) = json.loads(upload(server, "b.png", outside.read_bytes())[1])
    for session, name in enumerate(("../same", {"a": 1}, None, str(checkpoints["same"]))):
        success, output = call(server, number, [named_file(path), name, False], f"name{session}")
        assert (success, output["error"]) == (False, "There is no such network.")
    success, output = call(server, number, [named_file(path), "same", False], "right")
    assert success is True
    assert "20×20" in output["data"][1]


ENDLESS = """
import sys, time
from mcir.cli import main
from mcir.inference import Restorer

def pictures(self, images, progress):
    while True:
        progress(0.0)  # raises an error when the demo stops
        time.sleep(0.01)

Restorer.pictures = pictures
sys.exit(main())
"""


def test_a_full_queue_rejects_visitors_and_the_demo_stops_during_a_restoration(checkpoints, tmp_path, outside):
    with serving(checkpoints, tmp_path, "--queue", "1", program=("-c", ENDLESS)) as server:
        (path,) = json.loads(upload(server, "a.png", outside.read_bytes())[1])
        request = {"data": [named_file(path), "same", False], "fn_index": restoring(server)}

        def join(visitor):
            body = json.dumps({**request, "session_hash": visitor}).encode()
            return ask(server, "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})

        assert join("restoring")[0] == 200
        while join("waiting")[0] != 200:  # until the first restoration runs, which never ends
            pass
        status, answer = join("rejected")
        assert (status, b"queue is full" in answer.lower()) == (503, True)
        assert [*tmp_path.glob("mcir-demo-*")]
        server.process.send_signal(signal.SIGTERM)
        output = server.process.stdout.read()
        assert server.process.wait(20) == 0, output
    assert "The demo has stopped." in output
    assert not [*tmp_path.glob("mcir-demo-*")]
