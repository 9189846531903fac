"""Labels the words of texts: which are names of people, and which of places?

Run it by `python -m keras_gpt.tools.examples.token_classification`, or cell by cell.
"""

import itertools
import tempfile

import keras

from keras_gpt.export import export_saved_model
from keras_gpt.models import GPTTokenClassifier
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 24  # tokens of a row
EPOCHS = 5
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: lists of words, each with its label. All these names are of people and of
# places, too, so only what stands before a name tells which of the two it is.
NAMES = ["Paris", "Sydney", "Chelsea", "Florence", "Austin", "Victoria"]
OPENINGS = ["today", "then", ""]
MIDDLES = ["met", "phoned", "went to", "lives in"]

examples = []
for opening, first, middle, second in itertools.product(
    OPENINGS, NAMES, MIDDLES, NAMES
):
    words = [*opening.split(), first, *middle.split(), second]
    labels = ["other"] * len(words)
    labels[words.index(first)] = "person"
    labels[-1] = "place" if " " in middle else "person"
    examples.append((words, labels))
train, held_out = split(examples, held_out=80)
texts, labels = columns(train)
print(f"{len(train)} texts to train on, such as {train[0]}")

# %% The model: a label for each word. A word of several tokens has that of its last.
tagger = GPTTokenClassifier.from_preset(
    PRESET or small_preset([" ".join(words) for words in texts]),
    label_names=["other", "person", "place"],
)
tagger.preprocessor.sequence_length = LENGTH

# %% Training.
tagger.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = tagger.fit(texts, labels, epochs=EPOCHS, batch_size=16, verbose=2).history

# %% How many held-out texts have all words right?
texts, labels = columns(held_out)
found = tagger.tag(texts)
accuracy = sum(a == b for a, b in zip(found, labels, strict=True)) / len(texts)
print(f"all words right in {accuracy:.3f} of {len(texts)} held-out texts")

# %% Labels of the words of new texts.
new = ["then Sydney phoned Victoria", "Paris lives in Austin"]
split_up = [text.split() for text in new]
for row, tags in zip(split_up, tagger.tag(split_up), strict=True):
    print(list(zip(row, tags, strict=True)))

# %% The exported folder holds tokenizer and network; to ask it takes TensorFlow alone.
# Rows of a tensor have one length: "" is no word.
folder = export_saved_model(tagger, tempfile.mkdtemp())
served = ask(folder, "tag", words=split_up)
print("the exported model says:", served["labels"])
