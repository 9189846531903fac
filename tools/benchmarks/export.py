"""Size of an exported model, its time to load, and its first requests."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from keras_gpt.config import GPT2_VOCABULARY_SIZE
from keras_gpt.tools.benchmarks import load_saved_model, own_process
from keras_gpt.tools.benchmarks.decode_prompts import made_tokenizer

RUNNER = Path(__file__).parents[2] / "export" / "run_saved_model.py"


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Exports a random model, measures, and prints a table.

    Returns:
        bytes of weights and folder, seconds of each measurement (medians of the
        rounds), and the ratio of the first request to the tenth.
    """
    from keras_gpt.export import export_saved_model

    lm = _language_model(flags)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = export_saved_model(lm, folder, storage_dtype=flags.storage_dtype)
        exporting = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(path).rglob("*"))
        rounds = [
            own_process.measured(
                ["-P", load_saved_model.__file__, path, str(RUNNER)],
                name="loading",
            )
            for _ in range(flags.rounds)
        ]
    item = {"bfloat16": 2, "float16": 2}.get(flags.storage_dtype, 4)
    result = {
        "weight_bytes": lm.backbone.count_params() * item,
        "folder_bytes": size,
        "export_seconds": exporting,
        **{
            f"{name}_seconds": statistics.median(one[name] for one in rounds)
            for name in ("read", "load", "warm_up")
        },
        "first_over_tenth": statistics.median(
            one["requests"][0] / one["requests"][-1] for one in rounds
        ),
    }
    _print(result)
    return result


def _language_model(flags: absl_flags.FlagValues) -> Any:
    import keras

    from keras_gpt import (
        GPTBackbone,
        GPTCausalLM,
        GPTCausalLMPreprocessor,
        GPTTokenizer,
    )

    keras.utils.set_random_seed(0)
    if flags.vocabulary:
        tokenizer = GPTTokenizer(vocabulary=flags.vocabulary, merges=flags.merges)
    else:
        tokenizer = made_tokenizer(GPT2_VOCABULARY_SIZE)
    widths = {
        name: flags[name].value
        for name in ("hidden_dim", "num_layers", "num_heads")
        if flags[name].value is not None
    }
    backbone = GPTBackbone.from_size("gpt2_small", dropout=0.0, **widths)
    return GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer))


def _print(result: dict[str, Any]) -> None:
    weights, folder = result["weight_bytes"], result["folder_bytes"]
    most = 1.5 * result["read_seconds"] + 3.0
    print(
        f"export: {weights / 1e6:,.0f} MB of weights\n"
        f"  folder            {folder / 1e6:9,.1f} MB   {folder / weights - 1:+.1%}\n"
        f"  exporting         {result['export_seconds']:9.1f} s, checks included\n"
        f"  reading the files {result['read_seconds']:9.2f} s\n"
        f"  loading           {result['load_seconds']:9.2f} s   "
        f"(1.5 x reading + 3 s = {most:.2f} s)\n"
        f"  warming up        {result['warm_up_seconds']:9.2f} s\n"
        f"  first request     {result['first_over_tenth']:9.2f} x the tenth"
    )
