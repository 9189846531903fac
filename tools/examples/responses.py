"""Trains a language model on prompts with the responses that it is to give.

Run it by `python -m keras_gpt.tools.examples.responses`, or cell by cell.
"""

import itertools
import tempfile
from typing import Any

import keras

from keras_gpt import GPTCausalLM
from keras_gpt.export import export_saved_model
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 40  # tokens of a row, which holds prompt and response
EPOCHS = 7
LEARNING_RATE = 3e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: orders as people write them, and the lines that a machine can read.
SIZES = ["small", "medium", "large"]
DRINKS = ["tea", "coffee", "cocoa", "juice"]
EXTRAS = ["milk", "sugar", "ice"]
FORMS = [
    "A {size} {drink} with {extra}, please.\n",
    "Hi! {drink} with {extra}, {size}.\n",
]

examples = []
for form, size, drink, extra in itertools.product(FORMS, SIZES, DRINKS, EXTRAS):
    slots = {"size": size, "drink": drink, "extra": extra}
    response = ", ".join(f"{name}: {value}" for name, value in slots.items())
    examples.append((form.format(**slots), response))
train, held_out = split(examples, held_out=20)
prompts, responses = columns(train)
print(f"{len(train)} orders to train on, such as {train[0]}")

# %% The model.
lm = GPTCausalLM.from_preset(PRESET or small_preset(prompts + responses))
lm.preprocessor.sequence_length = LENGTH

# %% Training. Only the tokens of the responses count, and the end token after them: so
# the model learns to answer, and to stop, but not to write orders.
lm.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = lm.fit(
    {"prompts": prompts, "responses": responses}, epochs=EPOCHS, batch_size=4, verbose=2
).history

# %% How many orders are exactly right, of combinations that it has not seen? A
# temperature of 0 takes the most probable token each time.
prompts, responses = columns(held_out)
options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 24}
found = lm.generate(prompts, strip_prompt=True, **options)
accuracy = sum(a == b for a, b in zip(found, responses, strict=True)) / len(responses)
print(f"exact responses to {accuracy:.3f} of {len(responses)} held-out orders")

# %% Responses to new orders.
new = ["A large cocoa with ice, please.\n", "Hi! tea with milk, medium.\n"]
for text in lm.generate(new, **options):
    print(text)

# %% The exported folder holds tokenizer, network and the loop that generates; to ask it
# takes TensorFlow alone.
folder = export_saved_model(lm, tempfile.mkdtemp(), **options)
served = ask(folder, "serving_default", text=new)
print("the exported model says:", served["generated_text"])
