"""The signatures of exported models, as TensorFlow functions.

Every input and output has the batch as dimension 0, because TF Serving batches by
joining and splitting along it.
"""
