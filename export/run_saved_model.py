"""Runs signatures of an exported model with tensorflow alone.

Usage: python run_saved_model.py FOLDER RESPONSE < request.json

RESPONSE is a file: on standard output, there may be what other code prints.

The request is `{"calls": [...], "warm_up": BOOL}`. A call is `{"signature": NAME,
"inputs": {NAME: LIST}}`; inputs left out take the defaults of the SignatureDef, as in
TF Serving. A call with `"max_tokens": N` is of `prefill`, and goes on with `decode`, N
tokens at a time, until all rows have ended. With `warm_up`, the model's warm-up records
run too.

The response is `{"responses": [...], "foreign_modules": [...], "num_warm_up": N}`: a
`{NAME: LIST}` of outputs per call; the modules of this library and its dependencies
that the model needed: none; and how many records ran.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FOREIGN = ("keras_gpt", "keras_nlp", "keras_hub", "tensorflow_text")
WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"


def main() -> None:
    """Reads calls from standard input and writes their outputs to a file."""
    import tensorflow as tf

    folder, request = sys.argv[1], json.load(sys.stdin)
    model = tf.saved_model.load(folder)
    defaults = signature_defaults(folder)
    responses = []
    for call in request["calls"]:
        name = call["signature"]
        signature = model.signatures[name]
        specs = signature.structured_input_signature[1]
        inputs = {
            key: tf.constant(values, specs[key].dtype)
            for key, values in call["inputs"].items()
        }
        outputs = signature(**{**defaults[name], **inputs})
        if "max_tokens" in call:
            responses.append(_decode(model, outputs, call["max_tokens"]))
        else:
            responses.append({key: _plain(value) for key, value in outputs.items()})
    foreign = sorted(name for name in FOREIGN if name in sys.modules)
    count = run_warm_up(model, folder) if request["warm_up"] else 0
    response = {
        "responses": responses,
        "foreign_modules": foreign,
        "num_warm_up": count,
    }
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(response, file)


def signature_defaults(folder):  # type: ignore[no-untyped-def]
    """Returns the default tensor of each input, by signature and input name."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    with open(os.path.join(folder, "saved_model.pb"), "rb") as file:
        saved.ParseFromString(file.read())
    return {
        signature: {
            name: tf.constant(tf.make_ndarray(proto))
            for name, proto in definition.defaults.items()
        }
        for signature, definition in saved.meta_graphs[0].signature_def.items()
    }


def _decode(model, state, max_tokens):  # type: ignore[no-untyped-def]
    """Returns the texts, tokens and finish reasons that a state leads to."""
    import tensorflow as tf

    rows = state["state_length"].shape[0]
    texts, tokens = [b""] * rows, [[] for _ in range(rows)]
    while True:
        state = {key: x for key, x in state.items() if key.startswith("state_")}
        state = model.signatures["decode"](
            max_tokens=tf.constant([max_tokens]), **state
        )
        for row in range(rows):
            count = int(state["new_num_tokens"][row])
            texts[row] += state["new_text"].numpy()[row]
            tokens[row] += state["new_token_ids"].numpy()[row, :count].tolist()
        reasons = state["finish_reason"].numpy().tolist()
        if all(reasons):
            break
    return {
        "text": _decoded(texts),
        "token_ids": tokens,
        "finish_reason": _decoded(reasons),
    }


def run_warm_up(model, folder):  # type: ignore[no-untyped-def]
    """Runs the records as a server does before it takes requests."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    count = 0
    for data in tf.data.TFRecordDataset(os.path.join(folder, WARM_UP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(data.numpy())
        request = log.predict_log.request
        name = request.model_spec.signature_name
        inputs = {
            key: tf.constant(tf.make_ndarray(proto))
            for key, proto in request.inputs.items()
        }
        try:
            model.signatures[name](**inputs)
        except Exception as error:
            raise RuntimeError(f"warm-up record {count}, of {name}: {error}") from error
        count += 1
    return count


def _plain(tensor):  # type: ignore[no-untyped-def]
    values = tensor.numpy().tolist()
    return _decoded(values) if tensor.dtype.name == "string" else values


def _decoded(values):  # type: ignore[no-untyped-def]
    if isinstance(values, bytes):
        return values.decode("utf-8", errors="replace")
    return [_decoded(value) for value in values]


if __name__ == "__main__":
    main()
