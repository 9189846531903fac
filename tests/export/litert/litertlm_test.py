"""LiteRT-LM's own engine answers from a bundle as the models do."""

import contextlib
import json
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from keras_nlp import samplers

from keras_gpt import (
    ChatTemplate,
    GPTBackbone,
    GPTCausalLM,
    GPTCausalLMPreprocessor,
    GPTTokenizer,
)
from keras_gpt.export import LiteRTGenerator, export_litertlm
from keras_gpt.export.litert import litertlm
from keras_gpt.export.litert.chat_prompts import answer_end, spellings
from keras_gpt.models import GPTTextClassifier
from keras_gpt.tokenizer import GPT1Tokenizer, train_tokenizer
from keras_gpt.tools import cli
from tests.conftest import TEXT

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@contextlib.contextmanager
def engine_of(path):
    litert_lm = pytest.importorskip("litert_lm")
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.FATAL)
    engine = litert_lm.Engine(
        str(path), backend=litert_lm.Backend.CPU(), cache_dir=":nocache"
    )
    try:
        yield engine
    finally:
        engine.close()


def greedy():
    import litert_lm

    return litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)


def continued(engine, text, count, sampler=None):
    """A text's continuation by the engine."""
    with engine.create_session(
        apply_prompt_template=False, sampler_config=sampler, max_output_tokens=count
    ) as session:
        session.run_prefill([text])
        return session.run_decode().texts[0]


def metadata_of(path):
    from litert_lm_builder.runtime.proto import llm_metadata_pb2

    data = litertlm.read_sections(path)["LlmMetadataProto"].tobytes()
    return llm_metadata_pb2.LlmMetadata.FromString(data)


def prompts(tokenizer, lengths):
    """A text of each number of tokens."""
    words, random = TEXT.split(), np.random.default_rng(1)
    for length in lengths:
        ids, text = [0], ""
        while tokenizer.tokenize(text).numpy().tolist() != ids:
            whole = " ".join(random.choice(words, size=length))
            ids = tokenizer.tokenize(whole).numpy()[:length].tolist()
            text = tokenizer.detokenize(ids).numpy().decode(errors="replace")
        yield text


def spread_out(backbone):
    for weight in backbone.weights:
        if "kernel" in weight.path or "embeddings" in weight.path:
            weight.assign(weight * 10.0)


def model_of(tokenizer, *, context=64, **kwargs):
    """A random `gpt_nano`, whose texts differ."""
    keras.utils.set_random_seed(0)
    backbone = GPTBackbone.from_size(
        *("gpt_nano",),
        vocabulary_size=tokenizer.vocabulary_size(),
        max_sequence_length=context,
    )
    spread_out(backbone)
    return GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, context, **kwargs))


@pytest.fixture(scope="module")
def written(causal_lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("litertlm") / "model.litertlm"
    return path, export_litertlm(causal_lm, path)


@pytest.fixture(scope="module")
def engine(written):
    with engine_of(written[0]) as engine:
        yield engine


# === Text ===


def test_the_engine_continues_as_keras_does(causal_lm, engine):
    # 2, T, T + 1, 2T + 1 and S - 4, and the most that there may be.
    for text in prompts(causal_lm.preprocessor.tokenizer, [2, 16, 17, 33, 60, 63]):
        want = causal_lm.generate(
            text, strip_prompt=True, temperature=0.0, max_new_tokens=20
        )
        assert continued(engine, text, 20, greedy()) == want


@pytest.mark.parametrize(
    ("context", "quantization", "lengths"),
    [(75, "float16", [1, 8]), (100, "none", [4, 32, 48])],
)
def test_other_contexts(tokenizer, tmp_path, context, quantization, lengths):
    lm, path = model_of(tokenizer, context=context), tmp_path / "model.litertlm"
    assert litertlm._sizes(lm, None, None) == (context, lengths)
    export_litertlm(lm, path, quantization)

    def keras(text):
        return lm.generate(text, strip_prompt=True, temperature=0.0, max_new_tokens=3)

    with engine_of(path) as engine:
        for text in prompts(tokenizer, [2, 9, 33, context - 4, context - 1]):
            assert continued(engine, text, 3, greedy()) == keras(text)
        if lengths[0] > 1:
            return
        # Prompts in parts fill the context, too.
        one, two = prompts(tokenizer, [context - 9, 5])
        with engine.create_session(
            apply_prompt_template=False, sampler_config=greedy(), max_output_tokens=3
        ) as session:
            session.run_prefill([one])
            session.run_prefill([two])
            assert session.run_decode().texts[0] == keras(one + two)


def test_the_end_token_stops(causal_lm, tmp_path):
    tokenizer = causal_lm.preprocessor.tokenizer
    end = tokenizer.end_token_id
    on_ids = GPTCausalLM(causal_lm.backbone)
    for text in prompts(tokenizer, range(3, 20)):
        prompt = tokenizer(text).numpy().tolist()
        found = on_ids.generate(
            {"token_ids": [prompt], "padding_mask": [[1] * len(prompt)]},
            **dict(max_new_tokens=9, max_length=64, stop_token_ids=None),
            **dict(temperature=0.0, strip_prompt=True),
        )
        ids = found["token_ids"][0][found["padding_mask"][0]].tolist()
        if ids[5] not in [end, *prompt, *ids[:5]]:
            break
    # The end token changes places with what comes after five tokens.
    backbone = GPTBackbone.from_config(causal_lm.backbone.get_config())
    for mine, other in zip(backbone.weights, causal_lm.backbone.weights, strict=True):
        value = other.numpy()
        if value.shape[0] == tokenizer.vocabulary_size():
            value[[end, ids[5]]] = value[[ids[5], end]]
        mine.assign(value)
    path = tmp_path / "model.litertlm"
    export_litertlm(GPTCausalLM(backbone, causal_lm.preprocessor), path)
    with engine_of(path) as engine:
        cut = continued(engine, text, 9, greedy())
    assert cut == tokenizer.detokenize(ids[:5]).numpy().decode(errors="replace")


@pytest.mark.parametrize("kind", ["bpe", "char", "gpt1", "chatml"])
def test_ids_are_those_of_python(tokenizer, engine, tmp_path, kind):
    template = None
    if kind == "char":
        tokenizer = train_tokenizer([TEXT], kind="char")
    elif kind == "gpt1":
        words = ["t", "h", "e", "th", "the</w>", "e</w>", "i", ".</w>", "k</w>"]
        tokenizer = GPT1Tokenizer(
            vocabulary={t: i for i, t in enumerate([*words, *SPECIAL[:1], "<unk>"])},
            merges=["t h", "th e</w>"],
        )
    elif kind == "chatml":
        tokenizer, template = with_marks(tokenizer), "chatml"
    lm = model_of(tokenizer, chat_template=template)
    litertlm._write_tokenizer(lm, tmp_path)
    in_file = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [*filter(None, TEXT.splitlines()), "it's\n\n  naïve 日本\U0001f642"]
    for text in [*texts, "a <|endoftext|>", "<|im_end|>\n"]:
        is_special = kind == "chatml" and text == "<|im_end|>\n"
        want = tokenizer.tokenize(text, parse_special=is_special).numpy().tolist()
        assert in_file.encode(text).ids == want
        if kind == "bpe":
            assert engine.tokenize(text) == want


def test_the_start_token_and_the_sampler_are_the_tasks(tokenizer, tmp_path):
    lm, path = model_of(tokenizer, add_start_token=True), tmp_path / "model.litertlm"
    lm.compile(sampler="greedy")
    export_litertlm(lm, path)
    want = lm.generate("The king", strip_prompt=True, max_new_tokens=9)
    with engine_of(path) as engine:
        assert engine.bos_token_id == tokenizer.end_token_id
        assert continued(engine, "The king", 9) == want


@pytest.mark.parametrize(
    ("sampler", "want"),
    [
        (samplers.RandomSampler(), (300, 1.0, 1.0)),
        (samplers.GreedySampler(), (1, 1.0, 1.0)),
        (samplers.TopPSampler(p=0.5, k=7, temperature=0.5), (7, 0.5, 0.5)),
        (samplers.TopKSampler(k=5, temperature=2.0), (5, 1.0, 2.0)),
        (samplers.BeamSampler(num_beams=2), None),
    ],
)
def test_samplers_become_settings(tokenizer, sampler, want):
    lm = model_of(tokenizer)
    lm.compile(sampler=sampler)
    found = litertlm._metadata(lm, 64)
    assert found.HasField("sampler_params") == (want is not None)
    if want is not None:
        found = found.sampler_params
        assert (found.k, found.p, found.temperature) == want
        assert found.type == found.TOP_P


# === Chat ===

QUESTIONS = ("What say you?", "O my lord", "The king", "dead")
ANSWERS = ("the queen hath said", "you are not the man", "lives long", "nay, my lord")
GREEDY = {"temperature": 0.0, "max_new_tokens": 30}


def with_marks(tokenizer):
    """The tokenizer, with the special tokens of a template."""
    vocabulary = {token: i for i, token in enumerate(tokenizer.get_vocabulary())}
    for token in SPECIAL[1:]:
        vocabulary[token] = len(vocabulary)
    return GPTTokenizer(vocabulary, tokenizer.merges, special_tokens=SPECIAL)


@pytest.fixture(scope="module", params=["chatml", "plain"])
def talker(request, tokenizer, tmp_path_factory):
    """A model that has learnt to answer by all that was asked, and its bundle."""
    keras.utils.set_random_seed(0)
    tokenizer = with_marks(tokenizer)
    backbone = GPTBackbone.from_size(
        *("gpt_nano",),
        vocabulary_size=tokenizer.vocabulary_size(),
        max_sequence_length=128,
        hidden_dim=64,
        intermediate_dim=256,
    )
    lm = GPTCausalLM(
        backbone,
        GPTCausalLMPreprocessor(tokenizer, 128, chat_template=request.param),
    )
    roles, contents = [], []
    for asked in np.random.default_rng(0).integers(4, size=[320, 3]):
        roles.append(["user", "assistant"] * 3)
        told = np.cumsum(asked) % 4
        contents.append([])
        for question, answer in zip(asked, told, strict=True):
            contents[-1] += [QUESTIONS[question], ANSWERS[answer]]
    data = tf.data.Dataset.from_tensor_slices({"role": roles, "content": contents})
    lm.compile(optimizer=keras.optimizers.Adam(3e-3))
    lm.fit(data.batch(16), epochs=8, verbose=0)
    path = tmp_path_factory.mktemp("talker") / "model.litertlm"
    export_litertlm(lm, path)
    return lm, path


@pytest.mark.slow
def test_the_engine_chats_as_keras_does(talker):
    lm, path = talker
    told = set()
    name = lm.preprocessor.chat_template.roles["user"][0][:6]
    stop = {"<|im_s": 1, "User:\n": 2}[name]  # tokens, as "\n\n" is two
    with engine_of(path) as engine:
        for questions in (QUESTIONS[:3], QUESTIONS[1:], ["dead", "dead", "The king"]):
            messages = []
            with engine.create_conversation(sampler_config=greedy()) as conversation:
                for question in questions:
                    messages.append({"role": "user", "content": question})
                    want = lm.chat(messages, **GREEDY)
                    told.add(want)
                    assert str(conversation.send_message(question)) == want
                    # It has read what Keras reads, the answer and what stopped it.
                    if want in ANSWERS:
                        count = _num_ids(lm, messages, want) + stop
                        assert conversation.token_count == count
                    messages.append({"role": "assistant", "content": want})
    assert len(told & set(ANSWERS)) >= 3, told
    assert not any(mark in text for text in told for mark in SPECIAL)


@pytest.mark.slow
def test_the_engine_goes_on_with_a_conversation(talker):
    lm, path = talker
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "dead"},
        {"role": "assistant", "content": "nay, my lord"},
    ]
    question = {"role": "user", "content": "  O my\n\nlord "}
    want = lm.chat([*messages, question], **GREEDY)
    with engine_of(path) as engine:
        with engine.create_conversation(
            sampler_config=greedy(), messages=messages
        ) as conversation:
            assert str(conversation.send_message(question)) == want
            count = _num_ids(lm, [*messages, question], want)
            assert conversation.token_count - count in (1, 2)


def _num_ids(lm, messages, answer):
    template, tokenizer = lm.preprocessor.chat_template, lm.preprocessor.tokenizer
    ids, _ = template.tokens(
        tokenizer,
        role=tf.constant([[m["role"] for m in messages]]),
        content=tf.constant([[m["content"] for m in messages]]),
    )
    return len(ids[0]) + len(tokenizer.tokenize(answer))


@pytest.mark.slow
@pytest.mark.parametrize("talker", ["chatml"], indirect=True)
def test_integers_answer_alike(talker, tmp_path):
    lm, _ = talker
    path = tmp_path / "model.litertlm"
    report = export_litertlm(lm, path, "dynamic_int8")
    assert report.num_bytes == path.stat().st_size
    with engine_of(path) as engine:
        for question in QUESTIONS:
            with engine.create_conversation(sampler_config=greedy()) as conversation:
                answer = str(conversation.send_message(question))
                message = {"role": "user", "content": question}
                assert answer == lm.chat([message], **GREEDY)


def test_integers_of_four_bits_run(tokenizer, tmp_path):
    lm, path = model_of(tokenizer), tmp_path / "model.litertlm"
    export_litertlm(lm, path, "int4")
    alone = tmp_path / "model.tflite"
    alone.write_bytes(litertlm.read_sections(path)["TFLiteModel"].tobytes())
    generator = LiteRTGenerator(alone, tokenizer)
    with engine_of(path) as engine:
        for text in prompts(tokenizer, [2, 17, 33]):
            want = generator.generate(text, temperature=0.0, max_new_tokens=9)
            assert text + continued(engine, text, 9, greedy()) == want


ODD = ChatTemplate(
    roles={
        "system": ("", ""),
        "judge": ("{{ 1 }} {% if %} {# no #} ", "\\n \"'\n"),
        "user": ("\u2028<é>\t", "\n\n  "),
        "model": ("M\x01: ", " <|im_end|> -%}\n"),
    },
    answer_role="model",
    beginning="  \n<|im_start|>",
)


def test_a_template_is_written_as_it_is(tokenizer, tmp_path):
    tokenizer = with_marks(tokenizer)
    path = tmp_path / "model.litertlm"
    export_litertlm(model_of(tokenizer, chat_template=ODD), path)
    said = [("judge", " {{ a }}\n"), ("model", "No."), ("system", ""), ("user", "b ")]
    want = ODD.beginning
    for role, text in said:
        want += text.join(ODD.roles[role])
    messages = [{"role": role, "content": text} for role, text in said]
    with engine_of(path) as engine:
        with engine.create_conversation(messages=messages[:-1]) as conversation:
            rendered = conversation.render_message_to_string(messages[-1])
            assert rendered == want + ODD.roles["model"][0]
            with pytest.raises(RuntimeError):
                conversation.send_message({"role": "king", "content": "?"})


def test_what_ends_an_answer(tokenizer):
    marked = with_marks(tokenizer)
    (newline,) = tokenizer.tokenize("\n").numpy().tolist()
    end = answer_end(ODD, marked)
    assert end[:2] == (" <|im_end|>", " -%}\n")
    assert end.sequences == [[marked.token_to_id("<|im_end|>")]]
    end = answer_end(ChatTemplate.named("plain"), marked)
    assert end[:2] == ("\n\n", "")
    assert [newline, newline] in end.sequences
    roles = {"user": ("", "\n"), "assistant": ("", "")}
    assert answer_end(ChatTemplate(roles=roles), marked) == ("", "", [])


def test_spellings_of_a_string():
    plain = train_tokenizer(["so\n\n\n\nit\n\n is the king " * 9], vocabulary_size=262)
    texts = plain.token_text.numpy().tolist()
    found = [[texts[i] for i in ids] for ids in spellings(plain, b"\n\n")]
    assert found[0] == [b"\n\n"]
    assert [b"\n", b"\n"] in found
    for ids in found:
        whole = b"".join(ids)
        assert whole.startswith(b"\n\n")
        assert not b"".join(ids[:-1]).startswith(b"\n\n")
    assert len(found) == len({tuple(ids) for ids in found})


# === The bundle ===


def test_what_the_bundle_holds(causal_lm, written, tmp_path):
    path, report = written
    assert (report.path, report.num_bytes) == (str(path), path.stat().st_size)
    assert report.costs.largest_error < 1e-4 * report.costs.largest_output
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    message = metadata_of(path)
    assert message.max_num_tokens == 64
    ends = [list(stop.token_ids.ids) for stop in message.stop_tokens]
    assert ends == [[causal_lm.preprocessor.tokenizer.end_token_id]]
    assert message.llm_model_type.HasField("generic_model")
    assert message.HasField("supports_thinking") and not message.supports_thinking
    assert not message.HasField("start_token")
    assert not message.HasField("jinja_prompt_template")
    section = litertlm.read_sections(path)["HF_Tokenizer_Zlib"].tobytes()
    assert json.loads(zlib.decompress(section[8:]))["added_tokens"] == []


def test_the_command_writes_a_bundle(causal_lm, tmp_path, capsys):
    causal_lm.save_to_preset(str(tmp_path / "model"))
    flags = ["export", f"--model={tmp_path}/model", "--format=litertlm"]
    path = tmp_path / "model.litertlm"
    options = ["--chat_template=plain", "--context_length=32", "--prefill_lengths=1,8"]
    assert cli.main([*flags, f"--output={path}", *options]) == 0
    assert f"{path}: {path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert metadata_of(path).max_num_tokens == 32
    assert "User:\\n" in metadata_of(path).jinja_prompt_template
    assert cli.main([*flags, f"--output={tmp_path}/x", "--version=2"]) == 1
    assert "--version must be left out" in capsys.readouterr().err
    assert cli.main([*flags, f"--output={path}"]) == 2
    assert "path must be new" in capsys.readouterr().err


def test_bad_arguments(causal_lm, tokenizer, tmp_path):
    path = tmp_path / "model.litertlm"
    backbone = causal_lm.backbone

    class Backwards(GPTTokenizer):
        def tokenize(self, inputs, **kwargs):
            return super().tokenize(inputs, **kwargs)[..., ::-1]

    vocabulary = {token: i for i, token in enumerate(tokenizer.get_vocabulary())}
    backwards = Backwards(vocabulary, tokenizer.merges)
    no_end = train_tokenizer([TEXT], vocabulary_size=300, end_token=False)
    two = ChatTemplate(
        roles={"bot": ("", "\n"), "assistant": ("", "\n")}, answer_role="bot"
    )
    for arguments, message in [
        (dict(quantization="int3"), "quantization must be of none"),
        (dict(context_length=65), r"context_length must be an integer in \[2, 64\]"),
        (dict(context_length=61), "context_length must be no prime .* give 60"),
        (dict(prefill_lengths=[31, 62]), "prefill_lengths must hold no prime"),
        (dict(prefill_lengths=[3]), "prefill_lengths must rise"),
        (dict(text=""), "text must have two tokens"),
        (dict(task=GPTCausalLM(backbone)), "got a GPTCausalLM without one"),
        (dict(task=GPTTextClassifier(backbone, num_classes=2)), "got a GPTTextClass"),
        (dict(task=model_of(backwards)), "got a Backwards, which gives other ids"),
        (dict(task=model_of(no_end)), "must have an end token"),
        (dict(task=model_of(tokenizer, chat_template=two)), "must be assistant where"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_litertlm(**{"task": causal_lm, "path": path, **arguments})
        assert not list(tmp_path.iterdir())
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=f"path must be new, but {path} exists"):
        export_litertlm(causal_lm, path)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("module", "name"),
    [("litert_lm_builder", "LiteRT-LM's builder"), ("ai_edge_litert", "LiteRT")],
)
def test_what_to_install(causal_lm, tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"{module}.interpreter", raising=False)
    message = rf"{name} is not installed: pip install 'keras-gpt\[litert\]'"
    with pytest.raises(ImportError, match=message):
        export_litertlm(causal_lm, tmp_path / "model.litertlm")
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_holds_something_else_is_not_written(
    causal_lm, tmp_path, monkeypatch
):
    def model(task, path, *arguments, **named):
        path.write_bytes(b"TFLite" * 99)

    write = litertlm._write_bundle

    def bundle(builder, path, folder, metadata):
        write(builder, path, folder, metadata)
        (folder / "model.tflite").write_bytes(b"other")

    monkeypatch.setattr(litertlm, "_write_bundle", bundle)
    monkeypatch.setattr(litertlm, "export_tflite", model)
    with pytest.raises(litertlm.ExportError, match="the bundle must hold"):
        export_litertlm(causal_lm, tmp_path / "model.litertlm")
    assert not list(tmp_path.iterdir())
