"""Trains a language model on conversations, and talks to it.

Run it by `python -m keras_gpt.tools.examples.chat`, or cell by cell.
"""

import itertools
import tempfile
from typing import Any

import keras

from keras_gpt import ChatTemplate, GPTCausalLM
from keras_gpt.export import export_saved_model
from keras_gpt.tools.examples.small import ask, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 64  # tokens of a row, which holds a whole conversation
EPOCHS = 12
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: a guest orders in two messages, and the last answer needs both.
SIZES = ["small", "medium", "large", "huge"]
DRINKS = ["tea", "coffee", "cocoa", "juice"]
ORDERS = ["{}, please", "I want {}", "Give me {}", "My friend wants {}"]

examples = [
    [
        {"role": "user", "content": order.format(drink)},
        {"role": "assistant", "content": f"What size of {drink}?"},
        {"role": "user", "content": size},
        {"role": "assistant", "content": f"One {size} {drink}."},
    ]
    for order, drink, size in itertools.product(ORDERS, DRINKS, SIZES)
]
train, held_out = split(examples, held_out=16)
for message in train[0]:
    print(message)


def column(conversations: list[Any], key: str) -> list[list[str]]:
    """Returns what stands under a key in the messages of conversations."""
    return [[message[key] for message in messages] for messages in conversations]


role, content = column(train, "role"), column(train, "content")

# %% The model. A template says what stands around the messages of each role; it is
# saved and exported with the model.
lm = GPTCausalLM.from_preset(
    PRESET or small_preset(list(itertools.chain(*content)), vocabulary_size=310)
)
lm.preprocessor.sequence_length = LENGTH
lm.preprocessor.chat_template = ChatTemplate.named("plain")

# %% Training. Only the tokens of the assistant's messages count.
lm.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = lm.fit(
    {"role": role, "content": content}, epochs=EPOCHS, batch_size=2, verbose=2
).history

# %% How many last answers are exactly right, of orders that it has not seen? `generate`
# takes the same options: a temperature of 0 takes the most probable token each time.
options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 24}
found = lm.chat([messages[:-1] for messages in held_out], **options)
expected = [messages[-1]["content"] for messages in held_out]
accuracy = sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
print(f"exact last answers in {accuracy:.3f} of {len(expected)} held-out conversations")

# %% A new conversation, message by message.
messages = []
for text in ("I want cocoa", "huge"):
    messages.append({"role": "user", "content": text})
    messages.append({"role": "assistant", "content": lm.chat(messages, **options)})
for message in messages:
    print(f"{message['role']:9} {message['content']}")

# %% The exported folder holds tokenizer, template, network and the loop that generates;
# to ask it takes TensorFlow alone.
folder = export_saved_model(lm, tempfile.mkdtemp(), **options)
served = ask(
    folder, "chat", role=[["user"]], content=[["Give me juice"]], num_messages=[1]
)
print("the exported model says:", served["generated_text"])
