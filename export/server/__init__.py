"""An embedded server of exported models, by TF Serving's APIs.

For one machine and for tests; at scale, tensorflow_model_server serves the same
folders.
"""

try:
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the server needs {error.name}: pip install 'keras-gpt[serving]'"
    ) from error

from keras_gpt.export.server.options import ServerOptions
from keras_gpt.export.server.server import Server

__all__ = ["Server", "ServerOptions"]
