"""Models on disk: manifests, the repository's layout, and what a manifest and a model file make.

`manifest.py` reads `model.toml`, `resolve.py` joins a manifest with what an engine says of its
model, `repository.py` finds models and versions, and `active.py` knows which of them is served.
Reads files, and writes `active.toml`; knows no sockets, engines or event loop.
Imports `appliance.wire` and `appliance.errors`. Called by `engines`, `config` and `app`.
"""
