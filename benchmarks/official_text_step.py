"""A plain restatement of the official LLM-JEPA losses, written from their description, to measure against.

Every row is padded to one length, the logits of all rows and places are computed in float32, the states behind every
layer are kept, and the token of an embedding is looked for place by place.
"""

import torch
from torch import nn

from hf_jepa.data.text_pairs import TextPair


IGNORED = -100


def pad(rows: list[list[int]], value: int, length: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def used_places(rows: list[list[int]], length: int) -> torch.Tensor:
    return pad([[1] * len(row) for row in rows], 0, length)


def embedding_places(mask: torch.Tensor, last_token: int) -> list[int]:
    """Where the embedding of each row of a 2-D mask is read."""
    found = []
    for row in mask:
        end = len(row)
        while end > 0 and row[end - 1] == 0:
            end -= 1
        found.append(end + last_token)
    return found


class OfficialTextStep:
    """The loss of a batch of pairs, in three rows for each or in two.

    Args:
        language_model: any causal language model of transformers.
        pad_token_id: of empty places.
        length: of every row.
        last_token: from the end of a view to the token of its embedding, negative.
        additive_mask: both views in one row behind a mask that is added to the scores.
    """

    def __init__(self, language_model, pad_token_id: int, length: int, last_token: int, additive_mask: bool = False):
        self.language_model, self.pad_token_id, self.length = language_model, pad_token_id, length
        self.last_token, self.additive_mask = last_token, additive_mask

    def collate(self, pairs: list[TextPair]) -> dict[str, torch.Tensor]:
        """Rows, 2-D masks and labels of the conversations, the Text and the Code views, each (B, length)."""
        batch = {}
        for name, rows in (
            ("lm", [pair.input_ids for pair in pairs]),
            ("text", [pair.text_ids for pair in pairs]),
            ("code", [pair.code_ids for pair in pairs]),
        ):
            batch[f"{name}_ids"] = pad(rows, self.pad_token_id, self.length)
            batch[f"{name}_mask"] = used_places(rows, self.length)
        batch["labels"] = pad([pair.labels for pair in pairs], IGNORED, self.length)
        return batch

    def slots(self, batch: dict[str, torch.Tensor]) -> int:
        """Places that the language model computes."""
        return (2 if self.additive_mask else 3) * batch["lm_ids"].numel()

    def losses(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The language-model loss and the mean cosine distance of the embeddings."""
        rows = self._two_rows(batch) if self.additive_mask else self._three_rows(batch)
        text_places, code_places = rows.pop("text"), rows.pop("code")
        count = len(batch["labels"])
        nothing = torch.full_like(batch["labels"], IGNORED)
        labels = torch.cat([batch["labels"], *[nothing] * (len(rows["input_ids"]) // count - 1)])
        out = self.language_model(**rows, labels=labels, output_hidden_states=True)
        states = out.hidden_states[-1]
        text = states[range(count, 2 * count), text_places]
        code = states[range(len(states) - count, len(states)), code_places]
        return out.loss, 1 - nn.functional.cosine_similarity(text, code, dim=-1).mean()

    def _three_rows(self, batch):
        return {
            "input_ids": torch.cat([batch["lm_ids"], batch["text_ids"], batch["code_ids"]]),
            "attention_mask": torch.cat([batch["lm_mask"], batch["text_mask"], batch["code_mask"]]),
            "text": embedding_places(batch["text_mask"], self.last_token),
            "code": embedding_places(batch["code_mask"], self.last_token),
        }

    def _two_rows(self, batch):
        lm, text, code = (embedding_places(batch[f"{name}_mask"], self.last_token) for name in ("lm", "text", "code"))
        merged, count = batch["text_ids"].clone(), len(text)
        mask = torch.full((2 * count, 1, self.length, self.length), -torch.inf)
        code_ends = []
        for row in range(count):
            middle, end = text[row] + 1, text[row] + code[row] + 2
            merged[row, middle:end] = batch["code_ids"][row, : code[row] + 1]
            allow(mask[row, 0], 0, lm[row] + 1)
            allow(mask[count + row, 0], 0, middle)
            allow(mask[count + row, 0], middle, end)
            code_ends.append(end - 1)
        ids = torch.cat([batch["lm_ids"], merged])
        return {"input_ids": ids, "attention_mask": mask, "text": text, "code": code_ends}


def allow(mask: torch.Tensor, start: int, end: int) -> None:
    """Let the tokens of a sequence see those before them, and themselves."""
    size = end - start
    mask[start:end, start:end] = torch.full((size, size), -torch.inf).triu(diagonal=1)
