"""What makes two tokenizers the same."""

from __future__ import annotations

import hashlib
from typing import Any


def tokenizer_identity(tokenizer: Any) -> dict[str, Any]:
    """Returns the size of a tokenizer's vocabulary and a checksum of its tokens."""
    tokens = list(tokenizer.get_vocabulary())
    digest = hashlib.sha256("\n".join(map(str, tokens)).encode("utf-8"))
    return {
        "vocabulary_size": int(tokenizer.vocabulary_size()),
        "end_token_id": tokenizer.end_token_id,
        "sha256": digest.hexdigest(),
    }
