"""Questions with answers: SQuAD's JSON and flat tables."""

import copy
import gzip
import json

import pytest

from keras_gpt.data import Answer, QuestionExample, read_questions, read_squad

CONTEXT = "Ünder the oak 六 sat an old cat. The cat slept."
PARAGRAPH = {
    "context": CONTEXT,
    "qas": [
        {
            "id": "q1",
            "question": "Who sat?",
            "answers": [
                {"text": "an old cat", "answer_start": 20},
                {"text": "cat", "answer_start": 27},
            ],
        },
        {
            "id": "q2",
            "question": "Who flew?",
            "is_impossible": True,
            "answers": [],
            "plausible_answers": [{"text": "cat", "answer_start": 27}],
        },
    ],
}
SQUAD = {
    "version": "v2.0",
    "data": [{"title": "Cats", "paragraphs": [PARAGRAPH]}],
}


def test_squad(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(SQUAD).encode()))
    answers = (Answer("an old cat", 20), Answer("cat", 27))
    assert read_squad(tmp_path / "a.json.gz") == [
        QuestionExample("q1", "Who sat?", CONTEXT, answers, False),
        QuestionExample("q2", "Who flew?", CONTEXT, (), True),
    ]


def broken(change):
    squad = copy.deepcopy(SQUAD)
    change(squad, squad["data"][0]["paragraphs"][0])
    return squad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda _, p: p["qas"][0]["answers"][1].update(answer_start=26),
            "question 'q1' must have its answer 'cat' in its context at character 26, "
            "got ' ca'",
        ),
        (
            lambda _, p: p["qas"][0]["answers"][1].update(answer_start=-4),
            "question 'q1' must have its answer 'cat'",
        ),
        (
            lambda _, p: p["qas"][0]["answers"][0].update(text=""),
            "question 'q1' must have text in its answers",
        ),
        (
            lambda _, p: p["qas"][0]["answers"][0].update(answer_start=True),
            "question 'q1' must have an integer in the field 'answer_start', got True",
        ),
        (
            lambda _, p: p["qas"][0].update(answers=[]),
            "question 'q1' must have an answer, as it is not impossible",
        ),
        (
            lambda _, p: p["qas"][0].update(is_impossible=True),
            "question 'q1' must have no answer, as it is impossible, got 'an old cat'",
        ),
        (lambda _, p: p["qas"][1].update(id="q1"), "'q1' must have an id of its own"),
        (
            lambda _, p: p["qas"][1].pop("id"),
            r"data\[0\]\.paragraphs\[0\]\.qas\[1\] must have text in the field 'id'",
        ),
        (
            lambda _, p: p.update(context=3),
            r"data\[0\]\.paragraphs\[0\] must have text in the field 'context', got 3",
        ),
        (
            lambda _, p: p.update(context="\ud800"),
            r"data\[0\]\.paragraphs\[0\] must have text in the field 'context'",
        ),
        (lambda s, _: s.update(data={}), "must have a list in the field 'data'"),
        (lambda s, _: s.update(data=[3]), r"data\[0\] must be a JSON object, got 3"),
        (lambda s, _: s.update(data=[]), "must have at least one question"),
    ],
)
def test_broken_squad_files_name_the_question(tmp_path, change, message):
    (tmp_path / "a.json").write_text(json.dumps(broken(change)))
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read_squad(tmp_path / "a.json")


def test_a_squad_file_must_be_json(tmp_path):
    (tmp_path / "a.json").write_text('{"data": [')
    with pytest.raises(ValueError, match=r"a\.json' must be JSON: "):
        read_squad(tmp_path / "a.json")


FLAT = [
    {"question": "Who sat?", "context": CONTEXT, "answer_text": "cat"},
    {
        "question": "Who slept?",
        "context": CONTEXT,
        "answer_text": "cat",
        "answer_start": 36,
        "id": 7,
    },
    {"question": "Who flew?", "context": CONTEXT, "answer_text": ""},
]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_flat_tables(tmp_path, form):
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        lines = [json.dumps(row) for row in FLAT]
    else:
        names = ["question", "context", "answer_text", "answer_start", "id"]
        rows = [[str(row.get(name, "")) for name in names] for row in FLAT]
        lines = [",".join(row) for row in [names, *rows]]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_questions(path) == [
        QuestionExample("0", "Who sat?", CONTEXT, (Answer("cat", 27),), False),
        QuestionExample("7", "Who slept?", CONTEXT, (Answer("cat", 36),), False),
        QuestionExample("2", "Who flew?", CONTEXT, (), True),
    ]


def test_columns_may_have_other_names(tmp_path):
    (tmp_path / "a.csv").write_text("q,context,gold\nWho?,I do.,I\n")
    columns = {"question": "q", "answer_text": "gold"}
    assert read_questions(tmp_path / "a.csv", columns=columns) == [
        QuestionExample("0", "Who?", "I do.", (Answer("I", 0),), False)
    ]
    with pytest.raises(ValueError, match="columns must name some of .* 'answer'"):
        read_questions(tmp_path / "a.csv", columns={"answer": "gold"})


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("answer_text", "dog", r"line 2 \(question '0'\) .* in its context, got 'dog'"),
        ("answer_text,answer_start", "cat,0", r"at character 0, got 'Ünd'"),
        ("answer_text,answer_start", ",5", r"must have an answer_text .* got 5"),
        ("answer_text,answer_start", "cat,x", r"an integer in the column 'answer_s"),
        ("answer", "cat", r"must have the columns .*'answer_text'"),
        ("answer_text,id", f"cat,a\nq,{CONTEXT},cat,a", r"line 3 .* own, got it twice"),
    ],
)
def test_broken_flat_tables_name_the_line(tmp_path, header, row, message):
    content = f"question,context,{header}\nq,{CONTEXT},{row}\n"
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "a.csv")


def test_squad_development_set(shared_data):
    examples = read_squad(shared_data / "squad_dev-v1.1.json")
    assert len(examples) == 10_570
    assert len({example.context for example in examples}) == 2_067
    assert sum(len(example.answers) for example in examples) == 34_726
    assert examples[0].id == "56be4db0acb8001400a502ec"
    assert examples[0].answers[0] == Answer("Denver Broncos", 177)
