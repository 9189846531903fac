"""Sorts texts by a label: is a review good or bad?

Run it by `python -m keras_gpt.tools.examples.text_classification`, or cell by cell.
"""

import itertools
import tempfile

import keras

from keras_gpt.export import export_saved_model
from keras_gpt.models import GPTTextClassifier
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 24  # tokens of a row
EPOCHS = 4
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: one sentence in many variations. "not" turns its meaning round, so no
# single word tells the label. Some of the combinations are held out.
DISHES = ["soup", "bread", "fish", "rice", "cake", "tea", "salad", "pie"]
GOOD = ["great", "lovely", "superb", "tasty", "fine"]
BAD = ["awful", "bland", "poor", "cold", "stale"]

examples = [
    (
        f"{start} {dish} was {negation}{adjective}.",
        "good" if (adjective in GOOD) == (negation == "") else "bad",
    )
    for start, dish, negation, adjective in itertools.product(
        ["The", "Our", "My"], DISHES, ["", "not "], GOOD + BAD
    )
]
train, held_out = split(examples, held_out=80)
texts, labels = columns(train)
print(f"{len(train)} reviews to train on, such as {train[0]}")

# %% The model: the network of a preset, with a new head for our labels.
classifier = GPTTextClassifier.from_preset(
    PRESET or small_preset(texts), label_names=["bad", "good"]
)
classifier.preprocessor.sequence_length = LENGTH

# %% Training, as of any Keras model, but on plain strings.
classifier.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = classifier.fit(
    texts, labels, epochs=EPOCHS, batch_size=16, validation_split=0.1, verbose=2
).history

# %% How well does it do on combinations that it has not seen?
texts, labels = columns(held_out)
loss, accuracy = classifier.evaluate(texts, labels, verbose=0)
print(f"accuracy on {len(texts)} held-out reviews: {accuracy:.3f}")

# %% Labels of new texts, and how probable each label is.
new = ["The soup was not awful.", "My tea was not tasty.", "Our pie was superb."]
found = classifier.classify(new)
print(classifier.label_names)
for text, label, row in zip(new, found.labels, found.probabilities, strict=True):
    print(f"{text:24} {label:5} {row.round(3)}")

# %% The exported folder holds tokenizer and network; to ask it takes TensorFlow alone.
folder = export_saved_model(classifier, tempfile.mkdtemp())
served = ask(folder, "serving_default", text=new)
print("the exported model says:", served["label"])
