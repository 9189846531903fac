"""Writing an exported model: whole or absent, and checked before it has its name."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.export import (
    ExportError,
    export_saved_model,
    files,
    ops,
    saved_model,
    verify,
)
from keras_gpt.export.run_saved_model import signature_defaults
from keras_gpt.generation import SETTINGS


def fake_python(tmp_path, command):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return str(path)


def test_fresh_process_answers_like_generate(causal_lm, exported, prompts, tmp_path):
    knobs = {"temperature": [0.0, 1.0, 0.7, 1.0], "seed": [1, 2, 3, 4]}
    knobs |= {"top_k": [0, 5, 0, 0], "top_p": [1.0, 1.0, 0.8, 1.0]}
    knobs |= {"repetition_penalty": [1.4, 1.0, 1.0, 0.9], "typical_p": [0.9] * 4}
    knobs |= {"no_repeat_ngram_size": [0, 2, 0, 1], "min_new_tokens": [3] * 4}
    calls = [
        {"signature": "generate", "inputs": {"text": prompts, **knobs}},
        {"signature": "serving_default", "inputs": {"text": prompts}},
    ]
    # What a process prints is no matter.
    python = fake_python(tmp_path, f'echo Hello; exec {sys.executable} "$@"')
    generated, served = verify.run_in_fresh_process(exported, calls, python=python)
    expected = causal_lm.generate(prompts, max_new_tokens=7, strip_prompt=True, **knobs)
    assert generated["generated_text"] == expected
    assert served["generated_text"] == causal_lm.generate(
        prompts, max_new_tokens=7, temperature=0.5, seed=9, strip_prompt=True
    )


def test_defaults_are_in_the_signature(exported, tokenizer):
    defaults = signature_defaults(exported)["generate"]
    assert {name: value.numpy().tolist() for name, value in defaults.items()} == {
        **{name: [setting.default] for name, setting in SETTINGS.items()},
        "max_new_tokens": [7],
        "temperature": [0.5],
        "seed": [9],
        "truncate_prompt": [False],
        "stop_strings": [[b""]],
        "bad_words": [[b""]],
        "stop_token_ids": [[tokenizer.end_token_id]],
        "allowed_token_ids": [[-1]],
        "suppress_tokens": [[-1]],
        "begin_suppress_tokens": [[-1]],
        "logit_bias_ids": [[-1]],
        "logit_bias_values": [[0.0]],
    }


def test_graph_holds_nothing_that_serving_refuses(exported):
    assert ops.forbidden(ops.ops_of(exported)) == []
    assert "MatMul" in ops.ops_of(exported)


def test_op_scan_sees_a_stateful_random_op(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: x + tf.random.uniform([]))
    module.f.get_concrete_function(tf.TensorSpec([], tf.float32))
    tf.saved_model.save(module, str(tmp_path))
    assert ops.forbidden(ops.ops_of(tmp_path)) == ["RandomUniform is stateful"]


@pytest.mark.parametrize(
    ("op", "fault"),
    [
        ("AnonymousMutableHashTable", "is stateful"),
        ("LogUniformCandidateSampler", "is stateful"),
        ("ReadFile", "reads files"),
        ("PyFuncStateless", "calls Python"),
        ("XlaDot", "needs XLA, which TF Serving refuses by default"),
        ("WordpieceTokenizeWithOffsets", "is no op of TensorFlow itself"),
    ],
)
def test_ops_that_are_refused(op, fault):
    assert ops.forbidden([op, "MatMul", "While"]) == [f"{op} {fault}"]


def test_only_loading_may_write():
    assert ops.forbidden(["AssignVariableOp"]) == []
    assert ops.forbidden(["AssignVariableOp"], may_load=False) == [
        "AssignVariableOp is stateful"
    ]


def test_all_dimensions_of_signatures_begin_with_the_batch(exported):
    signatures = tf.saved_model.load(exported).signatures
    assert sorted(signatures) == [
        *("decode", "detokenize", "generate", "prefill", "score"),
        *("serving_default", "tokenize"),
    ]
    for signature in signatures.values():
        inputs = signature.structured_input_signature[1]
        for spec in (*inputs.values(), *signature.structured_outputs.values()):
            assert spec.shape.rank >= 1
            assert spec.shape[0] is None


def test_a_version_is_never_replaced(causal_lm, exported):
    before = sorted(Path(exported).rglob("*"))
    with pytest.raises(FileExistsError, match="version must be new"):
        export_saved_model(causal_lm, Path(exported).parent)
    assert sorted(Path(exported).rglob("*")) == before


def test_an_export_that_differs_leaves_nothing(causal_lm, tmp_path, monkeypatch):
    def lie(folder, calls, **_):
        knobs = dict(calls[0]["inputs"])
        texts = causal_lm.generate(knobs.pop("text"), strip_prompt=True, **knobs)
        texts[1] += "!"
        return [{"generated_text": texts}, *[{}] * (len(calls) - 1)]

    monkeypatch.setattr(verify, "run_in_fresh_process", lie)
    with pytest.raises(ExportError, match="must answer like the model, but for 'The'"):
        export_saved_model(causal_lm, tmp_path / "model", batch_sizes=[1])
    assert list((tmp_path / "model").iterdir()) == []


def test_a_warm_up_record_that_fails_stops_the_export(exported, tmp_path):
    broken = tmp_path / "1"
    subprocess.run(["cp", "-r", exported, broken], check=True)  # noqa: S603, S607
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = "score"
    proto = tf.make_tensor_proto([1])
    log.predict_log.request.inputs["text"].CopyFrom(proto)
    path = broken / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(log.SerializeToString())
    with pytest.raises(RuntimeError, match="warm-up record 0, of score"):
        verify.run_in_fresh_process(broken, [], warm_up=True)


def test_a_process_that_fails_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match="does not run"):
        verify.run_in_fresh_process(tmp_path / "absent", [])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 0", "does not run: it gave no response .*response.json"),
        ('echo "{" > "$4"', "does not run: it gave no response .Expecting property"),
        ("exec sleep 60", "does not run within 0.5 seconds"),
    ],
)
def test_a_process_without_a_response_is_reported(tmp_path, command, message):
    python = fake_python(tmp_path, command)
    with pytest.raises(RuntimeError, match=message):
        verify.run_in_fresh_process(tmp_path, [], python=python, timeout=0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"version": 0}, ValueError, "version must be a positive integer, got 0"),
        ({"version": "1"}, ValueError, "version must be a positive integer, got '1'"),
        ({"temperature": -1.0}, ValueError, "temperature must be finite and at least"),
        ({"temperature": [1.0]}, ValueError, "temperature must be one value to export"),
        ({"beams": 3}, TypeError, "no option 'beams'; did you mean 'num_beams'"),
        ({"storage_dtype": "int8"}, ValueError, "storage_dtype must be of float32, "),
        ({"model_name": "a/b"}, ValueError, "model_name must be of letters, .*'a/b'"),
        (
            {"model_name": None},
            ValueError,
            "model_name must be of letters, .* got None",
        ),
        ({"batch_sizes": 4}, ValueError, "batch_sizes must be positive integers, .*4"),
        ({"speculative": True, "draft": None}, ValueError, "draft must not be None wi"),
        ({"batch_sizes": []}, ValueError, "batch_sizes must be positive integers"),
        ({"batch_sizes": [0]}, ValueError, "batch_sizes must be positive integers"),
        ({"max_time": 1.0}, ValueError, "max_time must not be given: clients have"),
        ({"best_of": 2}, ValueError, "best_of must not be given: a served row draws"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences must be 1 unl"),
        ({"sliding_window": True}, ValueError, "sliding_window must not be given"),
        ({"suppress_tokens": [10**6]}, ValueError, "suppress_tokens must be of ids in"),
        ({"stop_strings": list("abcdefghijklmnopq")}, ValueError, "be 16 strings at m"),
        (
            {"stop_strings": "\u00e9" * 129},
            ValueError,
            "stop_strings must be of 256 bytes",
        ),
        ({"bad_words": ["b" * 65]}, ValueError, "bad_words must be of 64 bytes at mos"),
        ({"stop_token_ids": "no"}, ValueError, "stop_token_ids must be 'auto', None"),
    ],
)
def test_bad_arguments_are_named(causal_lm, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        export_saved_model(causal_lm, tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_as_a_draft_is_refused(causal_lm, tmp_path):
    with pytest.raises(ValueError, match="draft must be None or 'prompt_lookup'"):
        export_saved_model(causal_lm, tmp_path, draft=causal_lm)


def test_a_model_without_tokenizer_is_refused(causal_lm, tmp_path):
    with pytest.raises(ValueError, match="preprocessor must be set"):
        export_saved_model(GPTCausalLM(causal_lm.backbone), tmp_path)


def test_a_context_without_room_is_refused(tokenizer, tmp_path):
    def model(context):
        backbone = GPTBackbone.from_size(
            "gpt_nano",
            vocabulary_size=tokenizer.vocabulary_size(),
            max_sequence_length=context,
        )
        preprocessor = GPTCausalLMPreprocessor(tokenizer, sequence_length=context)
        return GPTCausalLM(backbone, preprocessor)

    with pytest.raises(ValueError, match="max_sequence_length must be at least 2 to"):
        export_saved_model(model(1), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert Path(export_saved_model(model(2), tmp_path, batch_sizes=[1])).is_dir()


def test_a_path_that_is_a_file_is_refused(causal_lm, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        export_saved_model(causal_lm, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_nothing(causal_lm, tmp_path, monkeypatch):
    def fail(path, card):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(saved_model, "write_card", fail)
    with pytest.raises(OSError, match="No space left on device"):
        export_saved_model(causal_lm, tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


EXPORT = """
import sys
from keras_gpt import GPTCausalLM
from keras_gpt.export import export_saved_model
export_saved_model(GPTCausalLM.from_preset(sys.argv[1]), sys.argv[2], max_new_tokens=2)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_no_version(causal_lm, tmp_path):
    causal_lm.save_to_preset(tmp_path / "preset")
    target = tmp_path / "model"
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", EXPORT, str(tmp_path / "preset"), str(target)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for reached in ("saved_model.pb", "assets.extra/model_card.json"):
            until = time.monotonic() + 120
            while not list(target.glob(f".writing-*/1/{reached}")):
                assert process.poll() is None, "the export has ended"
                assert time.monotonic() < until
                time.sleep(0.005)
            process.send_signal(signal.SIGSTOP)  # leaves what SIGKILL would leave
            remains = [path.name for path in target.iterdir()]
            assert len(remains) == 1
            assert not remains[0].isdecimal()  # nothing that a server would load
            process.send_signal(signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
    assert [path.name for path in target.iterdir()] == remains
    files.clear_remains(target)
    assert list(target.iterdir()) == []


def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])  # noqa: S603
    process.wait()
    return process.pid


def test_only_what_dead_processes_of_this_host_left_is_cleared(tmp_path):
    host, dead = socket.gethostname(), dead_process()
    cleared = [f".writing-1@{host}-{dead}-a1", f".writing-README.md@{host}-{dead}-b_"]
    kept = [
        *(f".writing-1@elsewhere-{dead}-a1", f".writing-1@{host}x-{dead}-a1"),
        *(f".writing-1@{host}-{os.getpid()}-a1", "1", "README.md"),
    ]
    for name in cleared + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    files.clear_remains(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_exports_of_one_process_do_not_meet(tmp_path):
    """Each has its own folder, in which the others' end deletes nothing."""
    with files.temporary_folder(tmp_path, "1") as first:
        with files.temporary_folder(tmp_path, "1") as second:
            assert first != second
        assert first.is_dir() and not second.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_another_export_wrote_meanwhile_is_kept(
    causal_lm, tmp_path, monkeypatch
):
    def write_too(*_, **__):
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "saved_model.pb").write_text("the other's")

    monkeypatch.setattr(saved_model, "verify", write_too)
    with pytest.raises(FileExistsError, match="version must be new, but .*3 exists"):
        export_saved_model(causal_lm, tmp_path, version=3, batch_sizes=[1])
    assert [path.name for path in (tmp_path / "3").iterdir()] == ["saved_model.pb"]
    assert not list(tmp_path.glob(".writing-*"))


def test_a_version_is_as_readable_as_other_folders(exported):
    usual = Path(exported).parent.stat().st_mode
    assert Path(exported).stat().st_mode == usual


def test_model_card_tells_what_the_model_is(exported, causal_lm, tokenizer):
    card = json.loads((Path(exported) / "assets.extra/model_card.json").read_text())
    assert card["config"] == causal_lm.backbone.config.to_dict()
    assert card["num_parameters"] == causal_lm.backbone.count_params()
    assert card["tokenizer"]["vocabulary_size"] == tokenizer.vocabulary_size()
    assert card["defaults"]["temperature"] == 0.5
    assert card["method"] == "sampling"
    assert len(card["weights_sha256"]) == 64
