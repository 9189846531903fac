"""What stands beside the versions of a served model: settings of TF Serving, README."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_gpt.export.files import write_text
from keras_gpt.export.signatures.inputs import Input, Signature
from keras_gpt.export.signatures.streaming import STATE

MODEL_NAME = "gpt"
WIDTH = 88  # of the README's lines
BATCH_SIZES = (1, 2, 4, 8)
BATCH_TIMEOUT_MICROS = 2000  # far less than a token takes
# The newest that there is; exports are made to run there.
SERVING_IMAGE = "tensorflow/serving:2.20.0"


class Guide(NamedTuple):
    """What the README says of one kind of task.

    Attributes:
        what: string. What the model is, after "A".
        holds: string. What a version folder holds.
        instances: JSON of the instances of a request to `serving_default`.
        python: lines that ask the model in Python; `{target}` and `{model_name}` are
            filled in.
        default_inputs: string. How many inputs `serving_default` has.
        knobs: inputs that the table of signatures leaves to one of their own.
        knobs_text: string before that table.
        notes: further lines.
    """

    what: str
    holds: str
    instances: str
    python: str
    default_inputs: str
    knobs: dict[str, Input]
    knobs_text: str
    notes: Sequence[str]


def write_serving_files(
    path: Path,
    *,
    model_name: str,
    batch_sizes: Sequence[int],
    signatures: dict[str, Signature],
    outputs: dict[str, dict[str, str]],
    guide: Guide,
) -> None:
    """Writes `models.config`, `batching_params.pbtxt` and `README.md`.

    Args:
        path: folder of the served model.
        model_name: string.
        batch_sizes: ints, ascending. Of which servers make batches.
        signatures: those of the model.
        outputs: signature to output to its type, for the README.
        guide: `Guide` of the task.
    """
    write_text(path / "models.config", _models_config(model_name))
    write_text(path / "batching_params.pbtxt", _batching_params(batch_sizes))
    readme = _readme(
        model_name=model_name, signatures=signatures, outputs=outputs, guide=guide
    )
    write_text(path / "README.md", readme)


def _models_config(model_name: str) -> str:
    return f"""model_config_list {{
  config {{
    name: "{model_name}"
    base_path: "/models/{model_name}"
    model_platform: "tensorflow"
  }}
}}
"""


def _batching_params(batch_sizes: Sequence[int]) -> str:
    sizes = "".join(f"allowed_batch_sizes: {size}\n" for size in batch_sizes)
    return f"""max_batch_size {{ value: {batch_sizes[-1]} }}
batch_timeout_micros {{ value: {BATCH_TIMEOUT_MICROS} }}
max_enqueued_batches {{ value: 64 }}
num_batch_threads {{ value: 1 }}
{sizes}pad_variable_length_inputs: true
"""


def _readme(
    *,
    model_name: str,
    signatures: dict[str, Signature],
    outputs: dict[str, dict[str, str]],
    guide: Guide,
) -> str:
    table = "\n".join(
        f"| `{name}` | {one.meaning} | {_inputs(one, guide.knobs)} "
        f"| {_outputs(outputs[name])} |"
        for name, one in signatures.items()
    )
    python = guide.python.format(target="localhost:8500", model_name=model_name)
    notes = "".join(f"- {note}\n" for note in (*guide.notes, *_NOTES))
    intro = textwrap.fill(
        f"{guide.what} for TensorFlow Serving: strings in, strings out. Each numbered "
        f"folder is a version; it holds {guide.holds}, and needs nothing but "
        f"TensorFlow.",
        WIDTH,
    )
    default = textwrap.fill(
        "B is the batch, dimension 0 of everything. An input with a default may be "
        "left out over gRPC; TensorFlow Serving's REST API wants all of them. "
        f"`serving_default` has {guide.default_inputs}.",
        WIDTH,
    )
    return f"""# {model_name}

{intro}

## Serve it

Run these in this folder. With the server's own binary:

```sh
tensorflow_model_server --port=8500 --rest_api_port=8501 \\
  --model_name={model_name} --model_base_path="$PWD"
```

The same in a container:

```sh
docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{model_name}" \\
  -e MODEL_NAME={model_name} {SERVING_IMAGE}
```

With requests joined into batches (each then has to give every input in full rows, as
`keras_gpt.export.client` does):

```sh
docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{model_name}" \\
  {SERVING_IMAGE} --model_config_file=/models/{model_name}/models.config \\
  --enable_batching \\
  --batching_parameters_file=/models/{model_name}/batching_params.pbtxt
```

On one machine, without TensorFlow Serving:

```sh
keras-gpt serve --model="$PWD" --model_name={model_name}
```

## Ask it

```sh
curl -d '{{"instances": {guide.instances}}}' \\
  http://localhost:8501/v1/models/{model_name}:predict
```

```python
{python}
```

## Signatures

{default}

| signature | what it does | inputs | outputs |
|---|---|---|---|
{table}

{_knobs(guide)}{notes}"""


_NOTES = (
    "What a server runs before it takes requests is in\n"
    "  `VERSION/assets.extra/tf_serving_warmup_requests`; what the model was made of, "
    "in\n  `VERSION/assets.extra/model_card.json`.",
)


def _knobs(guide: Guide) -> str:
    if not guide.knobs:
        return ""
    rows = "\n".join(_knob(name, one) for name, one in guide.knobs.items())
    table = f"| knob | type | default |\n|---|---|---|\n{rows}"
    return f"{guide.knobs_text}\n\n{table}\n\n"


_ASK = """from keras_gpt.export.client import GPTClient

with GPTClient("{target}", model_name="{model_name}") as client:
    print(client.generate("Once upon a time", max_new_tokens=50, temperature=0.8))"""
_KNOBS = """\
The knobs of `generate`, and what they are where a request leaves them out; their
meaning is that of `keras_gpt.GenerationOptions`. Rows may have different values."""


def generator_guide(signatures: dict[str, Signature]) -> Guide:
    """Returns what the README says of a generator."""
    return Guide(
        what="A text generator",
        holds="tokenizer, weights, KV cache and sampling loop",
        instances='["Once upon a time"]',
        python=_ASK,
        default_inputs="one input",
        knobs={
            name: one
            for name, one in signatures["generate"].inputs.items()
            if one.default is not None
        },
        knobs_text=_KNOBS,
        notes=(
            "`finish_reason` is `stop`, `length`, `prompt_too_long`, `invalid_input` "
            "(a value out\n  of range, or text that is not UTF-8) or "
            "`invalid_logits`; of `decode`, empty while\n  the text goes on. A bad row "
            "comes back with it and never fails its neighbours.",
            "The same seed gives the same text for the same prompt, in any batch.",
            "In lists, an empty string and the id -1 stand for nothing.",
        ),
    )


def _inputs(signature: Signature, knobs: dict[str, Input]) -> str:
    own = {name: one for name, one in signature.inputs.items() if name not in knobs}
    has_state = any(name.startswith(STATE) for name in own)
    shown = [
        f"`{name}` {_type(one.dtype.name, one.shape)}{_default(one)}"
        for name, one in own.items()
        if not name.startswith(STATE)
    ]
    if has_state:
        shown.insert(0, f"`{STATE}*`, as it was returned")
    if len(own) < len(signature.inputs):
        shown.append("the knobs below")
    return ", ".join(shown)


def _outputs(outputs: dict[str, str]) -> str:
    shown = [
        f"`{name}` {kind}"
        for name, kind in outputs.items()
        if not name.startswith(STATE)
    ]
    if len(shown) < len(outputs):
        shown.append(f"`{STATE}*`, for `decode`")
    return ", ".join(shown)


def _knob(name: str, one: Input) -> str:
    return f"| `{name}` | {_type(one.dtype.name, one.shape)} |{_default(one)[2:]} |"


def _type(dtype: str, shape: Sequence[int | None]) -> str:
    sizes = ", ".join(["B", *("K" if size is None else str(size) for size in shape)])
    return f"{dtype} [{sizes}]"


def _default(one: Input) -> str:
    if one.default is None:
        return ""
    items = one.default if isinstance(one.default, list) else [one.default]
    values = [item.decode() if isinstance(item, bytes) else item for item in items]
    # As JSON, and so that no table breaks.
    text = json.dumps(values if isinstance(one.default, list) else values[0])
    return f" = {text}".replace("|", "\\|")


def output_types(folder: Path) -> dict[str, dict[str, str]]:
    """Returns the type of each output of each signature of a SavedModel."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    return {
        name: {
            key: _type(
                tf.as_dtype(info.dtype).name,
                [d.size if d.size >= 0 else None for d in info.tensor_shape.dim[1:]],
            )
            for key, info in sorted(definition.outputs.items())
        }
        for name, definition in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }
