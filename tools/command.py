"""What every tool shares: flags, help, and errors in one line.

A tool is a module with `DESCRIPTION` (one line), `define_flags(flags)` and
`run(flags)`. One that takes words beside flags names them in `WORDS`, a dict of word
to meaning, and gets those given as `run(flags, words)`. Flags live in an
`absl.flags.FlagValues` of the tool's own, so that several tools can be imported into
one process.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping
from types import ModuleType

from absl import flags as absl_flags


class UsageError(Exception):
    """Flags that do not make a whole command."""


EXIT_USAGE = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130


def run_tool(tool: ModuleType, argv: list[str]) -> int:
    """Parses a tool's flags and runs it.

    Args:
        tool: the tool's module.
        argv: arguments, without the tool's name.

    Returns:
        0; 1 for a wrong flag, 2 for bad input, each with one line on standard
        error; 130 if interrupted.
    """
    name = tool.__name__.rpartition(".")[2]
    if name == "__main__":
        name = os.path.splitext(os.path.basename(str(tool.__file__)))[0]
    values = absl_flags.FlagValues()
    tool.define_flags(values)
    if any(argument in ("--help", "-h", "-help") for argument in argv):
        words = getattr(tool, "WORDS", {})
        print(help_text(name, tool.DESCRIPTION, values, words=words))
        return 0
    known: dict[str, str] = getattr(tool, "WORDS", {})
    try:
        words = values([name, *argv])[1:]
        for word in words:
            if word not in known:
                rule = f"; it must be of {', '.join(known)}" if known else ""
                raise absl_flags.Error(f"unexpected argument {word!r}{rule}.")
    except absl_flags.Error as error:
        return _fail(f"keras-gpt {name}: {error}", EXIT_USAGE)
    try:
        tool.run(values, words) if known else tool.run(values)
    except UsageError as error:
        return _fail(f"keras-gpt {name}: {error}", EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail(f"keras-gpt {name}: interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        if not _is_bad_input(error):
            raise
        return _fail(f"keras-gpt {name}: {error}", EXIT_INPUT)
    return 0


def _is_bad_input(error: Exception) -> bool:
    if isinstance(error, ValueError | OSError | RuntimeError):
        return True
    # TensorFlow's own errors of reading and writing files derive from none of these.
    # Looked up, not imported: a tool that failed before needing it stays quick.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


def run_main(module_name: str) -> None:
    """Runs `python -m keras_gpt.tools.TOOL`: the module is `sys.modules[name]`."""
    sys.exit(run_tool(sys.modules[module_name], sys.argv[1:]))


def help_text(
    name: str,
    description: str,
    values: absl_flags.FlagValues,
    *,
    words: Mapping[str, str] | None = None,
) -> str:
    """Returns a tool's help: its words, and its flags with units and defaults."""
    lines = [f"keras-gpt {name}: {description}", ""]
    if words:
        lines += [f"Arguments (default: all of {', '.join(words)}):"]
        lines += [f"  {word}\n      {meaning}" for word, meaning in words.items()]
        lines += [""]
    lines += ["Flags:"]
    for flag_name in sorted(values):
        flag = values[flag_name]
        if flag.name != flag_name or not flag.help:
            continue
        default = "required" if flag.default is None else f"default: {flag.default}"
        if flag.default is None and "optional" in flag.help.lower():
            default = "default: none"
        lines.append(f"  --{flag_name}")
        # absl adds a note on repeating, which the flag's own text already holds.
        meaning = " ".join(flag.help.split(";\n")[0].split())
        text = f"{meaning} ({default})"
        lines += textwrap.wrap(
            text, 80, initial_indent="      ", subsequent_indent="      "
        )
    return "\n".join(lines)


def require(values: absl_flags.FlagValues, *names: str) -> None:
    """Raises `UsageError` unless each flag was given."""
    for name in names:
        if values[name].value in (None, []):
            raise UsageError(f"flag --{name} is required.")


def define_numbers(
    values: absl_flags.FlagValues,
    *,
    integers: Mapping[str, tuple[int | None, str]],
    floats: Mapping[str, tuple[float | None, str]],
) -> None:
    """Defines flags of numbers, given as their names, defaults and meanings."""
    for name, (number, meaning) in integers.items():
        absl_flags.DEFINE_integer(name, number, meaning, flag_values=values)
    for name, (default, meaning) in floats.items():
        absl_flags.DEFINE_float(name, default, meaning, flag_values=values)


def define_dtype_policy(values: absl_flags.FlagValues) -> None:
    """Defines `--dtype_policy`, of training."""
    absl_flags.DEFINE_enum(
        "dtype_policy", "float32", ["float32", "mixed_bfloat16"], "Precision",
        flag_values=values,
    )  # fmt: skip


def define_jit_compile(values: absl_flags.FlagValues) -> None:
    """Defines `--jit_compile`."""
    absl_flags.DEFINE_enum(
        "jit_compile", "auto", list(_JIT_CHOICES), "Whether XLA compiles",
        flag_values=values,
    )  # fmt: skip


def jit_compile(values: absl_flags.FlagValues) -> bool | str:
    """Returns what `--jit_compile` says, as the library takes it."""
    return _JIT_CHOICES[values.jit_compile]


_JIT_CHOICES: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}


def _fail(message: str, code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return code
