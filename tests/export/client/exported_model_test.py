"""A client of a real exported model gives what `generate` gives in Python."""

from pathlib import Path

import pytest

from keras_gpt.export.client import GPTClient, RowError


@pytest.mark.slow
def test_texts_tokens_and_errors(causal_lm, exported, backend_of, servers):
    prompts = ["The king", "", "O my\n\nlord", "caf\u00e9 \u4e2d"]
    knobs = {"temperature": [0.0, 1.0, 0.7, 1.0], "seed": [1, 2, 3, 4], "top_k": 9}
    expected = causal_lm.generate(
        prompts, max_new_tokens=7, strip_prompt=True, return_details=True, **knobs
    )
    model = backend_of(Path(exported))
    model.version = 1
    for kind in ("grpc", "rest"):
        with GPTClient(servers(model, kind=kind), version=1) as client:
            details = client.generate(prompts, return_details=True, **knobs)
            assert client.generate(prompts, **knobs) == expected.text
            with pytest.raises(RowError, match=r"^inputs\[1\] must be shorter than"):
                client.generate(["The king", "word " * 300])
        assert [row.text for row in details] == expected.text
        for row, token_ids in zip(details, expected.token_ids, strict=True):
            assert row.token_ids.tolist() == token_ids.tolist()
