"""A toy model with the signatures of exported ones, which the tests' servers run.

Its new text spells out the knobs that each row got, so that a wrong row, a wrong dtype
or a lost default changes the text. Its tokens are the text's bytes.
"""

import numpy as np
import tensorflow as tf

CONTEXT = 90
# Floats that a careless way through text would change.
HARD_FLOATS = [0.1, 1 / 3, -0.0, 1e-45, 3.4e38, np.inf, -np.inf, np.nan, 16777217.0]

KNOBS = {
    "max_new_tokens": (tf.int32, [40]),
    "temperature": (tf.float32, [0.75]),
    "top_k": (tf.int32, [5]),
    "seed": (tf.int64, [0]),
    "truncate_prompt": (tf.bool, [False]),
    "stop_strings": (tf.string, [["", ""]]),
    "stop_token_ids": (tf.int32, [[-1]]),
    "logit_bias_ids": (tf.int32, [[-1]]),
    "logit_bias_values": (tf.float32, [[0.0]]),
}
REASONS = np.array(["", "stop", "length", "prompt_too_long", "invalid_input"])


def _joined(table):
    return tf.strings.reduce_join(tf.strings.as_string(table), axis=1, separator="|")


def _whole_text(text, knobs):
    """The whole new text of each row; the last character is of three bytes."""
    parts = [
        text,
        *(tf.strings.as_string(knobs[n]) for n in ("temperature", "top_k", "seed")),
        tf.strings.as_string(knobs["truncate_prompt"]),
        tf.strings.reduce_join(knobs["stop_strings"], axis=1, separator="|"),
        *(_joined(knobs[n]) for n in list(KNOBS)[6:]),
    ]
    return tf.strings.join([*parts, "\u4e2d"], separator=";")


def _valid(text):
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")


def _start(text, knobs):
    """Returns the new bytes (B,) and why they end."""
    whole, limit = _whole_text(text, knobs), knobs["max_new_tokens"]
    reason = tf.where(limit < tf.strings.length(whole), 2, 1)
    reason = tf.where(tf.strings.length(text) > CONTEXT, 3, reason)
    reason = tf.where(_valid(text) == text, reason, 4)
    count = tf.where(reason > 2, 0, limit)
    return tf.strings.substr(whole, tf.zeros_like(count), count), reason


def _tokens(text):
    ids = tf.strings.bytes_split(text)
    ids = tf.reshape(tf.io.decode_raw(ids.flat_values, tf.uint8), [-1])
    ids = tf.cast(ids, tf.int32)
    lengths = tf.strings.length(text)
    ids = tf.RaggedTensor.from_row_lengths(ids, lengths).to_tensor()
    return ids, tf.cast(ids, tf.float32) * -0.1, lengths


def _generate(text, knobs):
    new, reason = _start(text, knobs)
    ids, log_probs, lengths = _tokens(new)
    return {
        "generated_text": _valid(new),
        "generated_bytes": new,
        "token_ids": ids,
        "token_log_probs": log_probs,
        "num_tokens": lengths,
        "finish_reason": tf.gather(tf.constant(REASONS), reason),
    }


def _beams(text, length_penalty):
    knobs = {name: tf.repeat(tf.constant(v, t), tf.shape(text)[0], axis=0)
             for name, (t, v) in KNOBS.items()}  # fmt: skip
    outputs = _generate(text, knobs)
    texts = tf.stack([outputs["generated_text"], text], axis=1)
    scores = tf.stack([length_penalty, -length_penalty], axis=1)
    return {**outputs, "beam_texts": texts, "beam_texts_bytes": texts,
            "beam_scores": scores}  # fmt: skip


def _prefill(text, knobs):
    new, reason = _start(text, knobs)
    return {
        "state_text": new,  # cut inside a character, where the limit is
        "state_reason": reason,
        "state_position": tf.zeros_like(reason),
        "state_given": tf.zeros_like(reason),
        "state_cache": tf.tile(tf.constant([HARD_FLOATS]), [tf.size(text), 1]),
        "state_none": tf.zeros([tf.size(text), 0, 2]),
    }


def _decode(max_tokens, text, reason, position, given, cache, none):
    length = tf.strings.length(text)
    position = tf.minimum(position + max_tokens, length)
    # What is no whole character yet is held back, but at the end.
    so_far = tf.strings.substr(text, tf.zeros_like(position), position)
    is_cut = (_valid(so_far) != so_far) & (position < length)
    after = tf.where(is_cut, given, position)
    new = tf.strings.substr(text, given, after - given)
    ids, log_probs, count = _tokens(new)
    state = {"text": text, "reason": reason, "position": position, "given": after,
             "cache": cache, "none": none}  # fmt: skip
    return {
        **{f"state_{name}": value for name, value in state.items()},
        "new_text": _valid(new),
        "new_token_ids": ids,
        "new_token_log_probs": log_probs,
        "new_num_tokens": count,
        "finish_reason": tf.gather(
            tf.constant(REASONS), tf.where(position < length, 0, reason)
        ),
    }


def _score(text):
    ids, log_probs, lengths = _tokens(text)
    is_bad = lengths > CONTEXT
    total = tf.where(is_bad, np.nan, tf.reduce_sum(log_probs, axis=1))
    error = tf.gather(tf.constant(REASONS), tf.where(is_bad, 3, 0))
    return {"token_ids": ids, "token_log_probs": log_probs,
            "num_tokens": tf.where(is_bad, 0, lengths), "total_log_prob": total,
            "error": error}  # fmt: skip


def _classify(text):
    share = tf.cast(tf.strings.length(text), tf.float32) / 16.0
    labels = tf.tile(tf.constant([["good", "\u4e2d"]]), [tf.size(text), 1])
    return {"labels": labels, "probabilities": tf.stack([share, 1.0 - share], axis=1)}


def _tokenize(text):
    ids, _, lengths = _tokens(text)
    return {"token_ids": ids, "num_tokens": lengths}


def _detokenize(token_ids, num_tokens):
    ragged = tf.RaggedTensor.from_tensor(token_ids, num_tokens)
    is_bad = tf.reduce_any(ragged > 127, axis=1)
    letters = tf.ragged.map_flat_values(
        lambda ids: tf.strings.unicode_encode(ids[:, None], "UTF-8"), ragged
    )
    text = tf.where(is_bad, "", tf.strings.reduce_join(letters, axis=1))
    return {"text": text, "text_bytes": text,
            "error": tf.gather(REASONS, tf.where(is_bad, 4, 0))}  # fmt: skip


def _chat(role, content, num_messages, knobs):
    lines = tf.strings.join([role, content], separator=":")
    is_there = tf.range(tf.shape(role)[1]) < num_messages[:, None]
    lines = tf.where(is_there, lines, "")
    return _generate(tf.strings.reduce_join(lines, axis=1, separator=","), knobs)


STATE = {
    "text": tf.TensorSpec([None], tf.string),
    "reason": tf.TensorSpec([None], tf.int32),
    "position": tf.TensorSpec([None], tf.int32),
    "given": tf.TensorSpec([None], tf.int32),
    "cache": tf.TensorSpec([None, len(HARD_FLOATS)], tf.float32),
    "none": tf.TensorSpec([None, 0, 2], tf.float32),
}


def _signature(function, mains, defaults):
    """A `tf.function` of named inputs, in which those of `defaults` have one."""
    names = [*mains, *defaults]
    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in mains.items()
    ]
    constants = {n: tf.constant(v, t) for n, (t, v) in defaults.items()}
    specs += [
        tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype, name)
        for name, tensor in constants.items()
    ]
    parameters = [*mains, *(f"{name}=constants['{name}']" for name in defaults)]
    given = ", ".join(f"'{name}': {name}" for name in names)
    scope = {"function": function, "constants": constants}
    source = f"def f({', '.join(parameters)}):\n  return function({{{given}}})"
    exec(source, scope)  # noqa: S102
    return tf.function(scope["f"], input_signature=specs, autograph=False)


def _split(function, *mains):
    return lambda given: function(
        *(given[name] for name in mains),
        {name: value for name, value in given.items() if name not in mains},
    )


def save(folder):
    """Writes the toy model as a SavedModel."""
    text = {"text": tf.TensorSpec([None], tf.string)}
    turns = {
        name: tf.TensorSpec([None, None], tf.string) for name in ("role", "content")
    }
    turns["num_messages"] = tf.TensorSpec([None], tf.int32)
    ids = {"token_ids": tf.TensorSpec([None, None], tf.int32),
           "num_tokens": tf.TensorSpec([None], tf.int32)}  # fmt: skip
    state = {f"state_{name}": spec for name, spec in STATE.items()}

    def named(function):
        return lambda given: function(**given)

    def decode(given):
        parts = {name.removeprefix("state_"): value for name, value in given.items()}
        return _decode(**parts)

    signatures = {
        "serving_default": _signature(
            lambda given: {"generated_text": given["text"]}, text, {}
        ),
        "generate": _signature(_split(_generate, "text"), text, KNOBS),
        "beams": _signature(named(_beams), text, {"length_penalty": (tf.float32, [1])}),
        "prefill": _signature(_split(_prefill, "text"), text, KNOBS),
        "decode": _signature(decode, state, {"max_tokens": (tf.int32, [4])}),
        "chat": _signature(_split(_chat, *turns), turns, KNOBS),
        "score": _signature(named(_score), text, {}),
        "classify": _signature(named(_classify), text, {}),
        "tokenize": _signature(named(_tokenize), text, {}),
        "detokenize": _signature(named(_detokenize), ids, {}),
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
