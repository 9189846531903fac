"""GPT models: the backbone and the tasks upon it."""

from keras_gpt.models.backbone import ForwardOutput, GPTBackbone
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor
from keras_gpt.models.freezing import freeze_layers, unfreeze_layers
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_results import GenerationDetails
from keras_gpt.models.lora import (
    activate_adapter,
    enable_lora,
    merge_lora,
    remove_adapter,
)
from keras_gpt.models.lora_files import load_adapter, save_adapter
from keras_gpt.models.multiple_choice import (
    GPTMultipleChoice,
    GPTMultipleChoicePreprocessor,
)
from keras_gpt.models.question_answering import (
    Answer,
    GPTQuestionAnswering,
    GPTQuestionAnsweringPreprocessor,
)
from keras_gpt.models.similarity import GPTSimilarity, GPTSimilarityPreprocessor
from keras_gpt.models.text_classifier import Classification, GPTTextClassifier
from keras_gpt.models.text_preprocessor import GPTTextClassifierPreprocessor
from keras_gpt.models.token_classifier import (
    GPTTokenClassifier,
    GPTTokenClassifierPreprocessor,
)

__all__ = [
    "Answer",
    "Classification",
    "ForwardOutput",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTCausalLMPreprocessor",
    "GPTMultipleChoice",
    "GPTMultipleChoicePreprocessor",
    "GPTQuestionAnswering",
    "GPTQuestionAnsweringPreprocessor",
    "GPTSimilarity",
    "GPTSimilarityPreprocessor",
    "GPTTextClassifier",
    "GPTTextClassifierPreprocessor",
    "GPTTokenClassifier",
    "GPTTokenClassifierPreprocessor",
    "GenerationDetails",
    "GenerationOptions",
    "activate_adapter",
    "enable_lora",
    "freeze_layers",
    "load_adapter",
    "merge_lora",
    "remove_adapter",
    "save_adapter",
    "unfreeze_layers",
]
