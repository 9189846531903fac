"""Chooses among answers: what fits the beginning best?

Run it by `python -m keras_gpt.tools.examples.multiple_choice`, or cell by cell.
"""

import random
import tempfile
from typing import Any

import keras

from keras_gpt.export import export_saved_model
from keras_gpt.models import GPTMultipleChoice
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 24  # tokens of a row, which holds the beginning and one choice
EPOCHS = 5
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: a beginning, two to four choices, and the number of the right one, of
# which any order is as likely.
WISHES = {
    "to eat": ["bread", "soup", "an apple", "rice"],
    "to drink": ["tea", "water", "milk", "juice"],
    "to wear": ["a coat", "a hat", "shoes", "gloves"],
    "to read": ["a book", "a letter", "the news", "a poem"],
}
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve"]

draw = random.Random(0)
examples: set[Any] = set()
while len(examples) < 400:
    wishes = draw.sample(list(WISHES), draw.randint(2, 4))
    offered = tuple(draw.choice(WISHES[wish]) for wish in wishes)
    right = draw.randrange(len(offered))
    examples.add((f"{draw.choice(NAMES)} wants {wishes[right]}:", offered, right))
train, held_out = split(sorted(examples), held_out=80)
contexts, choices, labels = columns(train)
print(f"{len(train)} questions to train on, such as {train[0]}")

# %% The model: it scores each choice after the beginning.
words = [word for fitting in WISHES.values() for word in fitting]
model = GPTMultipleChoice.from_preset(PRESET or small_preset(contexts + words))
model.preprocessor.sequence_length = LENGTH

# %% Training. Rows may have different numbers of choices.
model.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = model.fit(
    (contexts, choices), labels, epochs=EPOCHS, batch_size=16, verbose=2
).history

# %% How well does it do on combinations that it has not seen?
contexts, choices, labels = columns(held_out)
loss, accuracy = model.evaluate((contexts, choices), labels, verbose=0)
print(f"accuracy on {len(labels)} held-out questions: {accuracy:.3f}")

# %% New questions.
new = ["Ada wants to drink:", "Ben wants to wear:"]
menus = [["rice", "milk", "a poem"], ["gloves", "the news", "bread"]]
found = model.choose(new, menus)
for context, choice, row in zip(new, *found, strict=True):
    print(f"{context} {choice} {row.round(3)}")

# %% The exported folder holds tokenizer and network; to ask it takes TensorFlow alone.
folder = export_saved_model(model, tempfile.mkdtemp())
served = ask(folder, "choose", text=new, choices=menus)
print("the exported model says:", served["choice"])
