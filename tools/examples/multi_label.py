"""Gives texts any number of labels: what do customers complain about?

Run it by `python -m keras_gpt.tools.examples.multi_label`, or cell by cell.
"""

import itertools
import tempfile

import keras

from keras_gpt.export import export_saved_model
from keras_gpt.models import GPTTextClassifier
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 64  # tokens of a row
EPOCHS = 5
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: complaints of up to three sentences, and the list of their labels, which
# is empty where there is none to give.
SENTENCES = {
    "delivery": ["The parcel was late.", "It came to the wrong house."],
    "quality": ["The handle broke.", "It has a scratch."],
    "price": ["It costs too much.", "I want my money back."],
}
OTHERS = ["Hello!", "Thank you.", "I am Ada."]

examples = []
for parts in itertools.product(*([*SENTENCES[name], ""] for name in SENTENCES), OTHERS):
    labels = [name for name, part in zip(SENTENCES, parts, strict=False) if part]
    sentences = [part for part in parts if part]
    examples += [(" ".join(order), labels) for order in (sentences, sentences[::-1])]
train, held_out = split(examples, held_out=40)
texts, labels = columns(train)
print(f"{len(train)} complaints to train on, such as {train[0]}")

# %% The model: one yes or no for each label, in place of one label of them all.
classifier = GPTTextClassifier.from_preset(
    PRESET or small_preset(texts), label_names=list(SENTENCES), multi_label=True
)
classifier.preprocessor.sequence_length = LENGTH

# %% Training.
classifier.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = classifier.fit(texts, labels, epochs=EPOCHS, batch_size=16, verbose=2).history

# %% How many held-out texts get all their labels, and no others?
texts, labels = columns(held_out)
found = classifier.classify(texts).labels
accuracy = sum(a == b for a, b in zip(found, labels, strict=True)) / len(texts)
print(f"all labels right for {accuracy:.3f} of {len(texts)} held-out complaints")

# %% Labels of new texts, and how probable each label is, whatever the others.
new = ["Hello! It has a scratch.", "It costs too much. The parcel was late. Thank you."]
for text, *row in zip(new, *classifier.classify(new), strict=True):
    print(text, *row)

# %% The exported folder holds tokenizer and network; to ask it takes TensorFlow alone.
folder = export_saved_model(classifier, tempfile.mkdtemp())
served = ask(folder, "serving_default", text=new)
print("the exported model says:", served["probabilities"], "of", served["labels"][0])
