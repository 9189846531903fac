"""What all tasks share: loading, and training that no strategy changes."""

from __future__ import annotations

import abc
import contextlib
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, Self

import keras
import tensorflow as tf

from keras_gpt import presets
from keras_gpt.layers.sequences import MergeRows, merged_rows
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.fit_checks import CutTexts, FiniteLoss, plain_errors
from keras_gpt.models.fit_data import (
    as_tensors,
    examples,
    is_in_memory,
    num_rows,
    untuned,
)
from keras_gpt.models.labels import with_new_labels
from keras_gpt.models.task_step import TaskStep

LEARNING_RATE = 5e-5  # KerasHub's default for tasks
BATCH_SIZE = 32  # Keras' default
TOKENIZED_AT_A_TIME = 256  # examples
SHUFFLED = 1_000_000  # examples at most from which the next is drawn
CLIP_NORM = 1.0  # Radford et al. 2018, section 4.1


class GPTTask(TaskStep):
    """What comes before KerasHub's class of a task; it trains as `TaskStep` says."""

    backbone_cls = GPTBackbone
    # What `keras_gpt.checkpoints` calls the task's head, whose layer is `head`.
    head_kind: str | None = None

    @classmethod
    def from_preset(cls, preset: Any, load_weights: bool = True, **kwargs: Any) -> Self:
        """Loads a model; see `GPTBackbone.from_preset` for what there is.

        Args:
            preset: string or path, as there.
            load_weights: bool. Whether to load the weights rather than to draw new
                ones. Defaults to True. A head is new where the preset has none of
                this task, or `num_classes` or `label_names` are given.
            **kwargs: `dtype` and fields of `GPTConfig` to change, for the backbone;
                and arguments of the constructor, such as `preprocessor`. A
                checkpoint without tokenizer files gives a model without one.

        Raises:
            FileNotFoundError, ConnectionError, ValueError: as there.
        """
        found = presets.find(preset)
        kwargs = with_new_labels(kwargs)
        if found.checkpoint is None:
            saved = presets.task_class(found.location)
            if saved is not None and getattr(saved, "head_kind", None) != cls.head_kind:
                # Of a class below this one, KerasHub would load that.
                return cls(**cls._on_network_of(found.location, load_weights, kwargs))
            fields = {n: kwargs.pop(n) for n in presets.FIELDS if n in kwargs}
            if fields:
                kwargs["backbone"] = cls.backbone_cls.from_preset(
                    found.location, load_weights, dtype=kwargs.get("dtype"), **fields
                )
            return super().from_preset(
                found.location, load_weights=load_weights, **kwargs
            )
        head = found.checkpoint.head
        is_own = head is not None and head.kind == cls.head_kind
        is_new = any(name in kwargs for name in ("num_classes", "label_names"))
        if is_own and not is_new:
            kwargs = {**head.arguments, **kwargs}
        task = cls(
            **presets.task_arguments(
                cls, found.checkpoint, load_weights=load_weights, kwargs=kwargs
            )
        )
        if is_own and not is_new and load_weights:
            for name, value in head.weights.items():
                getattr(task.head, name).assign(value)
        return task

    @classmethod
    def _on_network_of(
        cls, location: str, load_weights: bool, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the constructor's arguments on the network of another task."""
        kwargs = dict(kwargs)
        of_network = {
            name: kwargs.pop(name)
            for name in presets.BACKBONE_ARGUMENTS
            if name in kwargs
        }
        if "backbone" not in kwargs:
            kwargs["backbone"] = cls.backbone_cls.from_preset(
                location, load_weights, **of_network
            )
        if "preprocessor" not in kwargs:
            kwargs["preprocessor"] = cls.preprocessor_cls.from_preset(location)
        return kwargs

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        accumulate: int = 1,
        auxiliary_lm_weight: float = 0.0,
        seed: int = 0,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: Keras optimizer or its name. Defaults to `"auto"`: Adam with
                learning rate 5e-5 and gradients clipped to a global norm of 1.
            loss: Keras loss. Defaults to `"auto"`: the task's.
            accumulate: int, positive. Micro-batches into which a batch is cut, one
                computed after the other: less memory, the same result. A batch whose
                rows it does not divide is cut into more. Defaults to 1.
            auxiliary_lm_weight: float, at least 0. Factor of the next-token loss of
                the inputs, added to the task's (Radford et al. 2018, equation 5).
                Defaults to 0.
            seed: int in [0, 2**31). Of dropout. Defaults to 0.
            jit_compile: bool or `"auto"`. Whether XLA compiles a step; `"auto"` does
                so on one device, but a CPU, as in Keras. Defaults to `"auto"`.
            **kwargs: `metrics` and other arguments of `keras.Model.compile`. Metrics
                default to the task's.

        Raises:
            ValueError: if an argument is out of its range.
        """
        is_count = isinstance(accumulate, numbers.Integral)
        if isinstance(accumulate, bool) or not is_count or accumulate < 1:
            raise ValueError(
                f"accumulate must be an integer of at least 1, got {accumulate!r}."
            )
        if not auxiliary_lm_weight >= 0.0:
            raise ValueError(
                f"auxiliary_lm_weight must be at least 0, got {auxiliary_lm_weight}."
            )
        if not 0 <= seed < 2**31:
            raise ValueError(f"seed must be in [0, 2**31), got {seed}.")
        if optimizer == "auto":
            optimizer = keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM)
        if loss == "auto":
            loss = self._default_loss()
        if jit_compile == "auto" and self.distribute_strategy.num_replicas_in_sync > 1:
            jit_compile = False  # collectives stand in the middle of a step
        metrics = self._default_metrics()
        for name in metrics:
            if isinstance(kwargs.get(name), str) and kwargs[name] == "auto":
                del kwargs[name]
        self.accumulate = accumulate
        self.auxiliary_lm_weight = auxiliary_lm_weight
        self.dropout_seed = seed
        super().compile(
            optimizer=optimizer,
            loss=loss,
            jit_compile=jit_compile,
            **{**metrics, **kwargs},
        )

    @property
    def preprocessor(self) -> Any:
        """The `keras_nlp.models.Preprocessor` of the task, or None."""
        return getattr(self, "_preprocessor", None)

    @preprocessor.setter
    def preprocessor(self, value: Any) -> None:
        context = self.backbone.config.max_sequence_length
        if hasattr(value, "sequence_length") and value.sequence_length is None:
            value.sequence_length = context
        self._preprocessor = value

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        sample_weight: Any = None,
        validation_data: Any = None,
        validation_split: float | None = None,
        *,
        shuffle: bool = True,
        class_weight: Mapping[Any, float] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains, as `keras.Model.fit`, on what the preprocessor takes.

        Rows have `preprocessor.sequence_length` tokens, by default the whole context:
        where texts are shorter, a lower number saves the time of padding.

        Args:
            x: lists, arrays or tensors, or a `tf.data.Dataset` of batches with y.
            y: likewise.
            batch_size: int. Defaults to 32.
            sample_weight: as in Keras, like what follows.
            validation_data: x and y, or a dataset. Optional.
            validation_split: float in [0, 1). Share of the data, from their end, to
                hold out. Optional.
            shuffle: bool. Whether each epoch has another order, drawn from the seed
                of `compile`; not of a dataset. Defaults to True.
            class_weight: dict of labels, by name or number, to what an example with
                one counts; 1 for those it leaves out. Optional, and only for tasks
                that give a text one label.
            **kwargs: further arguments of `keras.Model.fit`.

        Raises:
            DivergenceError: if the loss is not finite.
            ValueError: if a label is none of the model's, the task has no use for
                `class_weight`, or rows are longer than the context; and as in Keras.
        """
        self.check_rows()
        if class_weight is not None:
            kwargs["class_weight"] = self.class_weights(class_weight)
        checks = [FiniteLoss(), CutTexts(self.preprocessor)]  # before texts are counted
        size = batch_size or BATCH_SIZE
        if is_in_memory(x):
            train = self._given(x, y, sample_weight)
            if validation_split:
                train, validation_data = _split(train, validation_split)
            order = self.training_examples(*train)
            if shuffle:
                order = order.shuffle(SHUFFLED, seed=self.dropout_seed)
            x, y, sample_weight, batch_size = order.batch(size), None, None, None
        if isinstance(validation_data, tuple) and is_in_memory(validation_data[0]):
            validation_data = self._in_order(*validation_data, batch_size=size)
        with plain_errors():
            return super().fit(
                untuned(x),
                y,
                batch_size,
                sample_weight,
                untuned(validation_data),
                shuffle=False,
                **_with_callbacks(kwargs, checks),
            )

    def training_examples(self, x: Any, y: Any, sample_weight: Any) -> tf.data.Dataset:
        """Returns single examples of data in memory, as the preprocessor takes them."""
        return examples(x, y, sample_weight)

    def tokenized(self, x: Any, y: Any) -> tf.data.Dataset:
        """Returns the single rows of examples in memory, as the network takes them.

        Args:
            x: as `fit` takes it.
            y: likewise.

        Returns:
            Dataset of (x, y, sample weight) without the dimension B, what is absent
            left out. To train on it, the task must have no preprocessor.
        """
        self.check_rows()
        given = self._given(x, y, None)
        batches = self.training_examples(*given).batch(TOKENIZED_AT_A_TIME)
        with plain_errors():
            return batches.map(self.preprocess_samples, tf.data.AUTOTUNE).unbatch()

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Measures loss and metrics, as `keras.Model.evaluate`; errors as in `fit`."""
        self.check_rows()
        if kwargs.get("_use_cached_eval_dataset"):  # of `fit`, which has prepared it
            return super().evaluate(x, y, batch_size, sample_weight, **kwargs)
        kwargs = _with_callbacks(kwargs, [CutTexts(self.preprocessor)])
        if is_in_memory(x):
            x = self._in_order(x, y, sample_weight, batch_size=batch_size)
            y = sample_weight = batch_size = None
        with plain_errors():
            return super().evaluate(untuned(x), y, batch_size, sample_weight, **kwargs)

    def predict(self, x: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Returns the outputs, as `keras.Model.predict`."""
        self.check_rows()
        kwargs = _with_callbacks(kwargs, [CutTexts(self.preprocessor)])
        if is_in_memory(x):
            x, batch_size = self._in_order(x, batch_size=batch_size), None
        with plain_errors():
            return super().predict(untuned(x), batch_size, **kwargs)

    def _in_order(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
    ) -> tf.data.Dataset:
        """Returns batches of data in memory."""
        given = self._given(x, y, sample_weight)
        return self.training_examples(*given).batch(batch_size or BATCH_SIZE)

    def _given(self, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Returns data in memory as tensors."""
        x, y = as_tensors(x), as_tensors(self.encoded_labels(y), "y")
        weights = as_tensors(sample_weight, "sample_weight")
        if isinstance(weights, tf.Tensor) and weights.shape[1:] == [1]:
            weights = weights[:, 0]  # as of a table of one column
        return x, y, weights

    def check_rows(self) -> None:
        """Checks that the preprocessor's rows are no longer than the context.

        Raises:
            ValueError: if they are.
        """
        length = getattr(self.preprocessor, "sequence_length", None)
        context = self.backbone.config.max_sequence_length
        if length is not None and length > context:
            raise ValueError(
                f"sequence_length must be at most the model's context, {context}, got "
                f"{length}."
            )

    @contextlib.contextmanager
    def rows_of(self, length: int) -> Iterator[None]:
        """Within it, rows have another length: `preprocessor.sequence_length`."""
        before = self.preprocessor.sequence_length
        self.preprocessor.sequence_length = length
        try:
            yield
        finally:
            self.preprocessor.sequence_length = before

    def save_task_weights(self, filepath: Any) -> None:
        """Writes the weights beside the backbone's, without the optimizer's state."""
        keras.saving.save_weights(
            self, filepath, objects_to_skip=self._not_of_the_task()
        )

    def load_task_weights(self, filepath: Any) -> None:
        """Reads what `save_task_weights` wrote."""
        keras.saving.load_weights(
            self, filepath, objects_to_skip=self._not_of_the_task()
        )

    def _not_of_the_task(self) -> list[Any]:
        return [*self.backbone._flatten_layers(), self.optimizer]

    def encoded_labels(self, y: Any) -> Any:
        """Returns the targets of labels; a task with names of labels knows them."""
        return y

    def class_weights(self, given: Mapping[Any, float]) -> dict[int, float]:
        """Returns `class_weight` of `fit` for all labels, by their numbers."""
        raise ValueError(
            "class_weight must be None but for one label a text; sample_weight serves "
            f"all tasks, got {given!r}."
        )

    def preprocess_samples(
        self, x: Any, y: Any = None, sample_weight: Any = None
    ) -> Any:
        """Tokenizes texts, and turns names of labels into their numbers."""
        return super().preprocess_samples(x, self.encoded_labels(y), sample_weight)

    def symbolic_inputs(self, *sequences: int | None) -> dict[str, Any]:
        """Returns the inputs of the model, int32 (B, *sequences, T) each."""
        return {
            name: keras.Input(shape=(*sequences, None), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask")
        }

    def hidden_of(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Returns the network's hidden states, of all sequences one below the other.

        Args:
            inputs: dict of `token_ids` and `padding_mask`, int (B, T), or (B, C, T)
                for C sequences in a row.
            training: bool. Whether dropout is active.

        Returns:
            (B, T, D) or (B * C, T, D).
        """
        names = ("token_ids", "padding_mask")
        merged = {name: self.merge_rows(inputs[name]) for name in names}
        return self.backbone(merged, training=training)

    def merge_rows(self, tensor: Any) -> Any:
        """Returns `merged_rows` of a tensor, symbolic or not."""
        if isinstance(tensor, keras.KerasTensor) and len(tensor.shape) == 3:
            return MergeRows()(tensor)
        return merged_rows(tensor)

    @abc.abstractmethod
    def outputs_of(
        self, hidden: tf.Tensor, inputs: Any, training: bool | None = None
    ) -> Any:
        """Returns the task's outputs, from the hidden states of `hidden_of`."""

    @abc.abstractmethod
    def _default_loss(self) -> Any:
        """Returns the loss, or a dict of losses by output."""

    @abc.abstractmethod
    def _default_metrics(self) -> dict[str, Any]:
        """Returns the metrics, as arguments of `keras.Model.compile`."""


def _split(given: tuple[Any, ...], share: float) -> tuple[Any, Any]:
    """Returns the first rows, and the last `share` of them."""
    if not 0.0 < share < 1.0:
        raise ValueError(f"validation_split must be in [0, 1), got {share}.")
    rows = num_rows([part for part in given if part is not None])
    kept = int(rows * (1.0 - share))
    if not 0 < kept < rows:
        raise ValueError(
            f"validation_split must leave rows on both sides, got {share} of {rows}."
        )
    first, last = (
        tuple(None if part is None else _rows(part, rows) for part in given)
        for rows in (slice(kept), slice(kept, None))
    )
    return first, last


def _rows(part: Any, rows: slice) -> Any:
    return tf.nest.map_structure(lambda tensor: tensor[rows], part)


def _with_callbacks(
    kwargs: dict[str, Any], more: list[keras.callbacks.Callback]
) -> dict[str, Any]:
    """Returns the arguments with further callbacks."""
    given = kwargs.get("callbacks")
    if isinstance(given, keras.callbacks.CallbackList):
        for callback in more:
            given.append(callback)
        return kwargs
    return {**kwargs, "callbacks": [*keras.tree.flatten(given or []), *more]}
