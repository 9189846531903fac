"""A dense layer that can carry a low-rank adapter."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from keras_gpt.layers.dropout import Dropout

FACTORS = ("lora_kernel_a", "lora_kernel_b")  # Keras' names


@dataclasses.dataclass(eq=False)
class LowRank:
    """A change of one kernel, as the product of two thin matrices.

    Attributes:
        kernel_a: `keras.Variable`, float32 (inputs, rank).
        kernel_b: `keras.Variable`, float32 (rank, units).
        alpha: float. The product counts `alpha / rank` times.
        dropout: layer applied to the inputs of the product, or None.
    """

    kernel_a: Any
    kernel_b: Any
    alpha: float
    dropout: Dropout | None

    @property
    def variables(self) -> list[Any]:
        """Both matrices."""
        return [self.kernel_a, self.kernel_b]


@keras.saving.register_keras_serializable(package="keras_gpt")
class Projection(keras.layers.Dense):
    """`keras.layers.Dense` without activation, whose LoRA stays of low rank.

    With LoRA attached, `y = x W + b + alpha / rank * (dropout(x) A) B`. The product
    `A B`, as large as `W`, is made only where weights leave: `kernel`, which
    checkpoints and exports read, has it in.

    Call arguments:
        inputs: (B * T, inputs), or with more axes before the last.
        training: bool. Whether LoRA's dropout is active.
        batch: (B, ...). A tensor with the texts along its first axis, where `inputs`
            has the tokens of all: LoRA's dropout numbers its noise by text.

    Returns:
        (B * T, units) in the compute dtype.

    Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models",
    section 4.1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lora_dropout: Dropout | None = None

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        return self.lora_dropout is not None

    @property
    def base_kernel(self) -> Any:
        """The kernel's variable, (inputs, units), without LoRA's part."""
        return self._kernel

    @property
    def kernel(self) -> Any:
        """The kernel, (inputs, units): its variable, or a tensor with LoRA's part."""
        if not self.lora_enabled or self.quantization_mode:
            return super().kernel
        product = tf.matmul(*(tf.convert_to_tensor(v.value) for v in self._factors()))
        base = tf.convert_to_tensor(self._kernel.value)
        whole = tf.cast(base, product.dtype) + self._lora_scale() * product
        return tf.cast(whole, base.dtype)

    def new_lora(self, rank: int, *, alpha: float, dropout: float = 0.0) -> LowRank:
        """Makes an adapter that changes nothing yet; `attach_lora` puts it to use.

        A is drawn from a normal distribution (He et al. 2015), B is zero.

        Args:
            rank: int, at least 1.
            alpha: float. The product counts `alpha / rank` times.
            dropout: float in [0, 1). Rate on the inputs. Defaults to 0.
        """
        inputs, units = self.input_spec.axes[-1], self.units
        with keras.name_scope(self.name, caller=self):
            kernel_a, kernel_b = (
                keras.Variable(initializer, shape, dtype="float32", name=name)
                for name, initializer, shape in (
                    (FACTORS[0], keras.initializers.HeNormal(), (inputs, rank)),
                    (FACTORS[1], keras.initializers.Zeros(), (rank, units)),
                )
            )
            layer = (
                Dropout(dropout, dtype=self.dtype_policy, name="lora_dropout")
                if dropout
                else None
            )
        return LowRank(kernel_a, kernel_b, alpha, layer)

    def attach_lora(self, lora: LowRank) -> None:
        """Puts an adapter to use; its matrices become weights of the layer."""
        self._tracker.unlock()
        for name, variable in zip(FACTORS, lora.variables, strict=True):
            # Keras lists a weight for good by what it is now: one that can learn.
            is_trainable, variable.trainable = variable.trainable, True
            setattr(self, name, variable)
            variable.trainable = is_trainable
        self.lora_dropout = lora.dropout
        self._tracker.lock()
        self.lora_rank: int | None = int(lora.kernel_a.shape[1])
        self.lora_alpha: float | None = lora.alpha
        self.lora_enabled = True

    def detach_lora(self) -> None:
        """Takes the adapter away, as if there had been none."""
        for name in (*FACTORS, "lora_dropout"):
            self._tracker.untrack(getattr(self, name))
            # Not Keras' own, which collects garbage each time: seconds for a model.
            super(keras.layers.Layer, self).__delattr__(name)
        self.lora_dropout = None
        self.lora_rank = None
        self.lora_alpha = None
        self.lora_enabled = False

    def fold_lora(self) -> None:
        """Adds the adapter to the kernel's variable, which must not be quantized."""
        self._kernel.assign(self.kernel)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, batch: Any = None
    ) -> tf.Tensor:
        """Projects; see the class."""
        if not self.lora_enabled:
            return super().call(inputs, training=training)
        outputs = keras.ops.matmul(inputs, self._kernel)
        if self.bias is not None:
            outputs = keras.ops.add(outputs, self.bias)
        if self.lora_dropout is not None and training:
            inputs = self._dropped(inputs, batch)
        kernel_a, kernel_b = (keras.ops.cast(v, inputs.dtype) for v in self._factors())
        # The scale goes to the smallest of the tensors.
        inner = tf.matmul(inputs, kernel_a) * tf.cast(self._lora_scale(), inputs.dtype)
        return outputs + tf.matmul(inner, kernel_b)

    def quantize(
        self, mode: Any = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Quantizes the kernel, as Keras does its own class, but no others of it."""
        super().quantize(mode, type_check=False, config=config)

    def quantized_call(
        self, inputs: tf.Tensor, training: bool | None = None, batch: Any = None
    ) -> tf.Tensor:
        """Projects with a quantized kernel, as Keras does, LoRA's part included."""
        return super().quantized_call(inputs, training=training)

    def load_own_variables(self, store: Any) -> None:
        """Loads the kernel and the bias; an adapter then begins anew.

        What was saved has its adapter in. Keras zeroes A too, which then never learns.
        """
        kept = tf.identity(self.lora_kernel_a.value) if self.lora_enabled else None
        super().load_own_variables(store)
        if kept is not None:
            self.lora_kernel_a.assign(kept)

    def _factors(self) -> list[Any]:
        return [getattr(self, name) for name in FACTORS]

    def _lora_scale(self) -> float:
        return self.lora_alpha / self.lora_rank  # type: ignore[operator]

    def _dropped(self, inputs: tf.Tensor, batch: Any) -> tf.Tensor:
        if batch is None:
            return self.lora_dropout(inputs, training=True)  # type: ignore[misc]
        width = inputs.shape[-1]
        texts = tf.reshape(inputs, [tf.shape(batch)[0], -1, width])
        dropped = self.lora_dropout(texts, training=True)  # type: ignore[misc]
        return tf.reshape(dropped, [-1, width])
