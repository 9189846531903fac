"""Examples of tasks out of files, as the tools' flags say."""

import json

import numpy as np
import pytest
from absl import flags as absl_flags

from keras_gpt import models
from keras_gpt.tools import task_flags
from keras_gpt.training import (
    TASK_KINDS,
    ExampleColumns,
    TaskExamples,
    longest_row,
    score_task,
)

ROW = '"good, he said"\tgood\n'


@pytest.mark.parametrize(
    ("given", "text"),
    [([], '"good, he said"'), (["--quotes"], "good, he said")],
)
def test_quotes_of_tsv_are_text_unless_a_flag_says_otherwise(given, text, tmp_path):
    flags = absl_flags.FlagValues()
    task_flags.define_task_flag(flags)
    task_flags.define_column_flags(flags)
    flags(["finetune", "--task=text_classifier", *given])
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + ROW + "bad\tbad\n")
    examples = task_flags.read(flags, [str(path)], flags.task)
    assert examples.x == [text, "bad"]
    assert examples.label_names == ["bad", "good"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_numbers_of_a_regression_may_be_decimals(name, tmp_path):
    def read(*labels):
        rows = [json.dumps({"text": "a", "label": label}) for label in labels]
        if name == "a.csv":
            rows = ["text,label", *(f"a,{label}" for label in labels)]
        path = tmp_path / name
        path.write_text("\n".join(rows) + "\n")
        columns = ExampleColumns(regression=True)
        return TASK_KINDS["text_classifier"].read([str(path)], columns).y

    assert read("0.5", 2, -1e-3) == [0.5, 2.0, -1e-3]
    for wrong in ("good", "nan", "1e999", ""):
        with pytest.raises(ValueError, match="line . must have a finite number in the"):
            read(1, wrong)
    with pytest.raises(ValueError, match="multi_label must be False for a regression"):
        ExampleColumns(regression=True, multi_label=True)


def test_questions_of_two_tables_are_all_counted(tmp_path):
    folder = tmp_path / "my.json.d"  # whose name says nothing of its files
    folder.mkdir()
    paths = [folder / "a.csv", folder / "b.csv"]
    for path in paths:
        path.write_text("question,context,answer_text\nwho,it is she,she\n")
    read = TASK_KINDS["question_answering"].read
    found = read([str(path) for path in paths], ExampleColumns())
    assert [question.id for question in found.questions] == ["0", "1"]
    squad = tmp_path / "squad.json"
    answer = {"text": "she", "answer_start": 6}
    entry = {"id": "1", "question": "who", "answers": [answer]}
    paragraph = {"context": "it is she", "qas": [entry]}
    squad.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    with pytest.raises(ValueError, match="each question's id once, got '1' twice"):
        read([str(path) for path in (*paths, squad)], ExampleColumns())


def make(cls, tokenizer, **kwargs):
    backbone = models.GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=tokenizer.vocabulary_size(), num_layers=1
    )
    return cls(backbone, preprocessor=cls.preprocessor_cls(tokenizer), **kwargs)


def test_the_longest_row_is_that_of_all_examples(tokenizer):
    task = make(models.GPTCausalLM, tokenizer)
    context = task.backbone.config.max_sequence_length
    task.preprocessor.sequence_length = context
    short = TaskExamples(["the king"], None)
    assert longest_row(task, short, multiple=1) < 8
    longer = "the king is dead"
    found = longest_row(task, short, TaskExamples([longer], None), multiple=1)
    assert found == len(task.preprocessor.tokenizer(longer)) + 1  # the end token
    assert task.preprocessor.sequence_length == context
    long = TaskExamples(["the king " * 200, "a lord " * 200], None)
    with pytest.warns(UserWarning, match=f"2 texts .* sequence_length = {context}"):
        assert longest_row(task, long) == context


def test_scores_where_no_label_is_likely(tokenizer):
    names = ["a", "b", "c"]
    task = make(
        models.GPTTextClassifier, tokenizer, label_names=names, multi_label=True
    )
    task.head.kernel.assign(np.zeros(task.head.kernel.shape))
    examples = TaskExamples(["the king", "a lord"], [[], ["a", "c"]])
    scores = score_task(task, examples)  # a probability of 0.5 is not above it
    assert scores.metrics == {"accuracy": 0.5, "f1_micro": 0.0, "f1_macro": 0.0}
    assert task.evaluate(["the king"], [[]], verbose=0)[0] == pytest.approx(np.log(2))


def test_words_that_are_cut_are_told(tokenizer):
    task = make(models.GPTTokenClassifier, tokenizer, label_names=["O", "B-X"])
    task.preprocessor.sequence_length = 3
    words = [["a", "lord", "citizen", "people"]]
    with pytest.warns(UserWarning, match="cut"):
        scores = score_task(task, TaskExamples(words, [["O", "B-X", "O", "O"]]))
    assert 0 < scores.metrics["cut_words"] < 4
    assert "entity_f1" in scores.metrics
