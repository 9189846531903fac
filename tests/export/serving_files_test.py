"""Files for servers: warm-up records, settings of TF Serving, README."""

import re
import shlex
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from keras_gpt.export import serving_files
from keras_gpt.export.serving_files import BATCH_SIZES

WARMUP = "assets.extra/tf_serving_warmup_requests"


def records(folder):
    for data in tf.data.TFRecordDataset(str(Path(folder) / WARMUP)):
        log = prediction_log_pb2.PredictionLog.FromString(data.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        yield log.predict_log.request


def test_each_signature_has_a_record_of_full_rows(exported):
    signatures = tf.saved_model.load(exported).signatures
    sizes = {}
    for request in records(exported):
        assert request.model_spec.name == "gpt"
        name = request.model_spec.signature_name
        specs = signatures[name].structured_input_signature[1]
        assert set(request.inputs) == set(specs)
        shapes = [
            [dim.size for dim in proto.tensor_shape.dim]
            for proto in request.inputs.values()
        ]
        assert len({shape[0] for shape in shapes}) == 1
        for key, proto in request.inputs.items():
            assert proto.dtype == specs[key].dtype.as_datatype_enum
            size = [dim.size for dim in proto.tensor_shape.dim]
            assert specs[key].shape.is_compatible_with(size)
        sizes.setdefault(name, []).append(shapes[0][0])
    assert set(sizes) == set(signatures)
    assert sizes["generate"] == list(BATCH_SIZES)


def test_records_are_small(exported):
    # The state of a stream is large; its record is not.
    assert (Path(exported) / WARMUP).stat().st_size < 20_000


def test_models_config_is_what_the_server_reads(exported):
    text = (Path(exported).parent / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("gpt", "/models/gpt")
    assert model.model_platform == "tensorflow"


def test_batches_are_of_the_sizes_that_were_warmed_up(exported):
    text = (Path(exported).parent / "batching_params.pbtxt").read_text()
    sizes = [int(size) for size in re.findall(r"allowed_batch_sizes: (\d+)", text)]
    assert sizes == list(BATCH_SIZES)
    (largest,) = re.findall(r"max_batch_size { value: (\d+) }", text)
    assert int(largest) == sizes[-1]


def test_readme_has_the_servers_lines_and_every_signature(exported):
    text = (Path(exported).parent / "README.md").read_text()
    signatures = tf.saved_model.load(exported).signatures
    for name, signature in signatures.items():
        assert f"| `{name}` |" in text
        outputs = [key for key in signature.structured_outputs if "state_" not in key]
        assert all(f"`{key}`" in text for key in outputs)
    knobs = signatures["generate"].structured_input_signature[1]
    assert all(f"`{key}`" in text for key in knobs)
    assert "| `temperature` | float32 [B] | 0.5 |" in text
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(block.replace("\\\n", " ")) for block in blocks]
    assert [words[0] for words in commands] == [
        *("tensorflow_model_server", "docker", "docker", "keras-gpt", "curl"),
    ]
    assert "--model_name=gpt" in commands[0]


def test_files_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "models.config"
    path.write_text("before")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        serving_files.write_text(path, "after")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [
        ("models.config", "before")
    ]
