"""Tests of pretraining on the shards of `prepare_data`."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.config import GPTConfig
from keras_gpt.data import DataSource, PackedDataset, PrepareConfig, prepare_data
from keras_gpt.models import GPTBackbone
from keras_gpt.tokenizer import train_tokenizer
from keras_gpt.training import PretrainConfig, make_eval_step, pretrain

WORDS = "the quick brown fox jumps over the lazy dog".split()


def config_of(tokenizer, **fields):
    model = GPTConfig.named(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        hidden_dim=16,
        max_sequence_length=16,
    )
    return PretrainConfig(model=model, batch_size=4, **fields)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A dataset of some lines, packed, and its tokenizer."""
    folder = tmp_path_factory.mktemp("shards")
    lines = folder / "lines.txt"
    words = WORDS
    lines.write_text("".join(f"{a} {b} fox\n" for a in words[:9] for b in words[:9]))
    tokenizer = train_tokenizer([" ".join(WORDS) + "\n"], kind="char")
    prepare_data(
        PrepareConfig(
            context_length=16, document="line", validation_fraction=0.2,
            num_shards=3, segments=True,
        ),
        sources=[DataSource("lines", (str(lines),))],
        tokenizer=tokenizer,
        output_dir=str(folder / "dataset"),
        workers=1,
    )  # fmt: skip
    return folder / "dataset", tokenizer


def test_training_on_shards(shards, tmp_path):
    dataset, tokenizer = shards
    config = config_of(tokenizer, steps=20, learning_rate=0.01, jit_compile=False)
    result = pretrain(
        config, dataset=dataset, output_dir=tmp_path / "run",
        progress=lambda line: None,
    )  # fmt: skip
    packed = PackedDataset(dataset)
    report = result.report
    assert report["corpus"]["train_tokens"] == packed.num_tokens("train")
    assert report["validation_loss"]["final"] < report["validation_loss"]["first"]
    assert report["data_wait"] < 1.0


def test_packed_documents_are_scored_as_texts_of_their_own(shards):
    dataset, tokenizer = shards
    batch = PackedDataset(dataset).training_batch(0, seed=0, batch_size=4)
    keras.utils.set_random_seed(0)
    backbone = GPTBackbone(**config_of(tokenizer, steps=1).model.to_dict())
    total = count = 0.0
    for window, mask, segments in zip(*batch, strict=True):
        for number in set(segments[:-1].tolist()):
            where = np.flatnonzero(segments[:-1] == number)
            hidden = backbone.forward(tf.constant(window[where])[None]).hidden
            log_probs = tf.nn.log_softmax(backbone.logits(hidden))[0].numpy()
            for row, place in enumerate(where):
                if mask[place]:
                    total -= log_probs[row, window[place + 1]]
                    count += 1
    assert len(np.unique(batch.segments)) > 2
    sums = make_eval_step(backbone)(batch)
    assert float(sums.total) == pytest.approx(total, rel=1e-4)
    assert float(sums.count) == count


def test_shards_that_do_not_fit(shards, tmp_path):
    dataset, tokenizer = shards
    config = config_of(tokenizer, steps=2)

    def train(config, **arguments):
        pretrain(
            config, output_dir=tmp_path / "run", **{"dataset": dataset, **arguments}
        )

    with pytest.raises(ValueError, match="context_length must be that of the dataset"):
        train(dataclasses.replace(config, context_length=8))
    other = train_tokenizer(["abc"], kind="char")
    with pytest.raises(ValueError, match="tokenizer must be the one of the dataset"):
        train(config, tokenizer=other)
    small = dataclasses.replace(config.model, vocabulary_size=3)
    with pytest.raises(ValueError, match="vocabulary_size of the model must be at"):
        train(dataclasses.replace(config, model=small))
    with pytest.raises(ValueError, match="corpus_paths or dataset must be given"):
        train(config, corpus_paths=["a"])
    with pytest.raises(ValueError, match="corpus_paths or dataset must be given"):
        train(config, dataset=None)
    assert not (tmp_path / "run").exists()


def test_a_damaged_shard_stops_the_run(shards, tmp_path):
    dataset, tokenizer = shards
    damaged = tmp_path / "dataset"
    shutil.copytree(dataset, damaged)
    shard = next((damaged / "lines").glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=f"{shard.name}.*must have the SHA-256"):
        pretrain(
            config_of(tokenizer, steps=50, jit_compile=False), dataset=damaged,
            output_dir=tmp_path / "run", progress=lambda line: None,
        )  # fmt: skip
