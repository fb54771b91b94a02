"""What a model folder says about its texts: tokenizer, longest text, padding, pooling."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.errors import RequestError
from unfreeze.regular import MOST_ASSET, read_file, read_record
from unfreeze.runtime.files import parse_json
from unfreeze.runtime.preprocess import TextPreprocess

if TYPE_CHECKING:
    from unfreeze.backbones.hf import Pooling

# Long enough for most of what people classify, and the longest text of the default sentence encoder; the cost
# of attention grows with the square.
DEFAULT_MAX_LENGTH = 256
SHORTEST_MAX_LENGTH = 8
# Model types whose positions start behind the padding id, so that as many of them are never used.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")
# The poolings of sentence-transformers that have an equal here.
_SENTENCE_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
}


def read_pooling(folder: Path) -> tuple[Pooling | None, tuple[str, ...]]:
    """The pooling that a folder of sentence-transformers names, or None; and notes when it has no equal here.

    A normalisation behind the pooling is left out: a linear head learns more from the length than without it.
    """
    values = _read_json(folder / "1_Pooling" / "config.json")
    if not values:
        return None, ()
    modes = [key for key, on in values.items() if key.startswith("pooling_mode_") and on is True]
    if isinstance(values.get("pooling_mode"), str):
        modes = [values["pooling_mode"]]
    known = [_SENTENCE_POOLINGS[mode] for mode in modes if mode in _SENTENCE_POOLINGS]
    if len(modes) == 1 and known:
        return known[0], ()
    return None, (f"Its own pooling ({' and '.join(modes) or 'none'}) is not on offer here.",)


def read_tokenizer(folder: Path, *, name: str) -> bytes:
    """The folder's ``tokenizer.json`` without truncation and padding, which ``preprocess`` decides."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        text = read_file(path, most=MOST_ASSET).decode() if path.is_file() else _converted_tokenizer(folder)
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise RequestError(
            f"{name} has no tokenizer that can be read ({type(error).__name__}): it needs a tokenizer.json."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return str(tokenizer.to_str()).encode()


def max_tokens(folder: Path, config: Any, *, asked: int | None, name: str) -> int:
    """The longest text in tokens: what was asked for, else 256 or what model and tokenizer can take.

    Raises RequestError when more is asked for than the model has positions.
    """
    limits = [
        _positions(config),
        _number(_read_json(folder / "tokenizer_config.json").get("model_max_length")),
    ]
    limit = min((value for value in limits if value is not None), default=None)
    if asked is not None:
        if asked < SHORTEST_MAX_LENGTH or (limit is not None and asked > limit):
            most = f" and at most {limit}" if limit is not None else ""
            raise RequestError(
                f"The maximum length is {asked} tokens: {name} takes at least {SHORTEST_MAX_LENGTH}{most}."
            )
        return asked
    trained = _number(_read_json(folder / "sentence_bert_config.json").get("max_seq_length"))
    return min(value for value in (limit, trained, DEFAULT_MAX_LENGTH) if value is not None)


def text_preprocess(folder: Path, config: Any, tokenizer: bytes, *, max_length: int) -> TextPreprocess:
    """How texts are prepared for this model."""
    return TextPreprocess(
        max_length=max_length,
        pad_id=_pad_id(folder, config, tokenizer),
        tokenizer_hash=hashlib.sha256(tokenizer).hexdigest(),
    )


def _pad_id(folder: Path, config: Any, tokenizer: bytes) -> int:
    """The padding id: the tokenizer's, else the model's, else 0 (the mask hides it in any case)."""
    from tokenizers import Tokenizer

    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read_json(folder / file).get("pad_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            index = Tokenizer.from_str(tokenizer.decode()).token_to_id(content)
            if index is not None:
                return int(index)
    own = getattr(config, "pad_token_id", None)
    return int(own) if isinstance(own, int) and own >= 0 else 0


def _positions(config: Any) -> int | None:
    count = _number(getattr(config, "max_position_embeddings", None))
    if count is None or config.model_type not in _OFFSET_POSITIONS:
        return count
    return count - (config.pad_token_id or 0) - 1


def _converted_tokenizer(folder: Path) -> str:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return str(loaded.backend_tokenizer.to_str())


def _number(value: object) -> int | None:
    """A positive limit, or None; transformers writes 1e30 for 'no limit'."""
    return int(value) if isinstance(value, int | float) and 0 < value < 10**9 else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = parse_json(read_record(path))
    except ValueError as error:
        raise RequestError(f"{path} is not valid JSON: the model folder is damaged.") from error
    return values if isinstance(values, dict) else {}
