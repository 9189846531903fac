"""A model on a server: what it tells of itself, and calls with deadlines."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from keras_gpt.export.client.deadlines import Deadline, with_retries
from keras_gpt.export.client.errors import ServingError
from keras_gpt.export.client.grpc_transport import GrpcTransport
from keras_gpt.export.client.rest_transport import RestTransport
from keras_gpt.export.client.transport import (
    Arrays,
    ModelMetadata,
    Signature,
    Transport,
)


class ServedModel:
    """Calls the signatures of a model on a server, from any number of threads.

    Args:
        target: string. As in `GPTClient`.
        model_name: string.
        version: int or None.
        retries: int.
        credentials: as in `GPTClient`.
    """

    def __init__(
        self,
        target: str,
        *,
        model_name: str,
        version: int | None,
        retries: int,
        credentials: Any = None,
    ) -> None:
        self.where = f"model {model_name!r} at {target}"
        self._version = version
        self._retries = retries
        self._metadata: ModelMetadata | None = None
        self._transport: Transport
        if _is_url(target):
            self._transport = RestTransport(
                target, model_name=model_name, where=self.where
            )
        else:
            self._transport = GrpcTransport(
                target,
                model_name=model_name,
                where=self.where,
                credentials=credentials,
            )

    def close(self) -> None:
        """Ends all connections."""
        self._transport.close()

    def signature(
        self, name: str, deadline: Deadline, *, outputs: tuple[str, ...] = ()
    ) -> Signature:
        """Returns a signature, asking the server only the first time.

        Args:
            name: string.
            deadline: `Deadline`.
            outputs: strings. Outputs that it must have.

        Raises:
            ValueError: if the model has none of that name, or it lacks an output.
        """
        signatures = self.metadata(deadline).signatures
        if name not in signatures:
            known = ", ".join(sorted(signatures))
            raise ValueError(
                f"the signature must be one that {self.where} has ({known}), "
                f"got {name!r}."
            )
        missing = sorted(set(outputs) - set(signatures[name].definition.outputs))
        if missing:
            raise ValueError(
                f"the signature must be one with output {', '.join(missing)} in "
                f"{self.where}, got {name!r}."
            )
        return signatures[name]

    def metadata(self, deadline: Deadline, *, anew: bool = False) -> ModelMetadata:
        """Returns what the server tells about the model.

        Args:
            deadline: `Deadline`.
            anew: bool. Whether to ask also if it told before.
        """
        if self._metadata is None or anew:
            self._metadata = with_retries(
                lambda left: self._transport.metadata(
                    version=self._version, timeout=left
                ),
                deadline=deadline,
                retries=self._retries,
                where=self.where,
            )
        return self._metadata

    def predict(
        self,
        signature: Signature,
        inputs: Arrays,
        deadline: Deadline,
        *,
        version: int | None = None,
    ) -> Arrays:
        """Runs a signature.

        Args:
            signature: `Signature`.
            inputs: arrays (B, ...) by name.
            deadline: `Deadline`.
            version: int or None. In place of the newest, where no version is set.
        """
        try:
            return with_retries(
                lambda left: self._transport.predict(
                    signature,
                    inputs,
                    version=self._version if version is None else version,
                    timeout=left,
                ),
                deadline=deadline,
                retries=self._retries,
                where=self.where,
            )
        except ServingError:
            # A new version may have other inputs: the next call asks.
            self._metadata = None
            raise


def _is_url(target: Any) -> bool:
    """Tells whether a target is a URL, for REST, or an address, for gRPC."""
    if isinstance(target, str):
        if re.fullmatch(r"[^\s/]+:\d{1,5}", target):
            return False
        try:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                return True
        except ValueError:  # of a port that is no number
            pass
    raise ValueError(
        "target must be host:port, for gRPC, or http://host:port, for REST, "
        f"got {target!r:.80}."
    )
