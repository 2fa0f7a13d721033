"""Models on disk: manifests, the repository's layout, and what a manifest and a model file make.

`structure.py` turns parsed TOML into attrs classes (the configuration uses it too), `manifest.py`
reads `model.toml`, `resolve.py` joins a manifest with what an engine says of its model, and
`repository.py` finds models and versions. Reads files; knows no sockets, engines or event loop.
Imports `appliance.wire` and `appliance.errors`. Called by `engines`, `config` and `app`.
"""
