"""What tests of exported models share."""

import pytest

PROMPTS = ["The king", "", "O my\n\nlord", "caf\u00e9 \u4e2d\u6587"]


@pytest.fixture(scope="session")
def prompts():
    """An ASCII one, none, one with blank lines, one with other letters."""
    return PROMPTS


@pytest.fixture(scope="session")
def build(causal_lm):
    """Signatures by name, in this process, of an export with some options."""
    from keras_gpt.export.generator_module import build_generator
    from keras_gpt.export.served_options import served_options

    def make(stop_token_ids="auto", **options):
        served = served_options(causal_lm, options, stop_token_ids=stop_token_ids)
        return build_generator(causal_lm, served).signatures

    return make


@pytest.fixture(scope="session")
def signatures(build):
    """Signatures of an export by sampling, of which each call has its own knobs."""
    return build(max_new_tokens=7, temperature=0.5, seed=9)


@pytest.fixture(scope="session")
def call(signatures):
    """Calls a signature, as a server does: missing inputs are filled from defaults."""
    import tensorflow as tf

    def run(name, _signatures=None, **inputs):
        one = (_signatures or signatures)[name]
        tensors = {
            key: tf.convert_to_tensor(value, one.inputs[key].dtype)
            for key, value in inputs.items()
        }
        return {key: x.numpy() for key, x in one.function(**tensors).items()}

    return run


@pytest.fixture(scope="session")
def exported(causal_lm, tmp_path_factory):
    """Version folder of an export by sampling: 7 tokens, temperature 0.5, seed 9."""
    from keras_gpt.export import export_saved_model

    path = tmp_path_factory.mktemp("served") / "model"
    return export_saved_model(
        causal_lm, path, max_new_tokens=7, temperature=0.5, seed=9
    )


@pytest.fixture(scope="session")
def loaded(exported):
    """The same, loaded; calls fill missing inputs from the SignatureDef."""
    import tensorflow as tf

    from keras_gpt.export.run_saved_model import signature_defaults

    model = tf.saved_model.load(exported)
    defaults = signature_defaults(exported)

    def run(name, **inputs):
        signature = model.signatures[name]
        specs = signature.structured_input_signature[1]
        tensors = {
            key: tf.convert_to_tensor(value, specs[key].dtype)
            for key, value in inputs.items()
        }
        outputs = signature(**{**defaults[name], **tensors})
        return {key: x.numpy() for key, x in outputs.items()}

    return run


@pytest.fixture(scope="session")
def texts_of():
    """Outputs `generated_text` as strings."""
    return lambda outputs: [text.decode() for text in outputs["generated_text"]]
