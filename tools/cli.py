"""The command `keras-gpt TOOL --flags`."""

from __future__ import annotations

import importlib
import sys

# Tool to what it does; the modules are imported only when they run.
TOOLS = {
    "demo": "from a text to a served model, in a few minutes",
    "train_tokenizer": "learns a vocabulary from text files",
    "prepare_data": "packs text into shards of token ids to train on",
    "pretrain": "trains a GPT on text files",
    "finetune": "fine-tunes a model for a task on labelled examples",
    "generate": "continues prompts",
    "evaluate": "measures perplexity on texts, or a task's scores on examples",
    "convert_checkpoint": "converts a checkpoint to another format",
    "export": "writes a model for servers, devices or browsers",
    "serve": "serves an exported model on this machine, over gRPC and REST",
    "inspect": "tells a model's weights, and what training it takes",
    "benchmark": "compares speeds with those of peers",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    tool, *rest = argv
    if tool not in TOOLS:
        print(
            f"keras-gpt: tool must be one of {', '.join(TOOLS)}, got {tool!r}.",
            file=sys.stderr,
        )
        return 1
    from keras_gpt.tools import command

    return command.run_tool(importlib.import_module(f"keras_gpt.tools.{tool}"), rest)


def _help() -> str:
    width = max(map(len, TOOLS))
    tools = [f"  {name:{width}}  {text}" for name, text in TOOLS.items()]
    return "\n".join(
        [
            "keras-gpt TOOL --flags: GPT models, from raw text to a served model.",
            "",
            "Tools:",
            *tools,
            "",
            "keras-gpt TOOL --help lists a tool's flags.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
