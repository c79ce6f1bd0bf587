"""The usual alternative to a VL-JEPA: the same video encoder in front of a language model that writes the answer."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, VJEPA2Config, VJEPA2Model


IGNORED = -100


class GenerativeBaseline(nn.Module):
    """A language model that reads the tokens of a video, then a query, and writes the target.

    Args:
        vision_config: of the video encoder, which is trained.
        language_config: of the language model.
        tokenizer: of queries and targets, with tokens for the beginning and the end.
    """

    def __init__(self, vision_config: VJEPA2Config, language_config: LlamaConfig, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        self.vision_model = VJEPA2Model(vision_config)
        self.vision_model.predictor = None  # of masked tokens, which nobody asks for
        self.vision_projection = nn.Linear(vision_config.hidden_size, language_config.hidden_size)
        self.language_model = LlamaForCausalLM(language_config)
        self.tokenizer = tokenizer

    def forward(self, videos: torch.Tensor, queries: Sequence[str], targets: Sequence[str]) -> torch.Tensor:
        """The mean cross-entropy of the tokens of the targets; videos are (B, T, C, H, W)."""
        logits, labels = self._logits(self._seen(videos), queries, targets)
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def _seen(self, videos: torch.Tensor) -> torch.Tensor:
        tokens = self.vision_model(videos, skip_predictor=True).last_hidden_state
        return self.vision_projection(tokens)  # (B, N, D)

    def _logits(
        self, seen: torch.Tensor, queries: Sequence[str], targets: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For every place of the text the logits of its token, and that token where it belongs to the target."""
        rows, labels = [], []
        for query, target in zip(queries, targets, strict=True):
            asked, said = self._prompt(query), self._ids(target) + [self.tokenizer.eos_token_id]
            rows.append(torch.tensor(asked + said))
            labels.append(torch.tensor([IGNORED] * len(asked) + said))
        ids = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        labels = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        embeddings = torch.cat([seen, self.language_model.get_input_embeddings()(ids)], dim=1)
        # Padding lies behind all that is asked of, and tokens see only those before them.
        states = self.language_model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        before = states[:, seen.shape[1] - 1 : -1]  # of every token of the text
        return self.language_model.lm_head(before), labels

    def _prompt(self, query: str) -> list[int]:
        return self._ids(query) + [self.tokenizer.bos_token_id]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def rank(
        self, videos: torch.Tensor, queries: Sequence[str], candidates: Sequence[Sequence[str]], batch_size: int = 16
    ) -> list[str]:
        """Of each video's candidates the one whose tokens are the most likely on average."""
        best = []
        for start in tqdm(range(0, len(videos), batch_size), desc="baseline: candidates", unit="batch"):
            part = slice(start, start + batch_size)
            seen = self._seen(videos[part])
            sizes = [len(texts) for texts in candidates[part]]
            rows = seen.repeat_interleave(torch.tensor(sizes), dim=0)
            asked = [query for query, size in zip(queries[part], sizes, strict=True) for _ in range(size)]
            logits, labels = self._logits(rows, asked, [text for texts in candidates[part] for text in texts])
            losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # 0 where ignored
            means = losses.sum(dim=1) / (labels != IGNORED).sum(dim=1)
            scores = means.split(sizes)
            best += [texts[row.argmin()] for texts, row in zip(candidates[part], scores, strict=True)]
        return best

    @torch.inference_mode()
    def write(
        self, videos: torch.Tensor, queries: Sequence[str], max_new_tokens: int = 24, batch_size: int = 64
    ) -> list[str]:
        """The texts that it writes, token by token the most likely one."""
        texts = []
        for start in tqdm(range(0, len(videos), batch_size), desc="baseline: texts", unit="batch"):
            part = slice(start, start + batch_size)
            seen, prompts = self._seen(videos[part]), [torch.tensor(self._prompt(query)) for query in queries[part]]
            pad = self.tokenizer.pad_token_id
            ids = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left")
            # Blanks come first of all, so that nothing stands between a video and its query.
            embeddings, mask = [], []
            for video, row in zip(seen, ids, strict=True):
                text = row[row != pad]
                blank, words = len(row) - len(text), self.language_model.get_input_embeddings()(text)
                embeddings.append(torch.cat([video.new_zeros(blank, video.shape[1]), video, words]))
                mask.append(torch.cat([torch.zeros(blank), torch.ones(len(video) + len(text))]).long())
            ids = self.language_model.generate(
                inputs_embeds=torch.stack(embeddings),
                attention_mask=torch.stack(mask),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=pad,
            )
            texts += [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return texts
