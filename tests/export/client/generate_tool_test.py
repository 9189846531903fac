"""`keras-gpt generate --target` gives what the client gives."""

import pytest

from keras_gpt.export.client import GPTClient
from keras_gpt.tools import cli


def test_prompts_are_continued(target, backend, expected_text, capsys):
    arguments = ["--seed=3", "--max_new_tokens=200", "--prompt=a", "--prompt=\u4e2d"]
    assert cli.main(["generate", f"--target={target}", *arguments]) == 0
    texts = [expected_text(prompt, seed=3) for prompt in ("a", "\u4e2d")]
    assert capsys.readouterr().out == f"a{texts[0]}\n\u4e2d{texts[1]}\n"
    stripped = [f"--target={target}", *arguments, "--strip_prompt", "--model_name=gpt"]
    assert cli.main(["generate", *stripped]) == 0
    assert capsys.readouterr().out == f"{texts[0]}\n{texts[1]}\n"


def test_settings_that_are_not_given_are_as_exported(grpc_target, backend, capsys):
    arguments = [f"--target={grpc_target}", "--prompt=a", "--truncate=left"]
    arguments += ["--stop_string=x", "--stop_string=y", "--temperature=1.0"]
    assert cli.main(["generate", *arguments]) == 0
    (request,) = backend.of("generate")
    given = {name: value.tolist() for name, value in request.inputs.items()}
    assert given["max_new_tokens"] == [40]  # of the model; the flag's own is 64
    assert given["top_k"] == [5]
    assert given["temperature"] == [1.0]  # given, although the flag's own
    assert given["truncate_prompt"] == [True]
    assert given["stop_strings"] == [[b"x", b"y"]]


def test_stream(target, backend, capsys):
    arguments = [f"--target={target}", "--prompt=a", "--seed=4", "--top_k=3"]
    assert cli.main(["generate", *arguments, "--stream"]) == 0
    with GPTClient(target) as client:
        assert capsys.readouterr().out == client.generate("a", seed=4, top_k=3) + "\n"
    assert len(backend.of("decode")) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "one of flags --model and --target is required, got none."),
        (["--model=x", "--target=a:1"], 1, "--model and --target is required, got bo"),
        (["--target=a:1", "--num_beams=2"], 1, "flag --num_beams goes with --model, n"),
        (["--target=a:1", "--draft=prompt_lookup"], 1, "flag --draft goes with --mode"),
        (["--target=a:1", "--max_time=3"], 1, "flag --max_time goes with --model, not"),
        (["--model=x", "--timeout=3"], 1, "flag --timeout goes with --target, not --m"),
        (["--target=a:1", "--stream", "--prompt=b"], 1, "--stream takes one --prompt"),
        (["--target=nowhere"], 2, "target must be host:port"),
        (["--target=127.0.0.1:1", "--timeout=-1"], 2, "timeout must be finite and ab"),
    ],
)
def test_errors_are_one_line(arguments, code, message, capsys):
    assert cli.main(["generate", *arguments, "--prompt=a"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min_p=0.1"], "knobs of the served model must be of logit_bias, max_new_t"),
        (["--bad_word=a"], "got bad_words."),
        (["--length_penalty=2"], "got length_penalty."),
        (["--model_name=nope"], "model 'nope' at 127.0.0.1:"),
        (["--top_k=-1"], "top_k must be at least 0, got -1"),
    ],
)
def test_what_the_server_lacks_is_named(
    grpc_target, backend, arguments, message, capsys
):
    command = ["generate", f"--target={grpc_target}", "--prompt=a", *arguments]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_bad_prompt_takes_no_other_s_text(grpc_target, backend, capsys):
    prompts = ["--prompt=a", f"--prompt={'b' * 91}", "--prompt=c"]
    command = ["generate", f"--target={grpc_target}", "--max_new_tokens=2", *prompts]
    assert cli.main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == "aa;\ncc;\n"
    assert "inputs[1] must be shorter than the model's context" in captured.err
    assert "results" not in captured.err
    assert captured.err.count("\n") == 1


def test_slow_servers_end_the_tool(grpc_target, backend, refusal, capsys):
    backend.faults.append(refusal("DEADLINE_EXCEEDED", "late"))
    arguments = [f"--target={grpc_target}", "--prompt=a", "--timeout=30"]
    assert cli.main(["generate", *arguments]) == 2
    assert "did not answer within 30 s." in capsys.readouterr().err
