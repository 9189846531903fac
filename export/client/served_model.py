"""A model on a server: what it tells of itself, and calls with deadlines."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from keras_gpt.export.client.deadlines import Deadline, with_retries
from keras_gpt.export.client.errors import NOT_FOUND, ServingError
from keras_gpt.export.client.grpc_transport import GrpcTransport
from keras_gpt.export.client.rest_transport import RestTransport
from keras_gpt.export.client.transport import (
    Arrays,
    Signature,
    Signatures,
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
        self._signatures: Signatures | None = None
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

    def run(
        self,
        name: str,
        inputs_of: Callable[[SignatureDef], Arrays],
        deadline: Deadline,
        *,
        outputs: tuple[str, ...] = (),
    ) -> Arrays:
        """Runs a signature, on the version that its inputs are made for.

        Args:
            name: string.
            inputs_of: function from its definition to its inputs, arrays (B, ...) by
                name.
            deadline: `Deadline`.
            outputs: strings. Outputs that it must have.

        Raises:
            ValueError: if the model has none of that name, or it lacks an output.
        """
        (signature,) = self.signatures(name, deadline=deadline, outputs=outputs)
        try:
            return self.predict(signature, inputs_of(signature.definition), deadline)
        except ServingError as error:
            if error.code != NOT_FOUND or self._version is not None:
                raise
        # A new version has taken over.
        (signature,) = self.signatures(name, deadline=deadline, outputs=outputs)
        return self.predict(signature, inputs_of(signature.definition), deadline)

    def signatures(
        self,
        *names: str,
        deadline: Deadline,
        outputs: tuple[str, ...] = (),
        anew: bool = False,
    ) -> list[Signature]:
        """Returns signatures of one version, asking the server only the first time.

        Args:
            *names: strings.
            deadline: `Deadline`.
            outputs: strings. Outputs that they must have.
            anew: bool. Whether to ask also if it told before.

        Raises:
            ValueError: if the model has none of a name, or it lacks an output.
        """
        known = self._signatures
        if known is None or anew:
            told = with_retries(
                lambda left: self._transport.signatures(
                    version=self._version, timeout=left
                ),
                deadline=deadline,
                retries=self._retries,
                where=self.where,
            )
            # The others are for loaders, such as __saved_model_init_op.
            known = {name: one for name, one in told.items() if name[:2] != "__"}
            self._signatures = known
        for name in names:
            if not isinstance(name, str) or name not in known:
                raise ValueError(
                    f"the signature must be one that {self.where} has "
                    f"({', '.join(sorted(known))}), got {name!r}."
                )
            missing = sorted(set(outputs) - set(known[name].definition.outputs))
            if missing:
                raise ValueError(
                    f"the signature must be one with output {', '.join(missing)} in "
                    f"{self.where}, got {name!r}."
                )
        return [known[name] for name in names]

    def predict(
        self, signature: Signature, inputs: Arrays, deadline: Deadline
    ) -> Arrays:
        """Runs a signature.

        Args:
            signature: `Signature`.
            inputs: arrays (B, ...) by name.
            deadline: `Deadline`.
        """
        try:
            return with_retries(
                lambda left: self._transport.predict(signature, inputs, timeout=left),
                deadline=deadline,
                retries=self._retries,
                where=self.where,
            )
        except ServingError:
            # A new version may have other inputs: the next call asks.
            self._signatures = None
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
