"""The kinds of files that directions are written to and read from; :mod:`steering.exchange` says what each is."""

KINDS = ("safetensors", "json", "npz", "gguf", "repeng", "steering-vectors")
KIND_BY_ENDING = {".safetensors": "safetensors", ".json": "json", ".npz": "npz", ".gguf": "gguf"}
