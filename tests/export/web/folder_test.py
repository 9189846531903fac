"""The folder of the web page: what is written, refused and served."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from keras_gpt import GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.export import ExportError, export_web
from keras_gpt.export.litert import tflite_file
from keras_gpt.export.web import litert_js
from keras_gpt.export.web.folder import PAGE_FILES, _prefill_lengths
from keras_gpt.export.web.static_server import StaticServer
from keras_gpt.models import GPTTextClassifier
from keras_gpt.tokenizer import GPT1Tokenizer, GPTTokenizer
from keras_gpt.tools import cli
from tests.export.web.stand_in import write_node_modules


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    return write_node_modules(tmp_path_factory.mktemp("npm") / "node_modules")


@pytest.fixture(scope="module")
def written(causal_lm, node_modules, tmp_path_factory):
    """The folder of an export, and its report."""
    path = tmp_path_factory.mktemp("web") / "page"
    settings = {"temperature": 0.5, "seed": 2**60 + 1}
    return path, export_web(
        causal_lm,
        path,
        "dynamic_int8",
        context_length=32,
        node_modules=node_modules,
        settings=settings,
    )


def test_the_folder_has_all_that_the_page_needs(causal_lm, written):
    folder, report = written
    assert report.path == str(folder)
    assert report.num_bytes == (folder / "model.tflite").stat().st_size
    interpreter = tflite_file.open_file(folder / "model.tflite")
    # Each would cost the browser a copy of the weights.
    signatures = {"about", "sample", "decode", "prefill_32"}
    assert set(interpreter.get_signature_list()) == signatures
    about = tflite_file.about(folder / "model.tflite")
    assert (about["context_length"], about["quantization"]) == (32, "dynamic_int8")
    page = json.loads((folder / "page.json").read_text())
    end_id = causal_lm.preprocessor.tokenizer.end_token_id
    assert page == {
        "model": {"file": "model.tflite", "num_bytes": report.num_bytes},
        "num_parameters": causal_lm.backbone.count_params(),
        "add_start_token": False,
        "start_token": end_id,
        "stop_tokens": [end_id],
        "settings": {"temperature": "0.5", "seed": str(2**60 + 1)},
    }
    core = folder / "litert/core"
    assert len(list((core / "wasm").iterdir())) == 6
    # By its place, for workers have no import maps.
    assert '"../../wasm-utils/dist/index.js"' in (core / "dist/index.js").read_text()
    assert (core / "dist/../../wasm-utils/dist/index.js").is_file()
    # Other programs read the tokenizer, too.
    read = GPTTokenizer.from_huggingface_files(folder)
    text = "The king's café, 中文"
    want = causal_lm.preprocessor.tokenizer.tokenize(text).numpy()
    assert read.tokenize(text).numpy().tolist() == want.tolist()


def test_nothing_refers_to_another_host(written):
    folder = written[0]
    for path in folder.glob("*.*"):
        if path.suffix in (".js", ".html", ".css"):
            assert "//" not in path.read_text().replace("// ", "").replace("//\n", "")


def with_tokenizer(causal_lm, tokenizer):
    return GPTCausalLM(causal_lm.backbone, GPTCausalLMPreprocessor(tokenizer))


def test_bad_arguments(causal_lm, node_modules, tmp_path):
    path = tmp_path / "page"
    words = GPT1Tokenizer(vocabulary={"a</w>": 0, "b</w>": 1, "<unk>": 2}, merges=[])
    heads = GPTTextClassifier(causal_lm.backbone, num_classes=2)
    old = write_node_modules(tmp_path / "old", version="2.5.2")
    lacking = write_node_modules(tmp_path / "lacking")
    (lacking / "@litertjs/core/dist/index.js").unlink()
    for arguments, message in [
        (dict(task=heads), "task must be a GPTCausalLM, got a GPTTextClassifier"),
        (dict(task=GPTCausalLM(causal_lm.backbone)), "task must have a preprocessor"),
        (dict(task=with_tokenizer(causal_lm, words)), "must have a GPTTokenizer.*GPT1"),
        (dict(quantization="int3"), "quantization must be of none"),
        (dict(context_length=65), r"context_length must be an integer in \[2, 64\]"),
        (dict(context_length="64"), "context_length must be an integer"),
        (dict(prefill_lengths=[]), "prefill_lengths must rise"),
        (dict(settings={"heat": 1}), "settings must be of .*seed, got 'heat'"),
        (dict(settings={"top_p": 2.0}), r"top_p must be in \(0, 1\], got 2.0"),
        (dict(node_modules=old), "@litertjs/core 2.5.3 .*got 2.5.2"),
        (dict(node_modules=lacking), "lacks @litertjs/core/dist/index.js"),
    ]:
        given = {"task": causal_lm, "path": path, "node_modules": node_modules}
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            export_web(**{**given, **arguments})
        assert {p.name for p in tmp_path.iterdir()} == {"old", "lacking"}
    path.mkdir()
    with pytest.raises(FileExistsError, match="path must be new"):
        export_web(causal_lm, path)


def test_npm_that_is_absent_or_fails(causal_lm, tmp_path, monkeypatch):
    advice = "Give node_modules, a folder in which `npm install @litertjs/core@2.5.3"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ExportError, match=f"npm must be installed.*{advice}"):
        export_web(causal_lm, tmp_path / "page")
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(ExportError, match=f"got 'no such host'. {advice}"):
        export_web(causal_lm, tmp_path / "page")
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]


def test_npm_installs_the_pinned_versions(tmp_path, monkeypatch):
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    packages = write_node_modules(tmp_path / "packages")
    npm.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/said\nln -s {packages} $PWD/node_modules\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    with litert_js.packages(None) as found:
        assert (found / "@litertjs/core/dist/index.js").is_file()
    said = (tmp_path / "said").read_text()
    assert "install @litertjs/core@2.5.3 @litertjs/wasm-utils@2.5.3" in said


def test_flags(capsys, tmp_path):
    export = ["export", "--format=web", "--model=x", "--output=y"]
    serve = ["serve", f"--web={tmp_path}"]
    for arguments, code, message in [
        ([*export, "--version=2"], 1, "--version must be left out with --format=web"),
        ([*export, "--num_beams=2"], 1, "--num_beams must be left out"),
        ([*export, "--stop_string=."], 1, "--stop_string must be left out"),
        (
            [
                "export",
                "--format=tflite",
                "--model=x",
                "--output=y",
                "--node_modules=z",
            ],
            1,
            "--node_modules must be left out with --format=tflite",
        ),
        ([*serve, "--model=x"], 1, "--model must be left out with --web"),
        ([*serve, "--rest_api_port=1"], 1, "--rest_api_port must be left out"),
        (serve, 2, "folder must be one that export_web wrote.*lacks index.html"),
        (["serve", "--web=/absent"], 2, "but /absent lacks index.html"),
    ]:
        assert cli.main(arguments) == code
        assert message.split(".*")[-1] in capsys.readouterr().err


# === Serving ===


@contextlib.contextmanager
def serving(folder, **options):
    server = StaticServer(folder, port=0, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield http.client.HTTPConnection(server.url[7:-1], timeout=60)
    finally:
        server.stop()
        thread.join(timeout=60)


def test_serving(written):
    folder = Path(written[0])
    types = {
        "/": "text/html; charset=utf-8",
        "/app.js?x=1": "text/javascript; charset=utf-8",
        "/style.css": "text/css; charset=utf-8",
        "/page.json": "application/json",
        "/model.tflite": "application/octet-stream",
        "/litert/core/wasm/litert_wasm_internal.wasm": "application/wasm",
    }
    with serving(folder) as connection:
        for path, kind in types.items():
            connection.request("GET", path)
            answer = connection.getresponse()
            name = "index.html" if path == "/" else path[1:].partition("?")[0]
            assert answer.read() == (folder / name).read_bytes()
            assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            connection.close()
            policy = answer.headers["Content-Security-Policy"]
            assert "script-src 'self' 'wasm-unsafe-eval';" in policy
        for path in ("/absent", "/litert/", "/../page.json", "/%2e%2e/"):
            assert status(connection, path) == 404, path
        for path in ("http://[x", "/%00", "/page%00.json"):
            assert status(connection, path) == 400, path


def status(connection, path):
    connection.putrequest("GET", path, skip_host=True)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_files_that_are_not_served(written, tmp_path):
    folder = tmp_path / "page"
    shutil.copytree(written[0], folder)
    (tmp_path / "page2").mkdir()  # its name begins with the folder's
    for name in ("page/.x", "page/.git/x", "page2/index.html", "page2/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
    (folder / "file").symlink_to("../page2/x")
    (folder / "folder").symlink_to("../page2")
    (folder / "loop").symlink_to("loop")
    (folder / "inner").mkdir()
    (folder / "inner/index.html").symlink_to("../../page2/index.html")
    (folder / "same").symlink_to("page.json")
    with serving(folder) as connection:
        for path in (
            *("/.x", "/%2ex", "/.git/x", "//.git/x", "/litert/../.x", "/file"),
            *("/folder/", "/folder/x", "/loop", "/inner/", "/inner/index.html"),
        ):
            assert status(connection, path) == 404, path
        assert status(connection, "/same") == 200
    (tmp_path / "link").symlink_to(folder)  # to the folder itself is no way out
    with serving(tmp_path / "link") as connection:
        assert status(connection, "/page.json") == 200


def test_ipv6(written):
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with serving(written[0], host="::1") as connection:
        assert connection.host == "::1"
        assert status(connection, "/") == 200


@pytest.mark.parametrize("name", PAGE_FILES)
def test_a_folder_that_lacks_a_file(written, tmp_path, name):
    folder = tmp_path / "page"
    shutil.copytree(written[0], folder, copy_function=os.link)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {re.escape(name)}"):
        StaticServer(folder, port=0)


def test_the_page_is_all_that_is_written(written):
    files = [path for path in written[0].rglob("*") if path.is_file()]
    names = {path.relative_to(written[0]).as_posix() for path in files}
    assert names == set(PAGE_FILES)
    assert PAGE_FILES[0] == "index.html"


@pytest.mark.parametrize(
    ("context", "length"), [(64, 32), (48, 24), (33, 11), (31, 31), (37, 1), (2, 2)]
)
def test_the_default_prefill_length(causal_lm, context, length):
    assert _prefill_lengths(causal_lm, context) == [length]


def test_serving_by_command(written, monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGTERM)

    def run(server):
        assert server.url in capsys.readouterr().out
        server.close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(StaticServer, "run", run)
    try:
        assert cli.main(["serve", f"--web={written[0]}", "--port=0"]) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_port_that_is_taken(written):
    with serving(written[0]) as connection:
        with pytest.raises(OSError, match=f"listen at 127.0.0.1:{connection.port}"):
            StaticServer(written[0], port=connection.port)
