"""Models for devices: TFLite files, LiteRT-LM bundles and a page for browsers."""
