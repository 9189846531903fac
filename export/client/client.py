"""Calls exported models on TF Serving, or on `keras-gpt serve`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_gpt.export.client import inputs as client_inputs
from keras_gpt.export.client import results
from keras_gpt.export.client.deadlines import Deadline, check_timeout
from keras_gpt.export.client.served_model import ServedModel
from keras_gpt.export.client.streaming import check_tokens_per_call, stream_text
from keras_gpt.export.client.transport import Arrays
from keras_gpt.models.option_values import check_count

TIMEOUT = 60.0  # seconds
RETRIES = 3


class GPTClient:
    """A model on a server, called like a `GPTCausalLM`.

    Calls are safe to repeat, so they are while the server cannot be reached: the seed
    of each prompt is drawn once, and the server keeps nothing. Objects may be shared by
    threads, and used in a `with` statement.

    Args:
        target: string. `"host:port"` for gRPC; `"http://host:port"`, or https, for
            REST. For streams, gRPC is much the faster.
        model_name: string. Defaults to `"gpt"`.
        version: int or None. Defaults to None, the newest that is served.
        timeout: float. Seconds that a call may take, with all that it tries again.
            Defaults to 60.
        retries: int. How often a call is tried again, after growing delays, while the
            server cannot be reached or says that it is not available. Defaults to 3.
        credentials: `grpc.ChannelCredentials` of an encrypted gRPC channel. Defaults
            to None, without encryption.

    Raises:
        ValueError: if an argument is out of range.

    All calls raise `ServingError` if the server refuses or fails, `TimeoutError` if it
    is too late, and `ValueError` for arguments that the model does not take.
    """

    def __init__(
        self,
        target: str,
        *,
        model_name: str = "gpt",
        version: int | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        credentials: Any = None,
    ) -> None:
        if not isinstance(model_name, str) or not model_name:
            raise ValueError(f"model_name must be a name, got {model_name!r}.")
        if version is not None:
            check_count("version", version, least=1)
        check_count("retries", retries, least=0)
        self._timeout = check_timeout(timeout)
        self._model = ServedModel(
            target,
            model_name=model_name,
            version=version,
            retries=retries,
            credentials=credentials,
        )

    def __enter__(self) -> GPTClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections."""
        self._model.close()

    def generate(
        self,
        inputs: Any,
        *,
        signature_name: str = "generate",
        return_details: bool = False,
        timeout: float | None = None,
        **knobs: Any,
    ) -> Any:
        """Continues prompts.

        Args:
            inputs: string or bytes, or a list of them. The prompts.
            signature_name: string. Another signature with the same outputs, such as
                `"generate_xla"`.
            return_details: bool. Whether to return `GeneratedText`.
            timeout: float. Seconds, in place of the client's.
            **knobs: those that the exported model has, such as `max_new_tokens`,
                `temperature` or `stop_strings`, each one value or one for each prompt;
                lists, and the dict `logit_bias`, likewise. Those not given are as
                exported, but for `seed`: fresh for each prompt.

        Returns:
            string, without the prompt, or `GeneratedText`; for a list, a list of them.

        Raises:
            RowError: a `ValueError`, if the model refused a prompt, such as one that
                is too long, unless `return_details`. It holds the results of all.
        """
        texts, is_single = client_inputs.batch_of("inputs", inputs)
        rows = self._generate(signature_name, {"text": texts}, knobs, timeout)
        if not return_details:
            self._check_ends("inputs", texts.tolist(), rows)
        return _one_or_all(rows if return_details else _texts(rows), is_single)

    def chat(
        self,
        messages: Any,
        *,
        return_details: bool = False,
        timeout: float | None = None,
        **knobs: Any,
    ) -> Any:
        """Answers messages, through the template that the model was exported with.

        Args:
            messages: list of dicts with `role` and `content`, both strings; or a list
                of such lists.
            return_details: bool. As in `generate`.
            timeout: float. As in `generate`.
            **knobs: as in `generate`.

        Returns:
            As `generate`.
        """
        arrays, is_single = client_inputs.conversations(messages)
        rows = self._generate("chat", arrays, knobs, timeout)
        if not return_details:
            self._check_ends("messages", [messages] if is_single else messages, rows)
        return _one_or_all(rows if return_details else _texts(rows), is_single)

    def stream(
        self,
        prompt: str | bytes,
        *,
        tokens_per_call: int = 4,
        timeout: float | None = None,
        **knobs: Any,
    ) -> Iterator[str]:
        """Continues a prompt, and yields the text piece by piece.

        Joined, the pieces are what `generate` returns. The state of the generation
        travels with each call, so any server of the same version may answer the next;
        with a large model it is tens of megabytes, so that more tokens a call pay.

        Args:
            prompt: string or bytes.
            tokens_per_call: int. How many tokens each call waits for. Defaults to 4.
            timeout: float. Seconds that each call may take, in place of the client's.
            **knobs: as in `generate`.

        Yields:
            strings, none of them empty.

        Raises:
            RowError: a `ValueError`, if the model refused the prompt.
        """
        texts = client_inputs.strings("prompt", [prompt])
        check_tokens_per_call(tokens_per_call)
        seconds = self._deadline(timeout).seconds
        return stream_text(
            self._model, texts, knobs, tokens_per_call=tokens_per_call, seconds=seconds
        )

    def score(self, inputs: Any, *, timeout: float | None = None) -> Any:
        """Measures how likely texts are.

        Args:
            inputs: string or bytes, or a list of them.
            timeout: float. As in `generate`.

        Returns:
            `keras_gpt.scoring.TextScore`; for a list, a list of them.

        Raises:
            RowError: a `ValueError`, if the model refused a text. It holds the results
                of all.
        """
        texts, is_single = client_inputs.batch_of("inputs", inputs)
        outputs = self._run("score", {"text": texts}, {}, timeout)
        rows = results.text_scores(outputs) if outputs else []
        reasons = results.errors_of(outputs, rows=len(rows))
        results.check_rows("inputs", texts.tolist(), reasons, rows)
        return _one_or_all(rows, is_single)

    def classify(self, inputs: Any, *, timeout: float | None = None) -> Any:
        """Tells how likely each label is.

        Args:
            inputs: string or bytes, or a list of them.
            timeout: float. As in `generate`.

        Returns:
            `Classification`; for a list, a list of them.
        """
        texts, is_single = client_inputs.batch_of("inputs", inputs)
        outputs = self._run("classify", {"text": texts}, {}, timeout)
        rows = results.classifications(outputs) if outputs else []
        return _one_or_all(rows, is_single)

    def tokenize(self, inputs: Any, *, timeout: float | None = None) -> Any:
        """Turns texts into ids.

        Args:
            inputs: string or bytes, or a list of them.
            timeout: float. As in `generate`.

        Returns:
            int32 (N,), a NumPy array; for a list, a list of them.
        """
        texts, is_single = client_inputs.batch_of("inputs", inputs)
        outputs = self._run("tokenize", {"text": texts}, {}, timeout)
        counts = outputs.get("num_tokens", np.zeros([0], np.int32))
        rows = [outputs["token_ids"][row, :count] for row, count in enumerate(counts)]
        return _one_or_all(rows, is_single)

    def detokenize(self, token_ids: Any, *, timeout: float | None = None) -> Any:
        """Turns ids into texts.

        Args:
            token_ids: list or array of ids, or a list of such.
            timeout: float. As in `generate`.

        Returns:
            string; for a list of lists, a list of strings.

        Raises:
            RowError: a `ValueError`, if the model refused a row. It holds the results
                of all.
        """
        given, is_single = client_inputs.id_rows(token_ids)
        arrays = client_inputs.id_table(given)
        outputs = self._run("detokenize", arrays, {}, timeout)
        rows = [text.decode() for text in outputs.get("text", [])]
        reasons = results.errors_of(outputs, rows=len(rows))
        results.check_rows("token_ids", given, reasons, rows)
        return _one_or_all(rows, is_single)

    def _generate(
        self,
        signature_name: str,
        mains: Arrays,
        knobs: dict[str, Any],
        timeout: float | None,
    ) -> list[results.GeneratedText]:
        outputs = self._run(signature_name, mains, knobs, timeout, results.OF_GENERATE)
        return results.generated_texts(outputs) if outputs else []

    def _run(
        self,
        signature_name: str,
        mains: Arrays,
        knobs: dict[str, Any],
        timeout: float | None,
        outputs: tuple[str, ...] = (),
    ) -> Arrays:
        """Runs a signature; no rows have no outputs, and no server is asked."""
        deadline = self._deadline(timeout)
        if not len(next(iter(mains.values()))):
            return {}
        return self._model.run(
            signature_name,
            lambda definition: client_inputs.full_inputs(definition, mains, knobs),
            deadline,
            outputs=outputs,
        )

    def _check_ends(self, argument: str, given: Any, rows: list[Any]) -> None:
        reasons = results.bad_ends([row.finish_reason for row in rows])
        results.check_rows(argument, given, reasons, rows)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else check_timeout(timeout))


def _texts(rows: list[results.GeneratedText]) -> list[str]:
    return [row.text for row in rows]


def _one_or_all(rows: list[Any], is_single: bool) -> Any:
    return rows[0] if is_single else rows
