"""What stands in for the packages of LiteRT.js where no browser runs them."""

import json

from keras_gpt.export.web import litert_js


def write_node_modules(folder, *, version=litert_js.VERSION):
    """Writes a folder `node_modules` of files with little in them; returns it."""
    for package, names in litert_js.PACKAGES.items():
        for name in names:
            path = folder / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('import { x } from "@litertjs/wasm-utils";\n')
        description = {"name": package, "version": version}
        (folder / package / "package.json").write_text(json.dumps(description))
    return folder
