"""The Beam pipeline writes what the local runner writes."""

import importlib.util

import pytest

from keras_gpt.data import DataSource, PrepareConfig, beam_pipeline, prepare_data

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache-beam is not installed.",
)


def build(folder, tokenizer, pattern, runner):
    prepare_data(
        PrepareConfig(
            8, document="line", num_shards=3, validation_fraction=0.2, segments=True
        ),
        sources=[
            DataSource("one", (str(pattern),)),
            DataSource("two", (str(pattern.parent / "*.txt"),), 2.0),
        ],
        tokenizer=tokenizer,
        output_dir=str(folder),
        runner=runner,
        workers=1,
    )
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@needs_beam
@pytest.mark.filterwarnings("ignore")
def test_beam_and_local_write_the_same_bytes(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_gpt.data.prepare.PIECE_BYTES", 700)
    for name in ("a", "b"):
        lines = [f"{name} king {n * n % 50} dead" for n in range(200)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    found = [
        build(tmp_path / runner, tokenizer, tmp_path / "a.txt", runner)
        for runner in ("local", "beam")
    ]
    assert found[0] == found[1]
    assert any(name.startswith("two/train") for name in found[0])


@needs_beam
@pytest.mark.filterwarnings("ignore")
def test_an_error_is_the_readers_own(tokenizer, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xff")
    with pytest.raises(ValueError) as error:
        build(tmp_path / "out", tokenizer, tmp_path / "bad.txt", "beam")
    path = str(tmp_path / "bad.txt")
    assert str(error.value).startswith(f"{path!r} must be UTF-8, got byte 0xff at")
    assert not (tmp_path / "out/dataset.json").exists()


def test_beam_that_is_absent_is_named(tokenizer, tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    (tmp_path / "a.txt").write_text("a king")
    monkeypatch.setattr(beam_pipeline.importlib, "import_module", absent)
    with pytest.raises(ValueError, match="needs the package apache-beam: pip install"):
        build(tmp_path / "out", tokenizer, tmp_path / "a.txt", "beam")
