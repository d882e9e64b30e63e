"""The server of the demo: its arguments, its address, and what a visitor without a browser may try."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from mcir.cli import main
from mcir.inference.demo import DemoSettings, demo
from mcir.inference.demo.serve import PORTS, application, listening, named, require_gradio, surroundings
from mcir.inference.demo.service import DemoService
from mcir.inference.demo.shelf import Shelf
from mcir.inference.images import Picture, write_picture
from tests.inference.demo.conftest import serving


def test_checkpoints_are_named_by_their_files_or_as_is_said(checkpoints, tmp_path):
    double, same = checkpoints.values()
    odd = tmp_path / "a=b.pth"
    odd.touch()
    texts = [str(double), f"my own={same}", str(odd)]
    assert named(texts) == {"double": double, "my own": same, "a=b": odd}


def test_checkpoints_that_are_not_there_or_called_alike_are_refused(checkpoints, tmp_path):
    double, same = checkpoints.values()
    for text in ("none.pth", "name=none.pth", f"{tmp_path}"):
        with pytest.raises(ValueError, match="there is no such checkpoint"):
            named([text])
    for texts in ([double, double], [double, f"double={same}"]):
        with pytest.raises(ValueError, match=r"Two checkpoints are called 'double': .* like FIRST="):
            named([*map(str, texts)])
    with pytest.raises(ValueError, match="gives no name"):
        named([f"={same}"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_megapixels": 0}, "--max-megapixels is 0"),
        ({"max_megapixels": float("nan")}, "--max-megapixels is nan"),
        ({"max_size": -1}, "--max-size is -1"),
        ({"max_size": float("inf")}, "--max-size is inf"),
        ({"queue": 0}, "--queue is 0"),
    ],
)
def test_limits_are_limits(setting, message, checkpoints, monkeypatch):
    monkeypatch.setattr("mcir.inference.demo.serve.version", lambda package: "6.31.0")
    with pytest.raises(ValueError, match=message):
        demo(DemoSettings([str(checkpoints["same"])], **setting))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bad.pth"], "bad.pth cannot be read as weights: it is neither"),
        (["--device", "nonsense"], "the device 'nonsense' cannot be used here"),
        (["--tile", "1"], "tile=1 is too small for EDSR: 2 is the least."),
        (["--port", "99999"], "127.0.0.1 cannot be listened on at port 99999: "),
    ],
)
def test_what_is_wrong_from_the_start_is_told_before_anybody_comes(
    words, message, checkpoints, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mcir.inference.demo.serve.version", lambda package: "6.31.0")
    monkeypatch.chdir(tmp_path)
    Path("bad.pth").write_text("no weights")
    assert main(["demo", str(checkpoints["double"]), *words]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith(f"mcir demo: {message}") and not told[0].endswith("..")


@pytest.mark.parametrize(("there", "message"), [(None, "is not installed"), ("6.9.1", r"is 6\.9\.1; from 6\.31 on")])
def test_without_gradio_it_is_told_how_to_get_it(there, message, checkpoints, monkeypatch, capsys):
    def version(package):
        if there is None:
            raise PackageNotFoundError(package)
        return there

    monkeypatch.setattr("mcir.inference.demo.serve.version", version)
    with pytest.raises(ValueError, match=message + r'.*pip install -e "\.\[demo\]"'):
        require_gradio()
    assert main(["demo", str(checkpoints["same"])]) == 1
    assert "mcir demo: Gradio" in capsys.readouterr().err


def test_the_next_free_port_is_taken():
    with listening("127.0.0.1", None) as first, listening("127.0.0.1", None) as second:
        ports = [place.getsockname()[1] for place in (first, second)]
        assert ports[0] < ports[1]
        assert set(ports) <= set(PORTS)
        assert {place.getsockname()[0] for place in (first, second)} == {"127.0.0.1"}


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("256.1.1.1", None), ("192.0.2.1", None)])
def test_an_address_that_is_none_is_refused(host, port):
    with pytest.raises(ValueError, match=f"{host} cannot be listened on"), listening(host, port):
        pass


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        with pytest.raises(ValueError, match=f"at port {port}: .*in use"), listening("127.0.0.1", port):
            pass


def test_gradio_is_told_to_keep_to_itself_and_the_environment_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    before = dict(os.environ)
    with surroundings(tmp_path):
        own = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert own == {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_TEMP_DIR": str(tmp_path),
        "GRADIO_EXAMPLES_CACHE": str(tmp_path),
    }
    assert dict(os.environ) == before


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


def test_it_listens_on_this_machine_alone(server):
    address = urlsplit(server.address)
    assert address.hostname == "127.0.0.1"
    assert address.port in PORTS
    assert ask(server, "/", Host="evil.example")[0] == 400


def test_no_file_of_the_machine_is_given(server, checkpoints):
    own = next(server.folder.glob("mcir-demo-*"))
    paths = ["/etc/passwd", checkpoints["same"], Path(__file__), f"{own}/../../{checkpoints['same'].name}", own]
    paths += ["%2Fetc%2Fpasswd", f"{own}/..%2F..%2F..%2Fetc/passwd", f"{own}%2F..%2F..%2Fx", "https://example.org/"]
    for start in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/"):
        for path in paths:
            status, body = ask(server, f"{start}{path}")
            assert status in (403, 404), (start, path, status)
            assert b"root:" not in body


@pytest.mark.parametrize("name", ["../../x.html", "x.svg"])
def test_an_upload_comes_back_only_by_its_own_path_and_not_as_a_page(name, server):
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
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_file_that_is_too_large_is_refused(server):
    assert upload(server, "a.png", bytes(2**18))[0] == 200
    assert upload(server, "a.png", bytes(2**19 + 100))[0] == 413


def call(server, number, data, session="abc123"):
    """Call a function of the page through the queue and return what the server says at its end."""
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
    """The number of the function that restores."""
    config = json.loads(ask(server, "/config")[1])
    (number,) = [each["id"] for each in config["dependencies"] if len(each["inputs"]) == len(each["outputs"]) == 3]
    return number


def named_file(path, **others):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **others}


@pytest.fixture
def outside(tmp_path):
    """A picture that is nobody's business."""
    write_picture(tmp_path / "a.png", Picture(np.zeros((20, 20, 3), np.uint8)))
    return tmp_path / "a.png"


def test_a_forged_call_reads_no_file_and_fetches_no_address(server, checkpoints, outside):
    number = restoring(server)
    for path in (outside, checkpoints["same"], "/etc/passwd", "http://127.0.0.1:1/a.png"):
        for forged in (named_file(path), {"path": str(path)}):
            assert call(server, number, [forged, "same", False])[0] == 403
    for session, forged in enumerate((7, [1], {"path": 1}, "a.png", None)):
        success, output = call(server, number, [forged, "same", False], f"forged{session}")
        assert success is False
        assert output["error"] is None or output["error"].startswith(("Drop a picture first", "This is no picture"))
    (path,) = json.loads(upload(server, "b.png", outside.read_bytes())[1])
    for session, name in enumerate(("../same", {"a": 1}, None, str(checkpoints["same"]))):
        success, output = call(server, number, [named_file(path), name, False], f"name{session}")
        assert (success, output["error"]) == (False, "There is no such network.")
    success, output = call(server, number, [named_file(path), "same", False], "right")
    assert success is True
    assert "20×20" in output["data"][1]


def test_gradio_itself_reads_no_other_file_either(checkpoints, outside, tmp_path):
    """Should a call find a way through the gate."""
    pytest.importorskip("gradio", reason='Gradio is not installed: pip install -e ".[demo]"')
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import move_files_to_cache

    folder = tmp_path / "shelf"
    with surroundings(folder):
        shelf = Shelf(folder)
        gate = application(DemoService({"same": checkpoints["same"]}, shelf, 1), shelf, DemoSettings([]))
        (mount,) = gate._app.routes
        blocks = mount.app.get_blocks()
        (picture, *_) = [block for block in blocks.blocks.values() if getattr(block, "elem_id", None) == "picture"]
        token = LocalContext.blocks.set(blocks)
        try:
            with pytest.raises(InvalidPathError, match="not uploaded by a user"):
                move_files_to_cache(named_file(outside), picture, check_in_upload_folder=True)
        finally:
            LocalContext.blocks.reset(token)
    assert blocks.allowed_paths == []
    assert blocks.api_open is False
    assert blocks.show_error is False
    assert not any(
        dependency["api_name"]
        for dependency in blocks.config["dependencies"]
        if dependency["api_visibility"] != "private"
    )


def test_a_full_queue_sends_visitors_away_and_the_end_comes_in_the_midst_of_computing(checkpoints, tmp_path):
    options = ("--host", "127.0.0.1", "--queue", "1", "--max-megapixels", "50")
    with serving(checkpoints, tmp_path, *options) as server:
        assert ask(server, "/", Host="any.example")[0] == 200  # who names an address may have a proxy before it
        file = tmp_path / "a.png"
        write_picture(file, Picture(np.zeros((2500, 2500, 3), np.uint8)))
        (path,) = json.loads(upload(server, "a.png", file.read_bytes())[1])
        call = {"data": [named_file(path), "same", True], "fn_index": restoring(server)}
        answers = {}
        for visitor in range(6):
            body = json.dumps({**call, "session_hash": f"s{visitor}"}).encode()
            status, answer = ask(server, "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})
            answers[status] = answer
        assert answers.keys() == {200, 503}
        assert b"queue" in answers[503].lower()
        assert [*tmp_path.glob("mcir-demo-*")]
        server.process.send_signal(signal.SIGTERM)
        told = server.process.stdout.read()
        assert server.process.wait(20) == 0
    assert "The demo has ended." in told
    assert "Traceback" not in told
    assert not [*tmp_path.glob("mcir-demo-*")]
