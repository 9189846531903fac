"""The sides of the decoding benchmark, each in a process of its own.

Usage: python -P decode_sides.py WORK < job.json

The last line of the output is the result, as JSON. It is run by its path and imports
nothing at its top, so that each process holds the libraries of its side alone: the
SavedModel's has only tensorflow. A job is a dict of

- `model`: arguments of `GPTBackbone.from_size`; `config`: the `GPTConfig` they mean
- `folder`: tokenizer files, and what `export` and `convert` wrote beside them
- `prompts`: list of strings (B), all of `prompt_tokens` tokens
- `new_tokens`: int, and `seconds`: float, least time of one measurement
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import runpy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]
# Takes a number of new tokens, returns how many each row got.
Generate = Callable[[int], int]

FIRST_TOKEN_CALLS = 5
REPEATS = 3  # of each timed call in the comparisons with ourselves
GREEDY: dict[str, Any] = {"temperature": 0.0, "stop_token_ids": None}


def measure(side: str, job: Job) -> dict[str, float]:
    """Measures one side.

    Returns:
        `tokens_per_second` of whole calls after the first, all rows together;
        `first_token_seconds`, of a call for one new token; `peak_megabytes` of the
        process, and `beyond_import_megabytes`, the same less what it held before
        the model was made.
    """
    modules, build = SIDES[side]
    for module in modules:
        importlib.import_module(module)
    imported, _ = memory_megabytes()
    generate = build(job)
    speed = _tokens_per_second(generate, job)
    _, peak = memory_megabytes()
    _check_count(generate(1), 1)  # traces and compiles, where a side does
    first = [_seconds(lambda: generate(1)) for _ in range(FIRST_TOKEN_CALLS)]
    return {
        "tokens_per_second": speed,
        "first_token_seconds": statistics.median(first),
        "peak_megabytes": peak,
        "beyond_import_megabytes": peak - imported,
    }


def _tokens_per_second(generate: Generate, job: Job) -> float:
    _check_count(generate(job["new_tokens"]), job["new_tokens"])
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < job["seconds"]:
        generate(job["new_tokens"])
        calls += 1
    seconds = time.perf_counter() - started
    return calls * len(job["prompts"]) * job["new_tokens"] / seconds


def _check_count(made: int, asked: int) -> None:
    if made != asked:
        raise RuntimeError(f"each row must get {asked} new tokens, got {made}.")


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def memory_megabytes() -> tuple[float, float]:
    """Returns the resident memory of this process, now and at its peak."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:  # not Linux: the peak so far stands for both
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        return peak, peak
    # On Linux ru_maxrss begins with the memory of the process that started this one.
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if " kB" in line}
    return int(sizes["VmRSS"]) * 1024 / 1e6, int(sizes["VmHWM"]) * 1024 / 1e6


def _language_model(job: Job) -> Any:
    """Returns a random `GPTCausalLM` with the folder's tokenizer."""
    import keras_gpt

    folder = Path(job["folder"])
    tokenizer = keras_gpt.GPTTokenizer(
        vocabulary=folder / "vocab.json", merges=folder / "merges.txt"
    )
    backbone = keras_gpt.GPTBackbone.from_size(**job["model"])
    preprocessor = keras_gpt.GPTCausalLMPreprocessor(
        tokenizer, sequence_length=job["config"]["max_sequence_length"]
    )
    return keras_gpt.GPTCausalLM(backbone, preprocessor)


def _python(job: Job) -> Generate:
    lm = _language_model(job)

    def generate(count: int) -> int:
        lm.generate(job["prompts"], max_new_tokens=count, strip_prompt=True, **GREEDY)
        return count  # strings do not tell, but nothing stops them earlier

    return generate


def _saved_model(job: Job) -> Generate:
    import tensorflow as tf

    signatures, generate_any = _load_saved_model(job)
    text = tf.constant(job["prompts"])

    def generate(count: int) -> int:
        if count != job["new_tokens"]:  # what serving_default was exported with
            return generate_any(count)
        signatures["serving_default"](text=text)["generated_text"].numpy()
        return count  # `export` has counted them

    return generate


def _load_saved_model(job: Job) -> tuple[Any, Generate]:
    """Returns the signatures, and what the one named `generate` does."""
    import tensorflow as tf

    folder = f"{job['folder']}/saved_model/1"
    signatures = tf.saved_model.load(folder).signatures
    defaults = _signature_defaults(folder, "generate")

    def generate_any(count: int) -> int:
        inputs = {**defaults, "max_new_tokens": tf.constant([count])}
        found = signatures["generate"](text=tf.constant(job["prompts"]), **inputs)
        return int(found["num_tokens"].numpy().min())

    return signatures, generate_any


def _signature_defaults(folder: str, signature: str) -> dict[str, Any]:
    # By its path: to import it would be to import the library.
    runner = Path(__file__).parents[2] / "export" / "run_saved_model.py"
    return runpy.run_path(str(runner))["signature_defaults"](folder)[signature]


def export(job: Job) -> None:
    """Writes the SavedModel, whose texts all have `new_tokens` tokens."""
    from keras_gpt.export import export_saved_model

    count, folder = job["new_tokens"], f"{job['folder']}/saved_model"
    settings = {"temperature": 0.0, "max_new_tokens": count}
    export_saved_model(_language_model(job), folder, version=1, **settings)
    _, generate = _load_saved_model(job)
    _check_count(generate(count), count)


def export_tflite(job: Job) -> None:
    """Writes TFLite files: one of each quantization, and one that fits the texts."""
    from keras_gpt import export

    lm, folder = _language_model(job), job["folder"]
    for quantization in ("none", "int8"):
        export.export_tflite(lm, f"{folder}/{quantization}.tflite", quantization)
    size = job["prompt_tokens"] + job["new_tokens"]
    export.export_tflite(lm, f"{folder}/loop.tflite", "int8", context_length=size)


def _litert(job: Job, *, quantization: str) -> Generate:
    import keras_gpt
    from keras_gpt.export import LiteRTGenerator

    folder = Path(job["folder"])
    tokenizer = keras_gpt.GPTTokenizer(
        vocabulary=folder / "vocab.json", merges=folder / "merges.txt"
    )
    generator = LiteRTGenerator(folder / f"{quantization}.tflite", tokenizer)

    def generate(count: int) -> int:
        prompts = job["prompts"]
        generator.generate(prompts, max_new_tokens=count, strip_prompt=True, **GREEDY)
        return count  # strings do not tell, but nothing stops them earlier

    return generate


def _litert_loop(job: Job) -> Generate:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    threads = os.cpu_count() or 1
    interpreter = Interpreter(f"{job['folder']}/loop.tflite", num_threads=threads)
    signature = interpreter.get_signature_runner("generate")
    inputs = {
        name: np.zeros(one["shape"], one["dtype"])
        for name, one in signature.get_input_details().items()
    }
    # All settings are off: 1 for these, 0 for the others.
    for name in ("repetition_penalty", "top_p", "typical_p"):
        inputs[name][:] = 1
    inputs["stop_tokens"][:] = -1
    (ids,) = _random_ids(job)  # there is one row
    inputs["tokens"][0, : len(ids)] = ids
    inputs["num_tokens"][:] = len(ids)

    def generate(count: int) -> int:
        inputs["max_new_tokens"][:] = count
        return int(signature(**inputs)["num_new_tokens"][0])

    return generate


def _random_ids(job: Job) -> Any:
    import numpy as np

    shape = (len(job["prompts"]), job["prompt_tokens"])
    size = job["config"]["vocabulary_size"]
    return np.random.default_rng(0).integers(0, size, shape, np.int32)


def _random_transformers_model(config: dict[str, Any]) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config["vocabulary_size"],
            n_positions=config["max_sequence_length"],
            n_embd=config["hidden_dim"],
            n_layer=config["num_layers"],
            n_head=config["num_heads"],
            bos_token_id=None,
            eos_token_id=None,  # no stop token
        )
    ).eval()


def _transformers(job: Job) -> Generate:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    model = _random_transformers_model(job["config"])
    ids = torch.tensor(_random_ids(job), dtype=torch.long)
    mask = torch.ones_like(ids)

    def generate(count: int) -> int:
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                use_cache=True,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=0,
            )
        return found.shape[1] - ids.shape[1]

    return generate


def _kerashub(job: Job, *, jit_compile: bool) -> Generate:
    import keras_hub
    import numpy as np

    names = ["vocabulary_size", "num_layers", "num_heads", "hidden_dim"]
    names += ["intermediate_dim", "max_sequence_length"]
    backbone = keras_hub.models.GPT2Backbone(
        dropout=0.0, **{name: job["config"][name] for name in names}
    )
    lm = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    lm.compile(sampler="greedy", jit_compile=jit_compile)
    ids = _random_ids(job)

    def generate(count: int) -> int:
        padding = [(0, 0), (0, count)]
        inputs = {
            "token_ids": np.pad(ids, padding),
            "padding_mask": np.pad(np.ones_like(ids), padding),
        }
        found = lm.generate(inputs, stop_token_ids=None)
        return int(found["padding_mask"].sum(axis=1).min()) - ids.shape[1]

    return generate


def convert(job: Job) -> None:
    """Writes a random model for CTranslate2, with made-up names of tokens."""
    from types import SimpleNamespace

    from ctranslate2.converters import TransformersConverter

    model = _random_transformers_model(job["config"])
    ids = range(job["config"]["vocabulary_size"])
    names = SimpleNamespace(
        get_vocab=lambda: {f"t{index}": index for index in ids},
        bos_token="t0",
        eos_token="t0",
        unk_token="t0",
    )

    class Converter(TransformersConverter):
        def load_model(self, *_: Any, **__: Any) -> Any:
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return names

    folder = Path(job["folder"])
    model.config.save_pretrained(folder / "transformers")
    Converter(str(folder / "transformers")).convert(str(folder / "ctranslate2"))


def _ctranslate2(job: Job, *, compute_type: str) -> Generate:
    import ctranslate2

    generator = ctranslate2.Generator(
        f"{job['folder']}/ctranslate2",
        compute_type=compute_type,
        inter_threads=1,
        intra_threads=os.cpu_count() or 1,
    )
    prompts = [[f"t{index}" for index in row] for row in _random_ids(job)]

    def generate(count: int) -> int:
        found = generator.generate_batch(
            prompts,
            min_length=count,
            max_length=count,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return min(len(row.sequences_ids[0]) for row in found)

    return generate


_LITERT = ("keras_gpt.export", "ai_edge_litert.compiled_model")
# Side to the modules that it imports before its model is made, and what makes it.
SIDES: dict[str, tuple[tuple[str, ...], Callable[[Job], Generate]]] = {
    "saved_model": (("tensorflow",), _saved_model),
    "python": (("keras_gpt",), _python),
    "transformers": (
        ("torch", "transformers.models.gpt2.modeling_gpt2"),
        _transformers,
    ),
    "kerashub_jit": (
        ("keras_hub",),
        lambda job: _kerashub(job, jit_compile=True),
    ),
    "kerashub_no_jit": (
        ("keras_hub",),
        lambda job: _kerashub(job, jit_compile=False),
    ),
    "ctranslate2": (
        ("ctranslate2",),
        lambda job: _ctranslate2(job, compute_type="float32"),
    ),
    "ctranslate2_int8": (
        ("ctranslate2",),
        lambda job: _ctranslate2(job, compute_type="int8"),
    ),
    "litert": (_LITERT, lambda job: _litert(job, quantization="none")),
    "litert_int8": (_LITERT, lambda job: _litert(job, quantization="int8")),
    "litert_loop": (("ai_edge_litert.interpreter",), _litert_loop),
}


def token_times(job: Job) -> list[float]:
    """Measures the seconds per token behind each of several prompts, alone.

    The time of a call for `new_tokens` less that of a call for one leaves out the
    prompt, which is the same in both.
    """
    lm, count = _language_model(job), job["new_tokens"]

    def seconds(prompt: str, new_tokens: int) -> float:
        settings = {**GREEDY, "max_new_tokens": new_tokens}
        return _seconds(lambda: lm.generate([prompt], **settings))

    def rates() -> list[float]:
        return [
            (seconds(prompt, count) - seconds(prompt, 1)) / (count - 1)
            for prompt in job["prompts"]
        ]

    rates()  # warms up
    repeats = zip(*(rates() for _ in range(REPEATS)), strict=True)
    return [statistics.median(found) for found in repeats]


def speculation(job: Job) -> dict[str, Any]:
    """Measures decoding with prompt lookup beside plain decoding, call by call.

    Returns:
        `tokens_per_second` of `plain` and `prompt_lookup`, all rows together; the
        `ratio` of the times of paired calls; the `acceptance_rate`, accepted over
        drafted tokens, or `None`; and whether the texts are the same.
    """
    lm = _language_model(job)

    def generate(**options: Any) -> Any:
        options = {**GREEDY, "max_new_tokens": job["new_tokens"], **options}
        return lm.generate(job["prompts"], **options)

    def drafted(**options: Any) -> Any:
        return generate(draft="prompt_lookup", **options)

    same = generate() == drafted()  # warms up, too
    pairs = [(_seconds(generate), _seconds(drafted)) for _ in range(REPEATS)]
    tokens = len(job["prompts"]) * job["new_tokens"]
    plain, lookup = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "tokens_per_second": {
            "plain": tokens / plain,
            "prompt_lookup": tokens / lookup,
        },
        "ratio": statistics.median(slow / quick for slow, quick in pairs),
        "acceptance_rate": drafted(return_details=True).acceptance_rate,
        "same_text": same,
    }


WORKS: dict[str, Callable[[Job], Any]] = {
    "export": export,
    "export_tflite": export_tflite,
    "convert": convert,
    "token_times": token_times,
    "speculation": speculation,
}


def main() -> None:
    """Does one work, or measures one side."""
    name, job = sys.argv[1], json.load(sys.stdin)
    result = WORKS[name](job) if name in WORKS else measure(name, job)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
