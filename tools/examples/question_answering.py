"""Answers questions by parts of a text, or says that the text does not tell.

Run it by `python -m keras_gpt.tools.examples.question_answering`, or cell by cell.
"""

import random
import tempfile
from typing import Any

import keras

from keras_gpt.export import export_saved_model
from keras_gpt.models import GPTQuestionAnswering
from keras_gpt.tools.examples.small import ask, columns, small_preset, split

PRESET = None  # or a directory, or a name such as "gpt2"
LENGTH = 40  # tokens of a row, which holds the question and a part of the text
EPOCHS = 6
LEARNING_RATE = 2e-3  # for a network that begins at random; 5e-5 for a trained one

# %% The data: a question, a text, and the answer with its place. The text tells three
# facts of four, in any order; "" is the answer to what it does not tell.
FACTS = {
    "Where": ["to Rome", "to Oslo", "to Cairo", "to Lima"],
    "When": ["on Monday", "on Friday", "in May", "in June"],
    "How": ["by train", "by bus", "by ship", "by car"],
    "Why": ["for work", "for love", "for fun", "for money"],
}
NAMES = ["Ada", "Ben", "Cleo", "Dan"]

draw = random.Random(0)
examples: set[Any] = set()
while len(examples) < 600:
    name, told = draw.choice(NAMES), draw.sample(list(FACTS), 3)
    facts = {word: draw.choice(FACTS[word]) for word in told}
    context = f"{name} went {' '.join(facts.values())}."
    for word in FACTS:
        answer = facts.get(word, "")
        place = context.index(answer) if answer else 0
        examples.add((f"{word} did {name} go?", context, answer, place))
train, held_out = split(sorted(examples), held_out=100)
print(f"{len(train)} questions to train on, such as {train[0]}")


def as_dicts(rows: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns inputs and targets as the model takes them."""
    questions, contexts, answers, places = columns(rows)
    x = {"question": questions, "context": contexts}
    return x, {"answer_text": answers, "answer_start": places}


x, y = as_dicts(train)

# %% The model: it gives each token two scores, of being the answer's first and its
# last. A text longer than a row is read in windows that overlap.
reader = GPTQuestionAnswering.from_preset(
    PRESET or small_preset(x["question"] + x["context"])
)
reader.preprocessor.sequence_length = LENGTH

# %% Training.
reader.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=1.0))
history = reader.fit(x, y, epochs=EPOCHS, batch_size=16, verbose=2).history

# %% How many answers are exactly right, of combinations that it has not seen?
x, y = as_dicts(held_out)
found = reader.answer(**x)
right = [a.text == text for a, text in zip(found, y["answer_text"], strict=True)]
accuracy = sum(right) / len(right)
print(f"exact answers to {accuracy:.3f} of {len(right)} held-out questions")

# %% Answers to new questions. The score tells how much better than no answer it is.
text = "Cleo went by ship for love to Lima."
questions = [f"{word} did Cleo go?" for word in FACTS]
answers = reader.answer(questions, [text] * 4)
for question, answer in zip(questions, answers, strict=True):
    print(question, answer)

# %% The exported folder holds tokenizer and network; to ask it takes TensorFlow alone.
folder = export_saved_model(reader, tempfile.mkdtemp())
served = ask(folder, "answer", question=questions, context=[text] * 4)
print("the exported model says:", served["text"])
