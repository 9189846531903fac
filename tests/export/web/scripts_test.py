"""The page's tokenizer and knobs, run by node: they do as the library's."""

import json
import random
import shutil
import subprocess

import numpy as np
import pytest

from keras_gpt.export.model_card import tokenizer_fingerprint
from keras_gpt.export.web import folder
from keras_gpt.generation import SETTINGS
from keras_gpt.tokenizer import GPTTokenizer, gpt2_files, unicode_classes

TOKENIZE = """
import { readFileSync } from "node:fs";
import { TextStream, Tokenizer } from "./tokenizer.js";
const read = (name) => readFileSync(name, "utf8");
const tokenizer = new Tokenizer(
  JSON.parse(read("tokenizer.json")), read("unicode_classes.txt"));
const { texts, rows } = JSON.parse(read("cases.json"));
const streamed = rows.map((ids) => {
  const stream = new TextStream();
  return ids.map((id) => stream.push(tokenizer.bytes[id])).join("") + stream.end();
});
console.log(JSON.stringify({
  ids: texts.map((text) => tokenizer.tokenize(text)),
  texts: streamed,
  fingerprint: tokenizer.fingerprint(),
}));
"""
TEXTS = [
    *("", " ", "  ", "\n", " \n \n", "a", " a", "  a", "a ", "a  ", "\ta\t\t b"),
    *("don't you'll I'm we've he'd they're it's", "'tis 'S 'sx ''s !'s 's's", "'"),
    *("a\u00a0b\u00a0\u00a0c\u3000 d\u2028e\u0085f\ufeffg", "x\r\n\r\ny \r z"),
    *("caf\u00e9 cafe\u0301 \u4e2d\u6587\u5b57 \u3042\u3044", "\u00bd\u2167 12 \u0663"),
    *("\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 ok", "\x00\x01\x7f\x1b"),
    *("<|endoftext|>", "a<|endoftext|>b", "The king's men  know, my lord!\n\n  O"),
    *("aaaaaaaaaaaaaaaaaaaaaaaa", "    x     y", "\ufffd\ufffe\uffff\U0010ffff"),
]


def run(script, where):
    """Runs a module in a folder with the page's own; returns what it prints."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs the page's modules.")
    shutil.copytree(folder.PAGE, where, dirs_exist_ok=True)
    (where / "package.json").write_text('{"type": "module"}')
    (where / "script.js").write_text(script)
    done = subprocess.run(  # noqa: S603
        [node, "script.js"], cwd=where, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fuzzed(count):
    """Texts of characters of all classes, and of those where classes change."""
    draw = random.Random(5)
    edges = np.flatnonzero(np.diff(unicode_classes.class_of_code_points()))
    common = "ab Z09 .,!'\n\t  stremvld\u00e9\u4e2d\U0001f600"
    texts = []
    for _ in range(count):
        characters = []
        for _ in range(draw.randrange(1, 30)):
            point = int(draw.choice(edges)) + draw.randrange(2)
            if draw.random() < 0.7 or 0xD800 <= point < 0xE000:
                characters.append(draw.choice(common))
            else:
                characters.append(chr(point))
        texts.append("".join(characters))
    return texts


def check(tokenizer, texts, where):
    draw = random.Random(6)
    size = tokenizer.vocabulary_size()
    rows = [[draw.randrange(size) for _ in range(20)] for _ in range(200)]
    folder.write_tokenizer(where, tokenizer)
    (where / "cases.json").write_text(json.dumps({"texts": texts, "rows": rows}))
    found = run(TOKENIZE, where)
    want = tokenizer.tokenize(texts).to_list()
    for text, ids, wanted in zip(texts, found["ids"], want, strict=True):
        assert ids == wanted, repr(text)
    whole = [b.decode(errors="replace") for b in tokenizer.detokenize(rows).numpy()]
    assert found["texts"] == whole
    assert found["fingerprint"] == tokenizer_fingerprint(tokenizer)


def test_ids_are_those_of_the_library(tokenizer, tmp_path):
    check(tokenizer, [*TEXTS, *fuzzed(3000)], tmp_path)


def test_gpt2s_vocabulary(shared_data, tmp_path):
    tokenizer = GPTTokenizer(
        vocabulary=shared_data / "gpt2_encoder.json",
        merges=shared_data / "gpt2_vocab.bpe",
    )
    lines = (shared_data / "wikitext2_valid.txt").read_text().splitlines()[:400]
    poems = (shared_data / "tang_poems_plain.txt").read_text()[:2000]
    check(tokenizer, [*TEXTS, *fuzzed(1000), *lines, poems], tmp_path)


@pytest.mark.parametrize("kind", ["special", "foreign", "twice", "characters"])
def test_vocabularies_of_other_kinds(kind, tmp_path):
    characters = list(gpt2_files.byte_characters().values())
    merges, special = ["a b", "ab c", "a a", "aa a"], None
    tokens = [*characters, "ab", "abc", "aa", "aaa"]
    if kind == "special":  # not in the order of their ids, and spelt as any text
        tokens += ["<\u4e2d>", "<|endoftext|>", 'say "\u00e9"\\']
        special = ['say "\u00e9"\\', "<|endoftext|>", "<\u4e2d>"]
    elif kind == "foreign":
        tokens += ["\u4e2d a", "__proto__"]
    elif kind == "twice":  # and no merge in order of rank
        merges = ["ab c", "a b", "aa a", "a a", "ab c"]
    else:  # which drop what they lack
        tokens, merges = ["a", "b", "ab", "Ġ"], ["a b"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = GPTTokenizer(vocabulary, merges, special_tokens=special)
    draw = random.Random(7)
    words = ["".join(draw.choices("abc ", k=12)) for _ in range(500)]
    check(tokenizer, [*TEXTS, *words], tmp_path)


def test_knobs_are_the_librarys_settings(tmp_path):
    probes = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0, 1e39]
    script = f"""
    import {{ KNOBS, halves, seedOf, settingsOf }} from "./knobs.js";
    const initial = Object.fromEntries(
      Object.entries(KNOBS).map(([name, knob]) => [name, String(knob.initial)]));
    const tried = (name, text) => {{
      try {{
        return settingsOf({{ ...initial, [name]: text }})[name];
      }} catch (error) {{
        return [error.field, error.message];
      }}
    }};
    const found = {{}};
    for (const name of Object.keys(KNOBS)) {{
      found[name] = {{ ...KNOBS[name], nothing: tried(name, ""),
        word: tried(name, "0x1"), tried: {json.dumps(probes)}.map(String).map(
          (text) => tried(name, text)) }};
    }}
    const seeds = ["7", "-5", String(2n ** 40n + 3n), String(-(2n ** 63n))];
    const refused = ["x", "1.5", String(2n ** 63n)].map((text) => {{
      try {{ return String(seedOf(text)); }} catch (error) {{ return error.message; }}
    }});
    const commas = [tried("top_p", "0,5"), tried("top_k", "1,5")];
    console.log(JSON.stringify({{ found, refused, commas,
      halves: seeds.map((text) => halves(seedOf(text))) }}));
    """
    result = run(script, tmp_path)
    assert {*result["found"], "seed"} == set(SETTINGS)
    for name, setting in SETTINGS.items():
        if name == "seed":
            continue
        knob = result["found"][name]
        is_integer = setting.dtype.is_integer
        assert (knob["initial"], knob["rule"]) == (setting.default, setting.rule)
        assert bool(knob.get("isInteger")) == is_integer
        for probe, got in zip(probes, knob["tried"], strict=True):
            with np.errstate(over="ignore"):
                value = np.float32(probe)
            holds = bool(setting.holds(value))
            if is_integer:
                holds = holds and probe == int(probe) and probe < 2**31
            if holds:
                assert got == probe, name
            else:
                assert got[0] == name
                assert got[1].startswith(f"{knob['label']} ({name}) must be")
                assert setting.rule in got[1]
        assert knob["nothing"][1].endswith("got nothing.")
        assert knob["word"][1].endswith("got 0x1.")
    want = [np.array([x], np.int64).view(np.int32).tolist() for x in (7, -5)]
    want += [
        np.array([x], np.int64).view(np.int32).tolist() for x in (2**40 + 3, -(2**63))
    ]
    assert result["halves"] == want
    assert result["commas"] == [0.5, ["top_k", result["commas"][1][1]]]
    assert all("seed must be a whole number in" in text for text in result["refused"])
