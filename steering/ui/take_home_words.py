"""Words of the “Take it home” tab. Nothing here is escaped: that is done where they become markup."""

from __future__ import annotations

from steering.exchange_kinds import KINDS, TITLES
from steering.ui.errands import Sayings
from steering.ui.methods import ADDITIONS, REMOVALS
from steering.ui.take_home_rules import suggestion

# In the order in which people meet them; a test says that none of the library's kinds is left out.
FILE_KINDS = tuple(sorted(KINDS, key=list(TITLES).index))
FORMS = {"ablated": "Taken out", "added": "Turned up", "adapter": "Taken out, as an adapter"}
_SUFFIXES = {"ablated": "taken-out", "added": "turned-up", "adapter": "adapter"}
STEPS = {
    "ablated": ("Editing the weights", "Checking the weights", "Comparing the answers"),
    "added": ("Editing the weights", "Checking the weights", "Comparing the answers"),
    "adapter": ("Making the adapter", "Comparing the answers"),
}
# What part of all the work is done at the end of each step, about, on the bundled model.
ENDS = {"ablated": (0.12, 0.35, 1.0), "added": (0.12, 0.35, 1.0), "adapter": (0.2, 1.0)}

FILE_STEP = "A small file"
FILE_WORDS = "The direction alone, some kilobytes: no part of the model is in it."
KIND_LABEL = "What it is for"
BACK_LABEL = "Bring one back"
BACK_HINT = "safetensors, gguf, npz or json, also from other tools. It becomes your own idea in the chat."
WHICH_LAYER = "The layer it is added at"

MODEL_STEP = "A changed model"
MODEL_WORDS = (
    "The idea becomes part of the weights, for programs that know nothing of this playground. It is written to "
)
FORM_WORDS = {
    "ablated": "Every matrix that writes to the residual stream loses its part along the direction "
    "(orthogonalisation). An ordinary model’s folder, as large as the model.",
    "added": "The direction is added at its layer as a bias in the weights, at the strength set in the chat now. An "
    "ordinary model’s folder, as large as the model.",
    "adapter": "A small LoRA adapter for PEFT beside the untouched model. The token embedding keeps its part along the "
    "direction.",
}
NO_STRENGTH = "At strength 0 nothing is added. Move “How strongly” in the chat first."
UNFORESEEN = "Something went wrong inside the program; its log says what. Nothing was left behind: try again."
SAYINGS = Sayings(
    tab="Take it home",
    bar="Taking it home",
    busy="Something of yours is still being written or sent. Wait for it, or cancel it.",
    unforeseen=UNFORESEEN,
    cancelled=("Cancelled.", "Nothing was left behind."),
    cancelled_kinds={"push": ("Cancelled.", "Nothing of it is in the repository.")},
)
OTHER_MODEL = "Another model came into use meanwhile. Press again to write that one."
CANNOT_BE_WRITTEN = (
    "The chat uses “{way}” (Settings), which depends on each text and cannot be written into weights. This is the "
    "projection of the paper."
)
QUANTISED = (
    "The model in the chat is quantised ({how}); this was written from its weights as they were before that, and held "
    "against those."
)
CANNOT_BE_ADDED = (
    "The chat uses “{way}” (Settings), which depends on each text and cannot be written into weights. This adds the "
    "direction as it is."
)

OFF_WORDS = (
    "Whole models with the idea taken out or turned up, and pushes to the hub, are made where the playground runs on "
    "your own machine, on this tab or with the command line:"
)
OFF_COMMANDS = (
    "python -m steering orthogonalize --direction FILE --out FOLDER\npython -m steering push FOLDER owner/name"
)

PUSH_STEP = "Push to the hub"
PUSH_WORDS = (
    "To a repository of yours on the hub, with a card. First look at what would go. It is sent with the account of "
    "this machine, and only you see it there unless you say otherwise."
)
NO_PUSH_WORDS = "From a Space nothing is sent to the hub: the account would not be yours."
NO_ACCOUNT = (
    "This machine has no account on the hub yet, so nothing can be sent. Run “hf auth login” in a terminal, or start "
    "the playground with HF_TOKEN set; then look again."
)
THE_DIRECTION = "direction"  # what is pushed when it is no folder
LOOK_FIRST = "First look at what would go: press “Show what would go”, then push just that."
NOT_YOURS = "There is no such model among those you wrote here. Choose one from the list."


def heading(title: str) -> str:
    return f"“{title}” leaves the playground"


def about(model: str, layer: int | None, n_layers: int) -> str:
    """What leaves: the idea in the chat, on the model in use."""
    if not model:
        return "The idea that is chosen in the chat. The model is still loading."
    if layer is None:
        return f"The idea that is chosen in the chat. Its direction is found for {model} at its first use."
    return f"The idea that is chosen in the chat, as it lies in {model} at layer {layer} of {n_layers}."


def suggested_folder(title: str, form: str) -> str:
    """The name that a folder is given when nobody typed one."""
    return f"{suggestion(title)}-{_SUFFIXES[form]}"


def other_way(form: str, removal: str, addition: str) -> str:
    """What to know when the chat steers in a way that weights cannot hold; "" where it does not."""
    if form == "added":
        return CANNOT_BE_ADDED.format(way=ADDITIONS[addition]) if addition == "keep_norm" else ""
    return CANNOT_BE_WRITTEN.format(way=REMOVALS[removal]) if removal in ("affine", "capped") else ""


def which_layer(are_several: bool) -> str:
    """What to do about a file that does not say at which layer its direction is added."""
    why = (
        "The file has vectors for several layers."
        if are_several
        else "The file does not say at which layer it is added."
    )
    return f"{why} Choose one below. (The playground’s layer is that of the tool’s block plus one.)"


def size(n_bytes: float) -> str:
    """A file's size for people."""
    for unit, above in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= above:
            return f"{n_bytes / above:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"
