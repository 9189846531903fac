"""What every tool shares: flags, help, and errors in one line.

A tool is a module with `DESCRIPTION` (one line), `define_flags(flags)` and
`run(flags)`. Flags live in an `absl.flags.FlagValues` of the tool's own, so that
several tools can be imported into one process.
"""

from __future__ import annotations

import os
import sys
import textwrap
from types import ModuleType

from absl import flags as absl_flags

# Before tensorflow is imported anywhere: no C++ log lines between a tool's own.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

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
        print(help_text(name, tool.DESCRIPTION, values))
        return 0
    try:
        rest = values([name, *argv])[1:]
        if rest:
            raise absl_flags.Error(f"unexpected argument {rest[0]!r}")
    except absl_flags.Error as error:
        return _fail(f"keras-gpt {name}: {error}", EXIT_USAGE)
    try:
        tool.run(values)
    except KeyboardInterrupt:
        return _fail(f"keras-gpt {name}: interrupted", EXIT_INTERRUPTED)
    except (ValueError, OSError, RuntimeError) as error:
        return _fail(f"keras-gpt {name}: {error}", EXIT_INPUT)
    return 0


def run_main(module_name: str) -> None:
    """Runs `python -m keras_gpt.tools.TOOL`: the module is `sys.modules[name]`."""
    sys.exit(run_tool(sys.modules[module_name], sys.argv[1:]))


def help_text(name: str, description: str, values: absl_flags.FlagValues) -> str:
    """Returns a tool's help: its flags with units and defaults."""
    lines = [f"keras-gpt {name}: {description}", "", "Flags:"]
    for flag_name in sorted(values):
        flag = values[flag_name]
        if flag.name != flag_name or not flag.help:
            continue
        default = "required" if flag.default is None else f"default: {flag.default}"
        if flag.default is None and "optional" in flag.help.lower():
            default = "default: none"
        lines.append(f"  --{flag_name}")
        text = f"{flag.help} ({default})"
        lines += textwrap.wrap(
            text, 80, initial_indent="      ", subsequent_indent="      "
        )
    return "\n".join(lines)


def require(values: absl_flags.FlagValues, *names: str) -> None:
    """Raises `absl.flags.Error` unless each flag was given."""
    for name in names:
        if values[name].value in (None, []):
            raise ValueError(f"flag --{name} is required.")


def _fail(message: str, code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return code
