"""Classifies pairs of texts: does the second follow from the first?

Run it by `python -m keras_gpt.tools.examples.entailment`, or cell by cell.
"""

import itertools
import tempfile

import keras

from keras_gpt.export import export_saved_model
from keras_gpt.models import GPTTextClassifier
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 24  # tokens of a row, which holds both texts
EPOCHS = 5
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one
LABELS = ["contradiction", "neutral", "entailment"]

# %% The data: premise, hypothesis and label. A place may be right or not, for the
# premise names none.
ANIMALS = ["dog", "cat", "horse", "mouse"]
STATES = ["asleep", "hungry", "happy", "tired"]

examples = []
for animal, state, first, second, place in itertools.product(
    ANIMALS, STATES, ["is", "is not"], ["is", "is not"], ["", " at home", " in town"]
):
    premise, hypothesis = f"The {animal} {first} {state}", f"It {second} {state}{place}"
    agrees = "neutral" if place else "entailment"
    label = agrees if first == second else "contradiction"
    examples.append((premise, hypothesis, label))
train, held_out = split(examples, held_out=48)
premises, hypotheses, labels = columns(train)
print(f"{len(train)} pairs to train on, such as {train[0]}")

# %% The model. A pair becomes one row: first text, end token, second text, end token.
classifier = GPTTextClassifier.from_preset(
    PRESET or small_preset(premises + hypotheses, vocabulary_size=300),
    label_names=LABELS,
)
classifier.preprocessor.sequence_length = LENGTH

# %% Training: a tuple of two lists is a list of pairs.
classifier.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = classifier.fit(
    (premises, hypotheses), labels, epochs=EPOCHS, batch_size=8, verbose=2
).history

# %% How well does it do on combinations that it has not seen?
premises, hypotheses, labels = columns(held_out)
loss, accuracy = classifier.evaluate((premises, hypotheses), labels, verbose=0)
print(f"accuracy on {len(labels)} held-out pairs: {accuracy:.3f}")

# %% Labels of new pairs.
premise = "The cat is not hungry"
claims = ["It is hungry", "It is not hungry", "It is not hungry at home"]
found = classifier.classify(([premise] * len(claims), claims))
for claim, label in zip(claims, found.labels, strict=True):
    print(f"{premise} => {claim}: {label}")

# %% The exported folder holds tokenizer and network; to ask it takes TensorFlow alone.
folder = export_saved_model(classifier, tempfile.mkdtemp())
served = ask(folder, "classify", text=[premise] * len(claims), second_text=claims)
print("the exported model says:", served["label"])
