"""Checkpoints of Hugging Face transformers: GPT-2 and GPT-1, read and written."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.checkpoints.checkpoint import (
    Checkpoint,
    LiveWeights,
    WeightSource,
    check_language_model,
)
from keras_gpt.checkpoints.files import read_json, whole_folder, write_json
from keras_gpt.checkpoints.heads import KINDS, split_head
from keras_gpt.checkpoints.safetensors_files import (
    SINGLE_FILE,
    SafetensorsFolder,
    TensorToWrite,
    write_safetensors,
)
from keras_gpt.checkpoints.tensors import (
    TORCH_HEAD,
    RenamedTensors,
    without_tied_head,
)
from keras_gpt.checkpoints.weight_names import Weight, weights_of
from keras_gpt.config import GPTConfig
from keras_gpt.tokenizer import GPT1Tokenizer, GPTTokenizer

CONFIG_FILE = "config.json"
# Key of our own in config.json: fields of `GPTConfig` that transformers lacks.
OWN_FIELDS = "keras_gpt"


class Architecture(NamedTuple):
    """How one of transformers' architectures is configured.

    Attributes:
        naming: string. A key of `weight_names.NAMINGS`.
        table: string. Name of the token table.
        model_class: string. transformers' class with the output projection.
        activation_key: string. Key of the activation in config.json.
        activations: dict. Our activation of each of its activations; the first of
            several names is the one to write.
        fixed: dict. Fields of `GPTConfig` that the architecture leaves no choice of.
        lacks: keys of `OPTIONAL` that it does not have.
    """

    naming: str
    table: str
    model_class: str
    activation_key: str
    activations: dict[str, str]
    fixed: dict[str, Any]
    lacks: tuple[str, ...] = ()


ARCHITECTURES = {
    "gpt2": Architecture(
        naming="gpt2",
        table="transformer.wte.weight",
        model_class="GPT2LMHeadModel",
        activation_key="activation_function",
        activations={
            "gelu_new": "gelu_approximate",
            "gelu_pytorch_tanh": "gelu_approximate",
            "gelu": "gelu",
            "relu": "relu",
            "silu": "silu",
            "swish": "silu",
        },
        fixed={"normalize_first": True},
    ),
    "openai-gpt": Architecture(
        naming="gpt1",
        table="transformer.tokens_embed.weight",
        model_class="OpenAIGPTLMHeadModel",
        activation_key="afn",
        # Its "gelu" is the tanh form.
        activations={
            "gelu": "gelu_approximate",
            "relu": "relu",
            "silu": "silu",
            "swish": "silu",
        },
        fixed={
            "normalize_first": False,
            "scale_attention_by_inverse_layer": False,
            "upcast_attention": False,
        },
        lacks=("n_inner", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
    ),
}

# Field of `GPTConfig` of each key; those without a default in transformers' files
# are required.
REQUIRED = {
    "vocab_size": "vocabulary_size",
    "n_positions": "max_sequence_length",
    "n_embd": "hidden_dim",
    "n_layer": "num_layers",
    "n_head": "num_heads",
}
OPTIONAL = {
    "n_inner": ("intermediate_dim", None),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "resid_pdrop": ("dropout", 0.1),
    "embd_pdrop": ("embedding_dropout", 0.1),
    "attn_pdrop": ("attention_dropout", 0.1),
    "initializer_range": ("initializer_stddev", 0.02),
    "tie_word_embeddings": ("tie_embeddings", True),
    "scale_attn_by_inverse_layer_idx": ("scale_attention_by_inverse_layer", False),
    "reorder_and_upcast_attn": ("upcast_attention", False),
}
# Keys that change the network: the only value that this one can follow.
SUPPORTED_VALUES: dict[str, Any] = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "scale_attn_weights": True,
    "cross_attention_hidden_size": None,
    "pruned_heads": {},
    "quantization_config": None,
}
# Keys that do not change logits: labels, defaults of generation, bookkeeping.
HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _name_or_path
    _num_labels architectures attn_implementation bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward decoder_start_token_id diversity_penalty
    do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing id2label is_decoder label2id
    length_penalty max_length min_length model_type n_ctx n_special
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_past output_scores pad_token_id
    predict_special_tokens prefix problem_type remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sep_token_id
    summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj suppress_tokens task_specific_params temperature
    tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version transformers_weights typical_p use_bfloat16 use_cache
    """.split()
)
_PREFIX = "transformer."
# Buffers of older versions: the causal mask, its fill value, and 0, 1, 2 and so on.
_BUFFER = re.compile(r"(transformer\.)?(h\.\d+\.attn\.(bias|masked_bias)|position_ids)")


def is_huggingface(config: dict[str, Any]) -> bool:
    """Whether the content of a config.json is transformers'."""
    return "model_type" in config


def open_huggingface(folder: Path) -> Checkpoint:
    """Opens a checkpoint folder of transformers.

    Args:
        folder: it holds config.json, one or many *.safetensors, and the tokenizer's
            files (tokenizer.json, or vocab.json and merges.txt).

    Raises:
        FileNotFoundError: if a file is missing. Pickled weights are not read.
        ValueError: if a file is broken, the architecture or an option of it is not
            supported, or the tensors are not those of the config.
    """
    path = folder / CONFIG_FILE
    content = read_json(path)
    architecture = _architecture(content, path)
    config = _read_config(content, architecture, path)
    _refuse_pickles(folder)
    tensors = _named_tensors(SafetensorsFolder(folder))
    tensors, head = split_head(tensors, content, str(folder))
    if head is not None and TORCH_HEAD not in tensors.names:
        # Nothing projects to the vocabulary but the table.
        config = dataclasses.replace(config, tie_embeddings=True)
    if config.tie_embeddings:
        tensors = without_tied_head(
            tensors, table=architecture.table, location=str(folder)
        )
    return Checkpoint(
        location=str(folder),
        config=config,
        naming=architecture.naming,
        tensors=tensors,
        tokenizer=lambda: open_huggingface_tokenizer(folder, content),
        has_zero_biases=not config.use_bias,
        head=head,
    )


def save_huggingface(model: Any, path: Any) -> None:
    """Writes a folder that transformers' `from_pretrained` loads.

    GPT-2's architecture is written for `GPT2LMHeadModel`, GPT-1's (`normalize_first`
    False) for `OpenAIGPTLMHeadModel`; the tokenizer for `AutoTokenizer`. Weights keep
    their dtype and every bit; LoRA's part is merged. Of a network without biases
    transformers gets biases of zero, which change nothing.

    Args:
        model: `GPTCausalLM`; or `GPTBackbone`, then without a tokenizer.
        path: new or empty folder. Written whole or not at all.

    Raises:
        ValueError: if transformers has no such network, naming the field, or the model
            has the head of another task.
        FileExistsError: if the folder holds something.
        OSError: if it cannot be written.
    """
    write_huggingface(LiveWeights(model), Path(path))


def write_huggingface(source: WeightSource, path: Path) -> None:
    """Writes a network, with one tensor in memory at a time.

    Args:
        source: `WeightSource`.
        path: as in `save_huggingface`, like the errors.
    """
    check_language_model(source, library="transformers")
    model_type = "gpt2" if source.config.normalize_first else "openai-gpt"
    architecture = ARCHITECTURES[model_type]
    content = _written_config(source, model_type)
    # transformers has no network without biases.
    stored_config = dataclasses.replace(source.config, use_bias=True)
    tensors = [
        _tensor(source, weight)
        for weight in weights_of(stored_config, architecture.naming)
    ]
    with whole_folder(path) as folder:
        write_safetensors(folder / SINGLE_FILE, tensors)
        write_json(folder / CONFIG_FILE, content)
        special = {key: content[key] for key in ("bos_token_id", "eos_token_id")}
        write_json(folder / "generation_config.json", special)
        if source.tokenizer is not None:
            source.tokenizer.save_huggingface_files(
                folder, max_length=source.config.max_sequence_length
            )


def _tensor(source: WeightSource, weight: Weight) -> TensorToWrite:
    is_there = weight.path in source.paths
    dtype = source.dtype(weight.path if is_there else source.paths[0])

    def read() -> np.ndarray:
        if not is_there:
            return np.zeros(weight.stored_shape, dtype)
        (value,) = weight.to_stored(source.read(weight.path))
        return value

    return TensorToWrite(weight.names[0], weight.stored_shape, dtype, read)


def _written_config(source: WeightSource, model_type: str) -> dict[str, Any]:
    """Returns the content of config.json.

    Raises:
        ValueError: if the architecture has no such network.
    """
    config, architecture = source.config, ARCHITECTURES[model_type]
    fields = config.to_dict()
    fixed = {
        **architecture.fixed,
        "head_dim": config.hidden_dim // config.num_heads,
        "intermediate_dim": fields["intermediate_dim"],
    }
    if model_type == "openai-gpt":
        fixed["intermediate_dim"] = 4 * config.hidden_dim
    for name, value in fixed.items():
        if fields[name] != value:
            raise ValueError(
                f"{name} must be {value} for transformers' {architecture.model_class}, "
                f"got {fields[name]}."
            )
    names = {
        ours: theirs for theirs, ours in reversed(architecture.activations.items())
    }
    if config.activation not in names:
        raise ValueError(
            f"activation must be one of {', '.join(names)} for transformers' "
            f"{architecture.model_class}, got {config.activation!r}."
        )
    fields["embedding_dropout"] = config.dropout_of("embedding")
    fields["attention_dropout"] = config.dropout_of("attention")
    end_id = None if source.tokenizer is None else source.tokenizer.end_token_id
    content = {
        "model_type": model_type,
        "architectures": [architecture.model_class],
        "dtype": str(source.dtype(source.paths[0])),
        **{key: fields[name] for key, name in REQUIRED.items()},
        **{key: fields[name] for key, (name, _) in OPTIONAL.items()},
        architecture.activation_key: names[config.activation],
        "bos_token_id": end_id,
        "eos_token_id": end_id,
    }
    for key in architecture.lacks:
        del content[key]
    if not config.use_bias:
        content[OWN_FIELDS] = {"use_bias": False}
    return content


def _architecture(content: dict[str, Any], path: Path) -> Architecture:
    model_type = content.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"{path}: model_type must be one of {', '.join(ARCHITECTURES)}, "
            f"got {model_type!r}."
        )
    return ARCHITECTURES[model_type]


def _read_config(
    content: dict[str, Any], architecture: Architecture, path: Path
) -> GPTConfig:
    """Returns the network that config.json describes.

    Raises:
        ValueError: if a key is missing or unknown, or its value not supported.
    """
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise ValueError(f"{path} must have the key {', '.join(missing)}.")
    own_keys = {*REQUIRED, *OPTIONAL, architecture.activation_key, OWN_FIELDS}
    for key, value in content.items():
        if key in SUPPORTED_VALUES:
            if value != SUPPORTED_VALUES[key] and value is not None:
                raise ValueError(
                    f"{path}: {key} must be {SUPPORTED_VALUES[key]!r}, the only value "
                    f"that is supported, got {value!r}."
                )
        elif key not in own_keys | HARMLESS and value not in (None, False, "", [], {}):
            raise ValueError(
                f"{path}: {key} is not a known option, got {value!r}. If it does not "
                "change the network, take it out of the file."
            )
    activation = content.get(
        architecture.activation_key, next(iter(architecture.activations))
    )
    if activation not in architecture.activations:
        raise ValueError(
            f"{path}: {architecture.activation_key} must be one of "
            f"{', '.join(architecture.activations)}, got {activation!r}."
        )
    fields = {name: content[key] for key, name in REQUIRED.items()}
    for key, (name, default) in OPTIONAL.items():
        fields[name] = content.get(key, default)
    for name in ("embedding_dropout", "attention_dropout"):
        if fields[name] == fields["dropout"]:
            fields[name] = None
    try:
        return GPTConfig.from_dict(
            {
                **fields,
                **architecture.fixed,
                "activation": architecture.activations[activation],
                **content.get(OWN_FIELDS, {}),
            }
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} must hold *.safetensors, got {', '.join(pickles)}: pickled "
            "weights can run code and are never read. Rewrite them where they are "
            "trusted, with transformers: model.save_pretrained(folder)."
        )


def _named_tensors(tensors: SafetensorsFolder) -> RenamedTensors:
    """Returns the weights by the names of a model with its head, without buffers."""
    stored = [name for name in tensors.shapes if not _BUFFER.fullmatch(name)]
    # A model saved without its head has no prefix.
    has_prefix = any(name.startswith(_PREFIX) for name in stored)
    return RenamedTensors(
        tensors,
        {
            name if has_prefix or _is_head(name) else _PREFIX + name: name
            for name in stored
        },
    )


def _is_head(name: str) -> bool:
    return name == TORCH_HEAD or name.rpartition(".")[0] in KINDS


def open_huggingface_tokenizer(
    folder: Path, content: dict[str, Any]
) -> GPTTokenizer | None:
    """Opens the tokenizer of a checkpoint folder, or returns None if it has none.

    Args:
        folder: of the tokenizer's files.
        content: of its config.json.

    Raises:
        FileNotFoundError: if one of two files is missing.
        ValueError: if a file is broken, or the architecture not supported.
    """
    naming = _architecture(content, folder / CONFIG_FILE).naming
    cls = GPTTokenizer if naming == "gpt2" else GPT1Tokenizer
    return cls.from_huggingface_files(folder)
