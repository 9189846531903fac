"""What stands beside the versions of a served model: settings of TF Serving, README."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_gpt.export.files import write_text
from keras_gpt.export.signatures.inputs import Input, Signature
from keras_gpt.export.signatures.streaming import STATE

MODEL_NAME = "gpt"
BATCH_SIZES = (1, 2, 4, 8)
BATCH_TIMEOUT_MICROS = 2000  # far less than a token takes
# The newest that there is; exports are made to run there.
SERVING_IMAGE = "tensorflow/serving:2.20.0"


def write_serving_files(
    path: Path,
    *,
    model_name: str,
    batch_sizes: Sequence[int],
    signatures: dict[str, Signature],
    outputs: dict[str, dict[str, str]],
    notes: Sequence[str] = (),
) -> None:
    """Writes `models.config`, `batching_params.pbtxt` and `README.md`.

    Args:
        path: folder of the served model.
        model_name: string.
        batch_sizes: ints, ascending. Of which servers make batches.
        signatures: those of the model.
        outputs: signature to output to its type, for the README.
        notes: lines about this model, for the README.
    """
    write_text(path / "models.config", _models_config(model_name))
    write_text(path / "batching_params.pbtxt", _batching_params(batch_sizes))
    readme = _readme(
        model_name=model_name, signatures=signatures, outputs=outputs, notes=notes
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
    notes: Sequence[str],
) -> str:
    knobs = {
        name: one
        for name, one in signatures["generate"].inputs.items()
        if one.default is not None
    }
    table = "\n".join(
        f"| `{name}` | {one.meaning} | {_inputs(one, knobs)} "
        f"| {_outputs(outputs[name])} |"
        for name, one in signatures.items()
    )
    knob_table = "\n".join(_knob(name, one) for name, one in knobs.items())
    extra = "".join(f"- {note}\n" for note in notes)
    return f"""# {model_name}

A text generator for TensorFlow Serving: strings in, strings out. Each numbered folder
is a version; it holds tokenizer, weights, KV cache and sampling loop, and needs
nothing but TensorFlow.

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
curl -d '{{"instances": ["Once upon a time"]}}' \\
  http://localhost:8501/v1/models/{model_name}:predict
```

```python
from keras_gpt.export.client import GPTClient

with GPTClient("localhost:8500", model_name="{model_name}") as client:
    print(client.generate("Once upon a time", max_new_tokens=50, temperature=0.8))
```

## Signatures

B is the batch, dimension 0 of everything. An input with a default may be left out over
gRPC; TensorFlow Serving's REST API wants all of them, but for `serving_default`, which
has one.

| signature | what it does | inputs | outputs |
|---|---|---|---|
{table}

The knobs of `generate`, and what they are where a request leaves them out; their
meaning is that of `keras_gpt.GenerationOptions`. Rows may have different values.

| knob | type | default |
|---|---|---|
{knob_table}

- `finish_reason` is `stop`, `length`, `prompt_too_long`, `invalid_input` (a value out
  of range, or text that is not UTF-8) or `invalid_logits`; of `decode`, empty while
  the text goes on. A bad row comes back with it and never fails its neighbours.
- The same seed gives the same text for the same prompt, in any batch.
- In lists, an empty string and the id -1 stand for nothing.
- What a server runs before it takes requests is in
  `VERSION/assets.extra/tf_serving_warmup_requests`; what the model was made of, in
  `VERSION/assets.extra/model_card.json`.
{extra}"""


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
