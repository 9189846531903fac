"""Hugging Face's files of a tokenizer: what is read, refused and written.

`tokenizer.json` describes a whole pipeline (normalizer, pre-tokenizer, model, ...) of
the `tokenizers` library. Two of these pipelines are ours, GPT-2's and GPT-1's. Of any
other, whatever would change ids or text is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from keras_gpt.tokenizer import gpt2_files
from keras_gpt.tokenizer.gpt2_files import PathLike
from keras_gpt.tokenizer.special_tokens import END_TOKEN, UNKNOWN_TOKEN
from keras_gpt.whole_files import write_whole

WORD_END = "</w>"

WHOLE_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"
# transformers' names, then those of OpenAI's release.
PAIRS = ((VOCABULARY_FILE, MERGES_FILE), ("encoder.json", "vocab.bpe"))

# Radford et al. 2019, encoder.py of the release.
GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)

Component = dict[str, Any]


class Format(NamedTuple):
    """One of the two pipelines.

    Attributes:
        tokenizer_class: name of transformers' class.
        special_tokens: names of special tokens that the vocabulary may have.
        unknown_token: string, or None. What unknown characters become.
        word_end: string, or None. What a word's last symbol ends in.
        normalizers: what the normalizer may be: lists of steps.
        pre_tokenizers: likewise.
        decoders: likewise.
    """

    tokenizer_class: str
    special_tokens: tuple[str, ...]
    unknown_token: str | None
    word_end: str | None
    normalizers: tuple[list[Component], ...]
    pre_tokenizers: tuple[list[Component], ...]
    decoders: tuple[list[Component], ...]


_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_GPT2_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": GPT2_PATTERN},
    "behavior": "Isolated",
    "invert": False,
}
_BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
GPT2 = Format(
    tokenizer_class="GPT2Tokenizer",
    special_tokens=(END_TOKEN,),
    unknown_token=None,
    word_end=None,
    normalizers=([],),
    pre_tokenizers=([_BYTE_LEVEL], [_GPT2_SPLIT, {**_BYTE_LEVEL, "use_regex": False}]),
    decoders=([_BYTE_LEVEL],),
)
GPT1 = Format(
    tokenizer_class="OpenAIGPTTokenizer",
    special_tokens=(UNKNOWN_TOKEN, END_TOKEN),
    unknown_token=UNKNOWN_TOKEN,
    word_end=WORD_END,
    # Lower-casing strips accents unless it is told not to.
    normalizers=([_BERT], [{**_BERT, "strip_accents": True}]),
    pre_tokenizers=([{"type": "BertPreTokenizer"}],),
    decoders=([{"type": "BPEDecoder", "suffix": WORD_END}],),
)


class Contents(NamedTuple):
    """What a tokenizer is made of.

    Attributes:
        vocabulary: id by token, special tokens included.
        merges: lines "left right" in order of rank.
        special_tokens: names.
        source: the files they came from, for messages.
    """

    vocabulary: dict[str, int]
    merges: list[str]
    special_tokens: list[str]
    source: str = ""


def read_folder(folder: PathLike, form: Format) -> Contents | None:
    """Reads the tokenizer's files of a folder, or returns None if it has none.

    Args:
        folder: path.
        form: `GPT2` or `GPT1`; files of another pipeline are refused.

    Raises:
        ValueError: if a file is broken or of another pipeline.
        OSError: if a file cannot be read, or one of a pair is missing.
    """
    folder = Path(folder)
    _check_config(folder / CONFIG_FILE)
    if (folder / WHOLE_FILE).exists():
        return _read_whole(folder / WHOLE_FILE, form)
    pairs = [(folder / vocabulary, folder / merges) for vocabulary, merges in PAIRS]
    for pair in pairs:
        if all(path.exists() for path in pair):
            return _read_pair(*pair, form)
    for pair in pairs:
        for here, other in (pair, pair[::-1]):
            if here.exists():
                raise FileNotFoundError(f"{here} must have {other} beside it.")
    return None


def _check_config(path: Path) -> None:
    """Refuses what transformers takes from its own file, over the others."""
    config = _read_object(path) if path.exists() else {}
    for key in ("add_prefix_space", "add_bos_token", "add_eos_token"):
        _require(path, key, config.get(key) or False, False)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must be a JSON object, got a {type(content).__name__}."
        )
    return content


def _require(path: Path, key: str, found: Any, *supported: Any) -> None:
    """Raises unless the value is one of those that are supported."""
    if not any(found == value for value in supported):
        values = " or ".join(_shown(value) for value in supported)
        raise ValueError(f"{path}: {key} must be {values}, got {_shown(found)}.")


def _shown(value: Any) -> str:
    """Value as JSON, cut where it gets long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _read_pair(vocabulary_path: Path, merges_path: Path, form: Format) -> Contents:
    vocabulary = gpt2_files.read_vocabulary(vocabulary_path)
    if form.word_end and not any(t.endswith(form.word_end) for t in vocabulary):
        raise ValueError(
            f"{vocabulary_path} must have tokens that end in {form.word_end!r}, "
            "got none."
        )
    added_path = vocabulary_path.with_name(ADDED_FILE)
    added = _read_object(added_path) if added_path.exists() else {}
    for token, index in added.items():
        _add(vocabulary, token, index, path=added_path, key=json.dumps(token))
    return Contents(
        vocabulary=vocabulary,
        merges=gpt2_files.read_merges(merges_path),
        special_tokens=_special_tokens(vocabulary, list(added), form),
        source=f"{vocabulary_path} and {merges_path.name}",
    )


def _read_whole(path: Path, form: Format) -> Contents:
    raw = _read_object(path)
    if isinstance(raw.get("model"), dict):
        # With merges that have no such prefix, the library would not raise but panic.
        prefix = raw["model"].get("continuing_subword_prefix")
        _require(path, "model.continuing_subword_prefix", prefix, None, "")
    try:
        pipeline = tokenizers.Tokenizer.from_str(json.dumps(raw))
    except Exception as error:  # The library raises nothing narrower.
        raise ValueError(
            f"{path} must be a file of the `tokenizers` library: {error}."
        ) from error
    # As the library writes it today: complete, with its defaults, whatever its age.
    content = json.loads(pipeline.to_str())
    model = content["model"]
    _check_model(path, model, form)
    for key, parts, supported in (
        ("normalizer", "normalizers", form.normalizers),
        ("pre_tokenizer", "pretokenizers", form.pre_tokenizers),
        ("decoder", "decoders", form.decoders),
    ):
        _check_steps(path, key, list(_steps(content[key], parts)), supported)
    for step in _steps(content["post_processor"], "processors"):
        _check_post_processor(path, step)
    vocabulary = model["vocab"]
    # The library gives added tokens ids of its own where those of the file are taken.
    added = _read_added(path, raw.get("added_tokens") or [], form, vocabulary)
    found = Contents(
        vocabulary=vocabulary,
        merges=_read_merges(path, model["merges"]),
        special_tokens=_special_tokens(vocabulary, added, form),
        source=str(path),
    )
    if model["ignore_merges"]:
        _check_merges_make_words(path, found, form)
    return found


def _check_model(path: Path, model: Component, form: Format) -> None:
    _require(path, "model.type", model["type"], "BPE")
    _require(path, "model.dropout", model["dropout"], None, 0)
    suffixes = (form.word_end,) if form.word_end else (None, "")
    suffix = model["end_of_word_suffix"]
    _require(path, "model.end_of_word_suffix", suffix, *suffixes)
    _require(path, "model.byte_fallback", model["byte_fallback"], False)
    vocabulary, unknown = model["vocab"], model["unk_token"]
    if form.unknown_token in vocabulary:
        _require(path, "model.unk_token", unknown, form.unknown_token)
        _require(path, "model.fuse_unk", model["fuse_unk"], False)
    elif form.unknown_token:
        _require(path, "model.unk_token", unknown, None, form.unknown_token)
    elif not all(c in vocabulary for c in gpt2_files.byte_characters().values()):
        # Bytes that the vocabulary lacks are dropped.
        _require(path, "model.unk_token", unknown, None)


def _steps(step: Component | None, parts: str) -> Iterator[Component]:
    """Yields the steps of a part of the pipeline, those in sequences one by one."""
    if step is not None and step["type"] == "Sequence":
        for part in step[parts]:
            yield from _steps(part, parts)
    elif step is not None:
        yield step


def _check_steps(
    path: Path,
    key: str,
    found: list[Component],
    supported: tuple[list[Component], ...],
) -> None:
    found = [_plain(step, key) for step in found]
    plain = [[_plain(step, key) for step in steps] for steps in supported]
    if found in plain:
        return
    if len(found) == 1 and [found[0]["type"]] == [step["type"] for step in plain[0]]:
        # Say which of its settings it is.
        for name, value in plain[0][0].items():
            _require(path, f"{key}.{name}", found[0][name], value)
    values = [steps[0] if len(steps) == 1 else steps or None for steps in plain]
    _require(path, key, found[0] if len(found) == 1 else found or None, *values)


def _plain(step: Component, key: str) -> Component:
    """A step without the settings that change neither ids nor text."""
    harmless: set[str] = set()
    if step["type"] == "ByteLevel":
        harmless = {"trim_offsets"}
        if key == "decoder":
            harmless |= {"add_prefix_space", "use_regex"}
    return {name: value for name, value in step.items() if name not in harmless}


def _check_post_processor(path: Path, step: Component) -> None:
    """Refuses steps that add tokens."""
    kind = step["type"]
    _require(path, "post_processor.type", kind, "ByteLevel", "TemplateProcessing")
    if kind == "TemplateProcessing":
        for key, names in (("single", ["A"]), ("pair", ["A", "B"])):
            found = [part.get("Sequence", {}).get("id") for part in step[key]]
            if found != names:
                raise ValueError(
                    f"{path}: post_processor.{key} must add no tokens to the "
                    f"sequences {_shown(names)}, got {_shown(step[key])}."
                )


def _read_added(
    path: Path, added: list[Component], form: Format, vocabulary: dict[str, int]
) -> list[str]:
    """Adds tokens to the vocabulary and returns their names."""
    names: dict[bool, list[str]] = {False: [], True: []}
    for number, token in enumerate(added):
        key = f"added_tokens[{number}]"
        for flag in ("lstrip", "rstrip", "single_word"):
            _require(path, f"{key}.{flag}", token.get(flag, False), False)
        is_normalized = bool(token.get("normalized", False))
        if form.normalizers[0]:
            _require(path, f"{key}.normalized", is_normalized, False)
        name = token["content"]
        _add(vocabulary, name, token["id"], path=path, key=key)
        names[is_normalized].append(name)
    # Those that are not normalized are found first, wherever they stand.
    for one in names[False]:
        for other in names[True]:
            if _may_overlap(one, other) or _may_overlap(other, one):
                raise ValueError(
                    f"{path}: added_tokens must all be normalized or all not where "
                    f"they may overlap, got {one!r} and {other!r}."
                )
    return names[False] + names[True]


def _add(
    vocabulary: dict[str, int], token: str, index: Any, *, path: Path, key: str
) -> None:
    if type(index) is not int:
        raise ValueError(f"{path}: {key} must have an integer id, got {_shown(index)}.")
    if vocabulary.setdefault(token, index) != index:
        raise ValueError(
            f"{path}: {key} must have the id {vocabulary[token]} of the vocabulary "
            f"for {token!r}, got {_shown(index)}."
        )


def _may_overlap(one: str, other: str) -> bool:
    """Whether `other` may begin where `one` stands."""
    ends = [one[start:] for start in range(len(one))]
    return any(other.startswith(end) or end.startswith(other) for end in ends)


def _special_tokens(
    vocabulary: dict[str, int], added: list[str], form: Format
) -> list[str]:
    """Names in the order of ids, so that all kinds of files give the same."""
    defaults = (t for t in form.special_tokens if isinstance(vocabulary.get(t), int))
    return sorted({*added, *defaults}, key=vocabulary.__getitem__)


def _read_merges(path: Path, merges: list[str | list[str]]) -> list[str]:
    lines = []
    for rank, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        # Lines "left right" have no other way to tell the two apart.
        if len(pair) != 2 or not all(len(token.split()) == 1 for token in pair):
            raise ValueError(
                f"{path}: model.merges must be pairs of tokens without white space, "
                f"got {_shown(merge)} at {rank}."
            )
        lines.append(" ".join(pair))
    return lines


def _check_merges_make_words(path: Path, found: Contents, form: Format) -> None:
    """Refuses `ignore_merges` where it gives a word another token than merges do."""
    pipeline = build_pipeline(found, form)
    for token, index in found.vocabulary.items():
        if token in found.special_tokens:
            continue
        text = gpt2_files.to_bytes(token) if form is GPT2 else token.encode()
        normalized = text.decode("utf-8", "ignore")
        if pipeline.normalizer is not None:
            normalized = pipeline.normalizer.normalize_str(normalized)
        words = pipeline.pre_tokenizer.pre_tokenize_str(normalized)
        if [word for word, _ in words] != [token]:
            continue
        if [merged.id for merged in pipeline.model.tokenize(token)] != [index]:
            raise ValueError(
                f"{path}: model.ignore_merges must be false where merges do not make "
                f"every word of the vocabulary, got true, and no merges to {token!r}."
            )


def write_folder(
    folder: PathLike, contents: Contents, form: Format, *, max_length: int
) -> None:
    """Writes the files that transformers' `AutoTokenizer` reads.

    Args:
        folder: path; made if absent.
        contents: what the tokenizer is made of.
        form: `GPT2` or `GPT1`.
        max_length: int. Longest input of the model, in tokens.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = build_pipeline(contents, form).to_str(pretty=True)
    write_whole(folder / WHOLE_FILE, text)
    gpt2_files.write_vocabulary(folder / VOCABULARY_FILE, contents.vocabulary)
    gpt2_files.write_merges(folder / MERGES_FILE, contents.merges)
    config = _written_config(contents, form, max_length)
    write_whole(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def build_pipeline(contents: Contents, form: Format) -> tokenizers.Tokenizer:
    """Makes the pipeline with the `tokenizers` library; see `whole_file`."""
    return tokenizers.Tokenizer.from_str(json.dumps(whole_file(contents, form)))


def whole_file(contents: Contents, form: Format) -> Component:
    """Returns what `tokenizer.json` says, as plain data.

    Args:
        contents: what the tokenizer is made of. The names of its special tokens, if
            any, are found in text.
        form: `GPT2` or `GPT1`.
    """
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    unknown = form.unknown_token if form.unknown_token in contents.vocabulary else None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": contents.vocabulary[name], "content": name, **flags, "special": True}
            for name in contents.special_tokens
        ],
        "normalizer": form.normalizers[0][0] if form.normalizers[0] else None,
        "pre_tokenizer": form.pre_tokenizers[0][0],
        "post_processor": None,
        "decoder": form.decoders[0][0],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": form.word_end,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": contents.vocabulary,
            "merges": [line.split(" ") for line in contents.merges],
        },
    }


def _written_config(
    contents: Contents, form: Format, max_length: int
) -> dict[str, Any]:
    """Returns the content of tokenizer_config.json.

    transformers' classes add their default tokens to the vocabulary, after its end,
    unless they are said to be null.
    """
    end_token = END_TOKEN if END_TOKEN in contents.vocabulary else None
    config = {
        "tokenizer_class": form.tokenizer_class,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "bos_token": end_token,
        "eos_token": end_token,
        "unk_token": end_token,
    }
    if form is GPT2:
        return {**config, "add_prefix_space": False}
    has_unknown = UNKNOWN_TOKEN in contents.vocabulary
    config["unk_token"] = UNKNOWN_TOKEN if has_unknown else None
    if not has_unknown:
        # OpenAIGPTTokenizer insists on one; this class takes tokenizer.json as it is.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return config
