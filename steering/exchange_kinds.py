"""The kinds of files that directions are written to and read from; :mod:`steering.exchange` says what each is."""

KINDS = ("safetensors", "json", "npz", "gguf", "repeng", "steering-vectors")
KIND_BY_ENDING = {".safetensors": "safetensors", ".json": "json", ".npz": "npz", ".gguf": "gguf"}
ENDINGS = {
    "safetensors": ".safetensors",
    "json": ".json",
    "npz": ".npz",
    "gguf": ".gguf",
    "repeng": ".gguf",
    "steering-vectors": ".safetensors",
}
# For people: what it is called, and what it is for.
TITLES = {
    "safetensors": "This playground",
    "gguf": "llama.cpp",
    "repeng": "repeng",
    "steering-vectors": "steering-vectors",
    "npz": "NumPy",
    "json": "JSON",
}
USES = {
    "safetensors": "This playground’s own file: its tab “Make a direction”, its command line and its Python read it.",
    "gguf": "A control vector for llama.cpp, whose option --control-vector-scaled turns the idea up.",
    "repeng": "A control vector for the Python package repeng: ControlVector.import_gguf reads it.",
    "steering-vectors": "For the Python package steering-vectors, by the block’s number.",
    "npz": "Arrays for NumPy: numpy.load reads them, and nothing in them is code.",
    "json": "Plain text that every language reads, with every digit of the numbers.",
}
