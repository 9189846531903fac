"""The C++ example continues prompts as Keras does."""

import pathlib
import re
import shutil
import subprocess

import pytest

from keras_gpt import GPTCausalLM
from keras_gpt.export import export_tflite
from keras_gpt.generation import SETTINGS
from keras_gpt.models import GPTTextClassifier

SOURCES = pathlib.Path(__file__).parents[2] / "tools" / "examples" / "litert_cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The example, built on the library of LiteRT-LM's wheel."""
    litert_lm = pytest.importorskip("litert_lm")
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is absent: the example cannot be built.")
    folder = tmp_path_factory.mktemp("cpp")
    library = pathlib.Path(litert_lm.__file__).parent
    configure = ["cmake", "-S", SOURCES, "-B", folder, f"-DTFLITE_DIR={library}"]
    for command in (configure, ["cmake", "--build", folder]):
        built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert built.returncode == 0, built.stdout + built.stderr
        assert "warning" not in built.stdout + built.stderr
    return folder / "litert_generate"


def run(program, path, *arguments):
    """Returns the exit code, the ids and the last line of messages."""
    command = [program, path, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    ids = [int(word) for word in found.stdout.split()]
    return found.returncode, ids, found.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def path(causal_lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    export_tflite(causal_lm, path)
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0, "max_new_tokens": 20},
        {"seed": 2**40 + 3},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": -5},
    ],
)
def test_it_draws_the_tokens_of_keras(causal_lm, program, path, settings):
    prompt = [5, 260, 7, 299, 12]
    found = GPTCausalLM(causal_lm.backbone).generate(
        {"token_ids": [prompt], "padding_mask": [[1] * 5]},
        **dict(max_length=64, stop_token_ids=None, strip_prompt=True),
        **{"max_new_tokens": 64, **settings},
    )
    want = found["token_ids"][0][found["padding_mask"][0]].tolist()
    assert len(want) == settings.get("max_new_tokens", 59)
    given = [f"{name}={value}" for name, value in settings.items()]
    assert run(program, path, *given, *prompt) == (0, want, "length")
    stopped = run(program, path, *given, f"stop={want[9]}", *prompt)
    assert stopped == (0, want[: want.index(want[9])], "stop")


def test_its_settings_begin_with_those_of_the_library():
    source = (SOURCES / "litert_generate.cc").read_text()
    table = source.partition("kDefaults = {")[2].partition("};")[0]
    found = dict(re.findall(r'{"(\w+)", *"([^"]*)"}', table))
    want = {name: one.default for name, one in SETTINGS.items() if one.default}
    assert {name: float(text) for name, text in found.items()} == want


def test_what_it_refuses(causal_lm, program, path, tmp_path):
    assert run(program, path, *[1] * 64) == (3, [], "prompt_too_long")
    assert run(program, path, 300) == (3, [], "invalid_input")
    head = tmp_path / "head.tflite"
    task = GPTTextClassifier(causal_lm.backbone, num_classes=2)
    export_tflite(task, head, context_length=32)
    (tmp_path / "half").write_bytes(path.read_bytes()[:1000])
    for arguments, message in [
        ((path, *[1] * 65), "the prompt must be at most 64 ids, got 65."),
        ((path, "temperatur=1", 5), "inputs of the signature, got temperatur."),
        ((path, "top_k=1.5", 5), "got '1.5'."),
        ((path, "seed=x", 5), "got 'x'."),
        ((path, "king"), "got 'king'."),
        ((head, 5), "MODEL must have the signature generate"),
        ((tmp_path / "absent", 5), "MODEL must be a whole TFLite file"),
        ((tmp_path / "half", 5), "MODEL must be a whole TFLite file"),
    ]:
        code, ids, found = run(program, *arguments)
        assert (code, ids) == (2, [])
        assert message in found
    assert run(program, path)[0] == 1
