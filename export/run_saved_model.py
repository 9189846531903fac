"""Runs one signature of an exported model with tensorflow alone.

Usage: python run_saved_model.py FOLDER < request.json > response.json

The request is a list of calls, each `{"signature": NAME, "inputs": {NAME: LIST}}`.
Inputs left out take the defaults of the SignatureDef, as in TF Serving. The response
is `{"responses": [...], "foreign_modules": [...]}`: a `{NAME: LIST}` of outputs per
call, and the modules other than tensorflow's that the process loaded: none.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    """Reads calls from standard input and writes their outputs."""
    import tensorflow as tf

    model = tf.saved_model.load(sys.argv[1])
    defaults = signature_defaults(sys.argv[1])
    responses = []
    for call in json.load(sys.stdin):
        signature = model.signatures[call["signature"]]
        specs = signature.structured_input_signature[1]
        inputs = {
            name: tf.constant(values, specs[name].dtype)
            for name, values in call["inputs"].items()
        }
        inputs = {**defaults[call["signature"]], **inputs}
        responses.append(
            {name: _plain(value) for name, value in signature(**inputs).items()}
        )
    foreign = ("keras_gpt", "keras_nlp", "keras_hub", "tensorflow_text")
    loaded = sorted(name for name in foreign if name in sys.modules)
    json.dump({"responses": responses, "foreign_modules": loaded}, sys.stdout)


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


def _plain(tensor):  # type: ignore[no-untyped-def]
    values = tensor.numpy().tolist()
    if tensor.dtype.name == "string":
        return [value.decode("utf-8", errors="replace") for value in values]
    return values


if __name__ == "__main__":
    main()
