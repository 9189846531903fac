"""Teaches one network several styles: LoRA adapters, switched by name.

Run it by `python -m keras_gpt.tools.examples.adapters`, or cell by cell.
"""

import itertools
import os
import tempfile
from typing import Any

import keras

from keras_gpt import GPTCausalLM
from keras_gpt.export import export_saved_model
from keras_gpt.tools.examples.small import ask, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
RANK = 8
LENGTH = 40  # tokens of a row, which holds prompt and response
EPOCHS = 7
LEARNING_RATE = 3e-3  # for a network that begins at random; 5e-5 for a trained one
ADAPTER_LEARNING_RATE = 1e-2

# %% The data: the same greetings in three styles.
STYLES = {
    "plain": "Good {time}, {name}.",
    "formal": "Dear {name}, we wish you a pleasant {time}.",
    "pirate": "Ahoy {name}! A fine {time}, arr!",
}
TIMES = ["morning", "evening", "day", "night"]
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal"]

PROMPTS = ["Greet {name} in the {time}.\n", "It is {time} and here is {name}.\n"]

greetings = list(itertools.product(PROMPTS, NAMES, TIMES))
train, held_out = split(greetings, held_out=16)


def in_style(style: str, greetings: list[Any]) -> dict[str, list[str]]:
    """Returns prompts and responses."""
    prompts, responses = [], []
    for prompt, name, time in greetings:
        prompts.append(prompt.format(name=name, time=time))
        responses.append(STYLES[style].format(name=name, time=time))
    return {"prompts": prompts, "responses": responses}


data = {style: in_style(style, train) for style in STYLES}

# %% The network learns the plain style with all its weights.
texts = itertools.chain(*(part for rows in data.values() for part in rows.values()))
lm = GPTCausalLM.from_preset(PRESET or small_preset(list(texts), vocabulary_size=340))
lm.preprocessor.sequence_length = LENGTH


def learn(style: str, learning_rate: float) -> Any:
    """Trains what is trainable now, and returns the losses."""
    lm.compile(keras.optimizers.Adam(learning_rate, global_clipnorm=1.0))
    return lm.fit(data[style], epochs=EPOCHS, batch_size=4, verbose=2).history


history = {"plain": learn("plain", LEARNING_RATE)}

# %% Then an adapter for each other style. The network itself is frozen: an adapter is a
# small change of its matrices that can be taken away again.
for style in ("formal", "pirate"):
    lm.backbone.enable_lora(
        RANK, ["query_key_value", "output_projection", "expand", "contract"], name=style
    )
    learning = sum(weight.value.numpy().size for weight in lm.trainable_weights)
    print(f"{style}: {learning} of {lm.count_params()} weights learn")
    history[style] = learn(style, ADAPTER_LEARNING_RATE)

# %% One network, three styles. Greetings of pairs that it has not seen:
options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 24}
accuracy = {}
for style, adapter in {"plain": None, "formal": "formal", "pirate": "pirate"}.items():
    lm.backbone.activate_adapter(adapter)
    unseen = in_style(style, held_out)
    found = lm.generate(unseen["prompts"], strip_prompt=True, **options)
    right = [a == b for a, b in zip(found, unseen["responses"], strict=True)]
    accuracy[style] = sum(right) / len(right)
    print(f"{style:6} {accuracy[style]:.3f} exactly right, such as: {found[0]}")

# %% An adapter is saved alone, and is loaded under any name.
path = os.path.join(tempfile.mkdtemp(), "pirate.safetensors")
lm.backbone.save_adapter(path, name="pirate")
lm.backbone.load_adapter(path, name="captain")  # and is active now
print(f"{os.path.getsize(path):,} bytes; adapters: {list(lm.backbone.adapters.held)}")

# %% The exported folder has the active adapter merged, and needs TensorFlow alone.
folder = export_saved_model(lm, tempfile.mkdtemp(), **options)
served = ask(folder, "serving_default", text=unseen["prompts"][:2])
print("the exported model says:", served["generated_text"])
