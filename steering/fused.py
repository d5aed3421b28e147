"""Decodes Llama-shaped models on a CPU with a forward pass of our own, far faster than with transformers' modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.decoders import KeptRow, NewRow
from steering.fused_model import FusedModel, Place
from steering.row_cache import RowCache
from steering.stream_edits import StreamEdits

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel
    from steering.variants import Variant

LONGEST_PIECE = 512
"""Tokens of a row that are read at once; what attention and the MLP take of memory grows with it."""


@dataclass(frozen=True)
class _Row:
    """What is known of a row beside its keys and values; see `NewRow` and `KeptRow`."""

    variant: Variant
    probe: Direction | None
    slot: int
    tokens: list[int] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)


class FusedDecoder:
    """A `Decoder` for the models that :func:`steering.decoder_choice.takes_fused` names.

    Weights that were edited since are noticed when rows join, not between two steps.
    """

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self._fused = fused_model(model)
        first = self._fused.layers[0]
        self._cache = RowCache(model.n_layers, first.kv_heads, first.head_dim, model.dtype)
        self._rows: list[_Row] = []
        self._edits = StreamEdits(model.n_layers, [], [])
        # What was seen in the last pass: the edits that acted, each layer's newest tokens, and the order of the rows.
        self._seen: tuple[StreamEdits, list[Tensor], list[int]] = (self._edits, [], [])

    @property
    def n_rows(self) -> int:
        return len(self._rows)

    def join(self, rows: Sequence[NewRow]) -> Tensor:
        for row in rows:
            for direction in (*row.variant.directions, *([] if row.probe is None else [row.probe])):
                direction.require_fit(self.model)
        with self.model.lock, torch.inference_mode():
            fused = fused_model(self.model)
            starts = [0 if row.kept is None else row.kept.reusable(row.prompt) for row in rows]
            # Rows with most to read first: those that have read everything drop out of the batch at its end.
            order = sorted(range(len(rows)), key=lambda place: starts[place] - len(rows[place].prompt))
            batch = [rows[place] for place in order]
            edits = _edits_of(self.model, batch)
            places = _places(order)
            joined = [
                _joined_row(row, start, self.n_rows + places[place])
                for place, (row, start) in enumerate(zip(rows, starts, strict=True))
            ]
            everyone = [*self._rows, *joined]
            edits_of_all = _edits_of(self.model, _by_slot(everyone))
            longest = max(len(row.prompt) for row in rows)
            self._cache.reserve(len(everyone), longest + 1)
            self._cache.clear_unused()
            for place, row in enumerate(batch):
                if row.kept is not None:
                    self._cache.put(self.n_rows + place, row.kept.keys, row.kept.values, starts[order[place]])
            hidden, newest = self._read(fused, batch, [starts[place] for place in order], edits)
            logits = fused.logits(hidden)
            self._fused, self._rows, self._edits = fused, everyone, edits_of_all
            self._cache.lengths += [len(row.prompt) for row in batch]
            self._seen = edits, newest, places
            return logits[places]

    def step(self, tokens: Tensor) -> Tensor:
        with self.model.lock, torch.inference_mode():
            slots = [row.slot for row in self._rows]
            moved = slots != list(range(len(slots)))
            ids = tokens[_places(slots)] if moved else tokens
            cache, lengths = self._cache, self._cache.lengths
            longest = max(lengths) + 1
            cache.reserve(len(slots), longest)
            positions = torch.tensor(lengths)[:, None]
            cosines, sines = self._fused.angles(positions)
            parts = cache.read_parts(0, len(slots), longest)
            if min(lengths) + 1 == longest:
                place = Place(*parts, cache.write_part(len(slots), lengths[0]), cosines, sines)
            else:
                mask = _mask(positions, longest, self.model.dtype)
                place = Place(*parts, cache.write_index(0, positions), cosines, sines, mask)
            self._edits.refresh()
            hidden, newest = self._fused.run(ids[:, None], place, self._edits, cache)
            logits = self._fused.logits(hidden)
            for row, token in zip(self._rows, tokens.tolist(), strict=True):
                row.pieces.append(len(row.tokens))
                row.tokens.append(token)
            cache.lengths = [length + 1 for length in lengths]
            self._seen = self._edits, [x[:, 0] for x in newest], slots
            return logits[slots] if moved else logits

    def leave(self, rows: Sequence[int]) -> None:
        going = set(rows)
        staying = [row for place, row in enumerate(self._rows) if place not in going]
        with torch.inference_mode():
            was = self._cache.leave([self._rows[place].slot for place in going])
            place_of = {slot: place for place, slot in enumerate(was)}
            self._rows = [replace(row, slot=place_of[row.slot]) for row in staying]
            self._edits = _edits_of(self.model, _by_slot(self._rows))

    def change(self, row: int, variant: Variant) -> None:
        for direction in variant.directions:
            direction.require_fit(self.model)
        changed = [*self._rows]
        changed[row] = replace(changed[row], variant=variant)
        with torch.inference_mode():
            self._edits = _edits_of(self.model, _by_slot(changed))
        self._rows = changed

    def kept(self, row: int) -> KeptRow:
        known = self._rows[row]
        with torch.inference_mode():
            keys, values = self._cache.row(known.slot)
        return KeptRow([*known.tokens], keys, values, [*known.pieces])

    def taken(self, rows: Sequence[int]) -> FusedDecoder:
        decoder = FusedDecoder(self.model)
        known = [self._rows[row] for row in rows]
        with torch.inference_mode():
            decoder._cache = self._cache.taken([row.slot for row in known])
            decoder._rows = [
                replace(row, slot=slot, tokens=[*row.tokens], pieces=[*row.pieces]) for slot, row in enumerate(known)
            ]
            decoder._edits = _edits_of(self.model, decoder._rows)
        return decoder

    def cosines(self) -> Tensor:
        edits, newest, places = self._seen
        if not places:
            return torch.zeros(0, self.model.n_layers)
        with torch.inference_mode():
            return edits.cosines(newest)[places]

    def _read(
        self, fused: FusedModel, batch: Sequence[NewRow], starts: Sequence[int], edits: StreamEdits
    ) -> tuple[Tensor, list[Tensor]]:
        """Read what is left of the prompts into the slots behind those in use, in pieces of bounded length.

        Args:
            batch: rows with most to read first.

        Returns:
            At each row's last token: what leaves the last block, ``[rows, 1, d_model]``, and what entered each block,
            ``[rows, d_model]`` a layer.
        """
        ends = [len(row.prompt) for row in batch]
        done = list(starts)
        last: list[Tensor] = [torch.empty(0)] * len(batch)
        newest: list[list[Tensor]] = [[] for _ in batch]
        while remaining := sum(at < end for at, end in zip(done, ends, strict=True)):
            counts = [min(end - at, LONGEST_PIECE) for at, end in zip(done[:remaining], ends, strict=False)]
            width = max(counts)
            ids = torch.full((remaining, width), self.model.pad_token)
            for place, (row, count) in enumerate(zip(batch[:remaining], counts, strict=True)):
                ids[place, :count] = torch.tensor(row.prompt[done[place] : done[place] + count])
            positions = torch.tensor(done[:remaining])[:, None] + torch.arange(width)
            longest = max(at + width for at in done[:remaining])
            self._cache.reserve(self.n_rows + len(batch), longest)
            cosines, sines = fused.angles(positions)
            causal = not any(done[:remaining])
            mask = None if causal else _mask(positions, longest, self.model.dtype)
            parts = self._cache.read_parts(self.n_rows, remaining, longest)
            write = self._cache.write_index(self.n_rows, positions)
            place_of_pass = Place(*parts, write, cosines, sines, mask, causal)
            acting = edits if remaining == len(batch) else _edits_of(self.model, batch[:remaining])
            acting.refresh()
            hidden, entering = fused.run(ids, place_of_pass, acting, self._cache)
            for place, count in enumerate(counts):
                done[place] += count
                if done[place] == ends[place]:
                    last[place] = hidden[place, count - 1 : count].clone()
                    newest[place] = [x[place, count - 1].clone() for x in entering]
        return torch.stack(last), [torch.stack(layer) for layer in zip(*newest, strict=True)]


def fused_model(model: ChatModel) -> FusedModel:
    """The model as the fused pass reads it, made at first use and again when its weights were changed."""
    with model.lock:
        known = model.__dict__.get("_fused_model")
        if known is None or not known.is_current(model):
            known = model.__dict__["_fused_model"] = FusedModel(model)
        return known


def _edits_of(model: ChatModel, rows: Sequence[_Row | NewRow]) -> StreamEdits:
    return StreamEdits(model.n_layers, [row.variant for row in rows], [row.probe for row in rows])


def _by_slot(rows: Sequence[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: row.slot)


def _joined_row(row: NewRow, start: int, slot: int) -> _Row:
    kept = [] if row.kept is None else [piece for piece in row.kept.pieces if piece < start]
    pieces = [*kept, *range(start, len(row.prompt), LONGEST_PIECE)]
    return _Row(row.variant, row.probe, slot, [*row.prompt], pieces)


def _places(order: Sequence[int]) -> list[int]:
    """The inverse of a permutation."""
    places = [0] * len(order)
    for place, one in enumerate(order):
        places[one] = place
    return places


def _mask(positions: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """0 where a token at ``positions`` ``[rows, tokens]`` sees, −∞ where not: ``[rows, 1, tokens, longest]``."""
    hidden = torch.arange(longest) > positions[:, :, None]
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)[:, None]
