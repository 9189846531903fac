"""`keras-gpt finetune`, `evaluate --examples` and `export` of each kind of task."""

import json

import pytest
import tensorflow as tf

from keras_gpt.tools import cli

WORDS = ["king", "lord", "queen", "man"]


@pytest.fixture(scope="module")
def preset(causal_lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "preset"
    causal_lm.save_to_preset(str(path))
    return path


def write_csv(path, header, rows):
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def finetune(preset, task, train, output, *flags):
    return cli.main(
        [
            "finetune",
            f"--task={task}",
            f"--model={preset}",
            f"--train={train}",
            f"--output={output}",
            "--epochs=1",
            "--batch_size=4",
            "--jit_compile=false",
            *flags,
        ]
    )


def evaluated(model, data, output, *flags):
    command = ["evaluate", f"--model={model}", f"--examples={data}"]
    assert cli.main([*command, f"--output={output}", *flags]) == 0
    return json.loads((output / "metrics.json").read_text())


@pytest.fixture
def labelled(tmp_path):
    rows = [(f"{kind} {word}", kind) for kind in ("good", "bad") for word in WORDS]
    return write_csv(tmp_path / "train.csv", ["text", "label"], rows * 2)


def test_from_a_table_of_labels_to_a_served_classifier(
    preset, labelled, tmp_path, capsys
):
    output = tmp_path / "run"
    flags = (f"--validation={labelled}", "--epochs=3", "--learning_rate=0.003")
    assert finetune(preset, "text_classifier", labelled, output, *flags) == 0
    printed = capsys.readouterr().out
    assert "16 examples to train on, 16 held out, rows of 16 tokens" in printed
    report = json.loads((output / "report.json").read_text())
    assert report["held_out_metrics"]["accuracy"] > 0.9
    assert report["trained_parameters"] == report["parameters"]
    assert (output / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    again = evaluated(output / "model", labelled, tmp_path / "scores")
    assert again == report["held_out_metrics"]
    # Rows were short for the time of training; the model is for longer texts, too.
    saved = json.loads((output / "model" / "preprocessor.json").read_text())
    assert saved["config"]["sequence_length"] == 64  # the context
    changed = [*flags, "--label_column=text"]
    assert finetune(preset, "text_classifier", labelled, output, *changed) == 2
    assert "flags.label_column is 'label'" in capsys.readouterr().err
    lines = (tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines[:2]] == ["good", "good"]

    served = tmp_path / "served"
    command = ["export", f"--model={output / 'model'}", f"--output={served}"]
    assert cli.main(command) == 0
    model = tf.saved_model.load(str(served / "1"))
    found = model.signatures["serving_default"](text=tf.constant(["bad queen"]))
    assert found["label"].numpy().tolist() == [b"bad"]


# Columns of a file, its rows and further flags, by kind of task; and a metric.
KINDS = {
    "causal_lm": (
        ["prompt", "response"],
        [(f"who is {w}", f"the {w}") for w in WORDS],
        ["--prompt_column=prompt", "--response_column=response"],
        "perplexity",
    ),
    "similarity": (
        ["a", "b", "label"],
        [(w, v, int(w == v)) for w in WORDS for v in WORDS],
        ["--text_column=a", "--second_text_column=b"],
        "accuracy",
    ),
    "multiple_choice": (
        ["text", "choices", "label"],
        [(f"a {w}", f"{w}|none", 0) for w in WORDS],
        [],
        "accuracy",
    ),
    "token_classifier": (
        ["words", "label"],
        [(f"the {w}", "O B-X") for w in WORDS],
        [],
        "entity_f1",
    ),
    "question_answering": (
        ["question", "context", "answer_text"],
        [("who", f"it is {w}", w) for w in WORDS],
        [],
        "exact_match",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", KINDS)
def test_every_kind_of_task(preset, tmp_path, task):
    header, rows, flags, metric = KINDS[task]
    train = write_csv(tmp_path / "train.csv", header, rows)
    output = tmp_path / "run"
    more = [f"--validation={train}", "--lora_rank=2", "--layer_decay=0.9"]
    assert finetune(preset, task, train, output, *flags, *more) == 0
    report = json.loads((output / "report.json").read_text())
    assert 0 < report["trained_parameters"] < report["parameters"] / 4
    assert (output / "adapter.safetensors").exists()
    scores = evaluated(output / "model", train, tmp_path / "scores", *flags)
    assert scores[metric] == pytest.approx(
        report["held_out_metrics"][metric], rel=1e-3
    )


def error(capsys, code, expected):
    found = capsys.readouterr().err
    assert code in (1, 2)
    assert found.count("\n") == 1
    assert expected in found


def test_bad_input_is_one_line(preset, labelled, tmp_path, capsys):
    output = tmp_path / "run"

    def run(task, train, *flags):
        return finetune(preset, task, train, output, *flags)

    one = write_csv(tmp_path / "one.csv", ["text", "label"], [("a", "b")] * 3)
    error(capsys, run("text_classifier", one), "two labels or more")
    code = run("text_classifier", labelled, "--label_column=kind")
    error(capsys, code, "kind")
    broken = tmp_path / "broken.csv"
    broken.write_text('text,label\na,"b\nc,d\n')
    error(capsys, run("text_classifier", broken), f"{str(broken)!r} line 2")
    wrong = write_csv(tmp_path / "wrong.csv", ["text", "label"], [("a", "fair")])
    code = run("text_classifier", labelled, f"--validation={wrong}")
    error(capsys, code, "got 'fair'")
    pair = write_csv(
        tmp_path / "q.csv", ["question", "context", "answer_text"], [("a", "b", "c")]
    )
    error(capsys, run("question_answering", pair), "'c'")
    error(capsys, run("text_classifier", labelled, "--epochs=0"), "epochs must be")
    code = run("text_classifier", labelled, "--sequence_length=99")
    error(capsys, code, "sequence_length must be at most the model's context, 64, got")
    code = run("token_classifier", labelled, "--multi_label")
    error(capsys, code, "flag --multi_label is for the tasks text_classifier and")
    code = run("text_classifier", labelled, "--multi_label", "--regression")
    error(capsys, code, "cannot be given together")
    assert not output.exists()
    code = run("text_classifier", labelled, "--lora_rank=2", "--lora_targets=query")
    error(capsys, code, "target_layer_names must be of")
    assert cli.main(["finetune", "--task=text_classifier"]) == 1
    error(capsys, 1, "flag --model is required")
    assert cli.main(["evaluate", f"--model={preset}"]) == 1
    error(capsys, 1, "one of the flags --input and --examples is required")
