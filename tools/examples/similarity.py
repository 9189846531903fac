"""Scores how alike two texts are, whichever comes first.

Run it by `python -m keras_gpt.tools.examples.similarity`, or cell by cell.
"""

import itertools
import tempfile

import keras
import numpy as np

from keras_gpt.export import export_saved_model
from keras_gpt.models import GPTSimilarity
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 40  # tokens of a row, which holds both texts
EPOCHS = 6
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: pairs of reviews and how near they are: 1 where they say the same, 0
# where one says the opposite. Each pair stands there in one order only.
GRADES = {"awful": 0.0, "fair": 0.5, "superb": 1.0}
DISHES = ["soup", "bread", "fish", "tea"]
FORMS = ["The {} was {}.", "What {}! It was {}."]

reviews = {
    form.format(dish, word): grade
    for form, dish, (word, grade) in itertools.product(FORMS, DISHES, GRADES.items())
}
examples = [
    (first, second, 1.0 - abs(reviews[first] - reviews[second]))
    for first, second in itertools.combinations_with_replacement(reviews, 2)
]
train, held_out = split(examples, held_out=100)
first, second, scores = columns(train)
print(f"{len(train)} pairs to train on, such as {train[0]}")

# %% The model: one class is a number. `num_classes=2` or `label_names` would make it
# a classifier, of paraphrases for instance.
model = GPTSimilarity.from_preset(
    PRESET or small_preset(first + second, vocabulary_size=290), num_classes=1
)
model.preprocessor.sequence_length = LENGTH

# %% Training.
model.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = model.fit(
    (first, second), scores, epochs=EPOCHS, batch_size=4, verbose=2
).history

# %% How near are the scores of pairs that it has not seen?
first, second, scores = columns(held_out)
found = model.predict((first, second), verbose=0)[:, 0]
correlation = np.corrcoef(found, scores)[0, 1]
print(f"correlation on {len(scores)} held-out pairs: {correlation:.3f}")

# %% New pairs. Each is read in both orders, so that the order does not matter.
new = ["The tea was superb.", "What soup! It was fair.", "The fish was awful."]
pairs = ([new[0]] * 3, new)
both_ways = (pairs[0] + pairs[1], pairs[1] + pairs[0])
one_way, other_way = model.predict(both_ways, verbose=0).reshape(2, 3)
for text, a, b in zip(new, one_way, other_way, strict=True):
    print(f"{new[0]} {text:24} {a:.3f}, the other way round {b:.3f}")

# %% The exported folder holds tokenizer and network; to ask it takes TensorFlow alone.
folder = export_saved_model(model, tempfile.mkdtemp())
served = ask(folder, "compare", text=pairs[0], second_text=pairs[1])
print("the exported model says:", np.round(served["score"], 3))
