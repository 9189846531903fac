"""TFLite files, for LiteRT on devices."""
