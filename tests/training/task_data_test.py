"""Examples of tasks out of files, as the tools' flags say."""

import pytest
from absl import flags as absl_flags

from keras_gpt.tools import task_flags

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
    examples = task_flags.read(flags, [str(path)])
    assert examples.x == [text, "bad"]
    assert examples.label_names == ["bad", "good"]
