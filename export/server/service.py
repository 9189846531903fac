"""What both APIs do with a request: find the model, and run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_gpt.export.server.batcher import Batcher
from keras_gpt.export.server.metrics import Call, Metrics
from keras_gpt.export.server.options import ServerOptions
from keras_gpt.export.server.signature import Arrays, Signature
from keras_gpt.export.server.versions import Versions


@dataclasses.dataclass(frozen=True)
class Prediction:
    """An answered request.

    Attributes:
        version: int.
        signature: `Signature`.
        outputs: name to array, those that were asked for.
    """

    version: int
    signature: Signature
    outputs: Arrays


@dataclasses.dataclass(frozen=True)
class Service:
    """The parts of a server that answer requests.

    Attributes:
        options: `ServerOptions`.
        metrics: `Metrics`.
        versions: `Versions`.
        batcher: `Batcher`.
    """

    options: ServerOptions
    metrics: Metrics
    versions: Versions
    batcher: Batcher

    async def predict(
        self,
        call: Call,
        *,
        model_name: str,
        version: int | None,
        signature_name: str,
        inputs_of: Callable[[Signature], Mapping[str, np.ndarray]],
        output_filter: Sequence[str] = (),
        deadline: float | None = None,
    ) -> Prediction:
        """Runs a signature.

        Args:
            call: as it is counted; its signature is set here.
            model_name: string.
            version: int; None is the one that is served.
            signature_name: string; "" is `serving_default`.
            inputs_of: from the signature to the inputs that were given.
            output_filter: names of the outputs that are wanted; none for all.
            deadline: seconds on the loop's clock. Optional.

        Raises:
            RequestError: whatever fails.
        """
        with self.versions.acquire(model_name, version) as model:
            signature = model.signature(signature_name)
            call.signature = signature.name
            signature.check_outputs(output_filter)
            outputs = await self.batcher.run(
                model, signature, inputs_of(signature), deadline=deadline
            )
            wanted = output_filter or signature.outputs
            return Prediction(
                model.version, signature, {name: outputs[name] for name in wanted}
            )
