"""Decodes with transformers' own modules: every architecture the library knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steering.decoders import KeptRow, NewRow
from steering.interventions import Steering
from steering.key_values import KeyValues
from steering.tensor_parallel import LedKeyValues

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel
    from steering.variants import Variant


def last_positions(n: int, device: torch.device) -> Tensor:
    """The last ``n`` positions of each row, for a model's ``logits_to_keep``.

    An index takes copies. What a plain number takes is a view with gaps between the rows, which torch multiplies by the
    head row by row: for 32 rows in bfloat16 on a CPU 300 times slower.
    """
    return torch.arange(-n, 0, device=device)


@dataclass(frozen=True)
class _Row:
    """What is known of a row beside its keys and values; see `NewRow` and `KeptRow`."""

    variant: Variant
    probe: Direction | None
    tokens: list[int] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)


class ModuleDecoder:
    """A `Decoder` whose passes are transformers' own, with the interventions hooked in."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self._rows: list[_Row] = []
        self._read = KeyValues() if model.leader is None else LedKeyValues(model.leader)
        self._steering: Steering | None = None  # of all rows; made when a step needs it
        self._cosines = torch.zeros(0, model.n_layers)

    @property
    def n_rows(self) -> int:
        return len(self._rows)

    def join(self, rows: Sequence[NewRow]) -> Tensor:
        starts = [0 if row.kept is None else row.kept.reusable(row.prompt) for row in rows]
        groups: dict[int, list[int]] = {}
        for place, (row, start) in enumerate(zip(rows, starts, strict=True)):
            # Padding lies to the left of all that a row has read. So rows that go on from something are read together
            # where as much is left of their prompts; those that begin may be padded as they need.
            groups.setdefault(len(row.prompt) - start if start else 0, []).append(place)
        parts, logits, cosines = [], [], []
        for group in groups.values():
            part = self._kept_together([(rows[place].kept, starts[place]) for place in group])
            found = self._prefill(part, [rows[place] for place in group], [starts[place] for place in group])
            parts.append(part)
            logits.append(found[0])
            cosines.append(found[1])
        order = torch.tensor([place for group in groups.values() for place in group]).argsort()
        with torch.inference_mode():
            joined = parts[0].joined_with(parts[1:])
            if len(groups) > 1:
                joined = joined.selected(order.tolist())
            self._read = self._read.joined_with([joined])
        self._rows += [_joined_row(row, start) for row, start in zip(rows, starts, strict=True)]
        self._steering = None
        self._cosines = torch.cat(cosines)[order]
        return torch.cat(logits)[order.to(logits[0].device)]

    def step(self, tokens: Tensor) -> Tensor:
        if self._steering is None:
            self._steering = self._steering_of(self._rows)
        lengths = [length + 1 for length in self._read.lengths]
        logits, self._cosines = self._forward(self._steering, self._read, tokens[:, None], lengths)
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.pieces.append(len(row.tokens))
            row.tokens.append(token)
        return logits

    def leave(self, rows: Sequence[int]) -> None:
        going = set(rows)
        staying = [row for row in range(self.n_rows) if row not in going]
        with torch.inference_mode():
            self._read = self._read.selected(staying)
        self._rows = [self._rows[row] for row in staying]
        self._steering = None

    def change(self, row: int, variant: Variant) -> None:
        changed = [*self._rows]
        changed[row] = replace(changed[row], variant=variant)
        self._steering = self._steering_of(changed)
        self._rows = changed

    def kept(self, row: int) -> KeptRow:
        known = self._rows[row]
        layers = self._read.row(row)
        return KeptRow([*known.tokens], [keys for keys, _ in layers], [values for _, values in layers], [*known.pieces])

    def taken(self, rows: Sequence[int]) -> ModuleDecoder:
        decoder = ModuleDecoder(self.model)
        with torch.inference_mode():
            decoder._read = self._read.selected(rows)
        known = [self._rows[row] for row in rows]
        decoder._rows = [replace(row, tokens=[*row.tokens], pieces=[*row.pieces]) for row in known]
        return decoder

    def cosines(self) -> Tensor:
        return self._cosines

    def _steering_of(self, rows: Sequence[_Row | NewRow]) -> Steering:
        return Steering(self.model, [row.variant for row in rows], [row.probe for row in rows])

    def _prefill(self, read: KeyValues, rows: list[NewRow], starts: list[int]) -> tuple[Tensor, Tensor]:
        """Read each row's prompt from ``starts`` on into ``read``; logits of the next tokens, and the cosines."""
        unread = [row.prompt[start:] for row, start in zip(rows, starts, strict=True)]
        longest = max(map(len, unread))
        ids = torch.full((len(rows), longest), self.model.pad_token)
        for row, own in enumerate(unread):
            ids[row, longest - len(own) :] = torch.tensor(own)
        return self._forward(self._steering_of(rows), read, ids, [len(row.prompt) for row in rows])

    def _kept_together(self, rows: Sequence[tuple[KeptRow | None, int]]) -> KeyValues:
        """The first tokens of kept rows as one batch, padded on the left.

        Rows that keep nothing come among themselves.
        """
        parts = []
        for kept, n_tokens in rows:
            if kept is None or n_tokens == 0:
                return self._read.like()
            own = zip(kept.keys, kept.values, strict=True)
            layers = [(keys[None, :, :n_tokens], values[None, :, :n_tokens]) for keys, values in own]
            parts.append(self._read.like(layers, [n_tokens]))
        return parts[0].joined_with(parts[1:])

    def _forward(self, steering: Steering, read: KeyValues, ids: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """One pass over ``ids``, ``[rows, new tokens]``, behind what has been read, which is added to.

        Args:
            lengths: how many tokens each row has read afterwards; what a row is narrower than the widest, it is padded.
        """
        width = read.width + ids.shape[1]
        mask = positions = None
        if min(lengths) < width:  # without padding the plain causal path is faster, and the one `generate` takes
            columns, ends = torch.arange(width), torch.tensor(lengths)[:, None]
            mask = (columns >= width - ends).to(self.model.device)
            positions = (columns[-ids.shape[1] :] - (width - ends)).clamp_min(0).to(self.model.device)
        before = read.width
        try:
            with torch.inference_mode(), steering.applied():
                output: Any = self.model.model(
                    input_ids=ids.to(self.model.device),
                    attention_mask=mask,
                    position_ids=positions,
                    cache=read.cache,
                    use_cache=True,
                    logits_to_keep=last_positions(1, self.model.device),
                )
                logits, cosines = output.logits[:, -1], steering.cosines()
        except BaseException:
            read.crop(before)
            raise
        read.lengths = lengths
        return logits, cosines


def _joined_row(row: NewRow, start: int) -> _Row:
    pieces = [] if row.kept is None else [piece for piece in row.kept.pieces if piece < start]
    return _Row(row.variant, row.probe, [*row.prompt], [*pieces, start])
